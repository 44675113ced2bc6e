"""What a person should look at before trusting a corpus: rules over the counts, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from openus.report.data import Facts
from openus.report.duplicates import Trouble

Weight = Literal["act", "look", "know"]
_MANY_REJECTED = 0.05  # share of a source's decoded frames
_MANY_FLAGGED = 0.10  # share of a source's samples
_MUCH_CUT = 0.6  # share of the frame cut away in the median
_MUCH_MASKED = 0.02  # share of the sector that cleaning masked, on average
_INFORMATIVE = ("sector-", "panels-")  # flags that describe, and accuse nobody


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `weight`: act (something is wrong), look (may be wrong), know (no fault, but mind it)."""

    weight: Weight
    source: str
    text: str


def checks(facts: Facts, bad: list[Trouble]) -> list[Check]:
    """All of them, the weightiest first."""
    found = [*_missing(facts), *_held_out(bad), *_audit(facts)]
    for source in facts.sources:
        found += _counts(facts, source)
        found += _samples(facts, source)
    order = {"act": 0, "look": 1, "know": 2}
    return sorted(found, key=lambda check: order[check.weight])


def _missing(facts: Facts) -> Iterator[Check]:
    for source, entry in facts.summary["missing"].items():
        steps = " ".join(f"({n}) {step}" for n, step in enumerate(entry["steps"], 1))
        yield Check(
            "act", source, f"not in the corpus: {entry['reason'].removeprefix(source + ': ')} {steps}".strip()
        )


def _held_out(bad: list[Trouble]) -> Iterator[Check]:
    for name in sorted({trouble.set for trouble in bad}):
        mine = [trouble for trouble in bad if trouble.set == name]
        yield Check(
            "look",
            "",
            f"held-out set {name}: {len(mine)} groups of copies disagree, shown under Held-out sets",
        )


def _audit(facts: Facts) -> Iterator[Check]:
    audit: Any = facts.summary.get("audit")
    if audit is None:
        yield Check(
            "look",
            "",
            "nobody looked for text and names left in it: run openus audit, then openus report again",
        )
        return
    said = ", ".join(f"{kind} {count:,}" for kind, count in sorted(audit["counts"].items()))
    if said:
        what = f"the audit searched {audit['searched']:,} of {audit['samples']:,} pictures and found: {said}"
        yield Check("act", "", f"{what}; see audit.png and the entry audit of corpus.json")


def _counts(facts: Facts, source: str) -> Iterator[Check]:
    entry = facts.entry(source)
    for note in entry["notes"]:
        yield Check("look", source, note)
    frames = entry["frames"]
    lost = {
        reason: n for reason, n in entry["rejected"].items() if reason not in ("policy", "duplicate", "leak")
    }
    if sum(lost.values()) > _MANY_REJECTED * max(1, frames["decoded"]):
        why = ", ".join(f"{reason} {n:,}" for reason, n in sorted(lost.items(), key=lambda item: -item[1]))
        yield Check(
            "look",
            source,
            f"{sum(lost.values()):,} of {frames['decoded']:,} decoded frames were refused: {why}",
        )
    if frames["kept"] == 0:
        yield Check("act", source, "not one picture of it was kept")
    if entry["licence"] == "unknown":
        yield Check("know", source, "its licence is unknown, so its pictures must not be passed on")
    elif entry["redistribution"] != "pixels":
        yield Check(
            "know",
            source,
            f"{entry['licence']}: its pictures must not be passed on changed, nor this page with them",
        )


def _samples(facts: Facts, source: str) -> Iterator[Check]:
    rows = facts.rows[facts.rows["source"] == source]
    if not len(rows):
        return
    if not (rows["patient"] != "").any():
        unit = "clips" if (rows["clip"] != "").any() else "duplicate clusters"
        yield Check("know", source, f"patients are unknown: splits go by {unit}")
    words = rows.loc[rows["flags"] != "", "flags"].str.split(",").explode().value_counts()
    for flag, count in words.items():
        if count > _MANY_FLAGGED * len(rows) and not str(flag).startswith(_INFORMATIVE):
            yield Check("look", source, f"{count:,} of {len(rows):,} samples are flagged {flag}")
    masked = float(rows["cleaned_fraction"].mean())
    if masked > _MUCH_MASKED:
        yield Check(
            "look", source, f"cleaning masked {masked:.1%} of the sector on average: look at the pictures"
        )
    cut = 1 - float(shares(rows).median())
    if cut > _MUCH_CUT:
        yield Check(
            "look", source, f"cropping took {cut:.0%} of the frame in the median: look at the sectors"
        )


def shares(rows: Any) -> Any:
    """Share of each row's source frame that was kept, float [N]."""
    areas = [box[2] * box[3] for box in rows["sector"]]
    return areas / (rows["source_width"] * rows["source_height"]).clip(lower=1)
