"""Duplicates as the report shows them: clusters with the joins that made them, sources against sources, leaks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pandas as pd

from openus.manifest import PRETRAIN
from openus.report.data import Facts

_SAME = "same pixels as "
_NEAR = "near copy ({:.2f}, {} bits) of {}"
_WORDS = re.compile(
    r"same pixels as |near copy \([^)]*\) of |\d+ bits from |more than \d+ frames of one clip, after "
)


@dataclass(frozen=True, slots=True)
class Join:
    """Two pictures that are taken for one: `left` was dropped, or stands beside `right` in a held-out set."""

    left: str
    right: str
    reason: str
    detail: str


@dataclass
class Group:
    """A duplicate cluster: positions of its kept rows, and the joins that lead to pictures that were dropped."""

    kept: list[int] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.kept) + sum(join.reason != "kept" for join in self.joins)


def groups(facts: Facts) -> list[Group]:
    """The clusters of more than one picture, largest first."""
    by_key: dict[str, Group] = defaultdict(Group)
    cluster: list[str] = facts.rows["cluster"].tolist()
    repeated = facts.rows["cluster"].duplicated(keep=False).to_numpy()
    for position in repeated.nonzero()[0].tolist():
        by_key[cluster[position]].kept.append(position)
    names: list[str] = facts.rows["name"].tolist()
    place = {name: at for at, name in enumerate(names)}
    for join in joins(facts):
        at = place.get(join.right)
        if at is None:
            continue
        group = by_key[cluster[at]]
        if not group.kept:
            group.kept.append(at)
        group.joins.append(join)
    found = [group for group in by_key.values() if group.size > 1]
    return sorted(found, key=lambda group: (-group.size, names[group.kept[0]]))


def joins(facts: Facts) -> list[Join]:
    """What was dropped as a duplicate, and of what; then the copies that stayed side by side (in held-out sets)."""
    gone = facts.rejected[facts.rejected["stage"] == "dedup"]
    found = []
    for source, member, index, reason, detail in zip(
        *(gone[name] for name in ("source", "member", "index", "reason", "detail")), strict=True
    ):
        found.append(Join(f"{source}/{member}#{index}", _named(detail), reason, detail))
    return found + _both_kept(facts)


def _both_kept(facts: Facts) -> list[Join]:
    table = facts.duplicates
    if table is None:
        return []
    both = table[(table["decision_a"] == "kept") & (table["decision_b"] == "kept")]
    return [
        Join(left, right, "kept", f"{_SAME}{right}" if kind == "exact" else _NEAR.format(score, bits, right))
        for left, right, kind, score, bits in zip(
            *(both[name] for name in ("name_b", "name_a", "kind", "score", "distance")), strict=True
        )
    ]


def _named(detail: str) -> str:
    """The sample that a join names: what follows the words of `rejected.parquet`, else the last word."""
    known = _WORDS.match(detail)
    return detail[known.end() :] if known else detail.rsplit(" ", 1)[-1]


def matrix(facts: Facts, found: list[Group]) -> tuple[list[str], list[list[int]]]:
    """Sources that share pictures, and how many pictures of each (row) repeat one of each (column)."""
    counts: Counter[tuple[str, str]] = Counter()
    source: list[str] = facts.rows["source"].tolist()
    for group in found:
        owner = source[group.kept[0]]
        for position in group.kept[1:]:
            counts[source[position], owner] += 1
        for join in (join for join in group.joins if join.reason != "kept"):
            counts[join.left.split("/", 1)[0], owner] += 1
    names = [name for name in facts.sources if any(name in pair for pair in counts)]
    return names, [[counts[row, column] for column in names] for row in names]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Pictures of a held-out set that are duplicates and should not be: what is wrong, and their rows."""

    set: str
    what: str
    rows: tuple[int, ...]


def troubles(facts: Facts, found: list[Group]) -> list[Trouble]:
    """Copies inside a held-out set that lie on both sides of the official split or carry different labels."""
    rows, bad = facts.rows, []
    of: list[str] = rows["set"].tolist()
    for group in found:
        held = [at for at in group.kept if of[at] != PRETRAIN]
        if len(held) < 2:
            continue
        name = of[held[0]]
        splits = sorted({str(rows["split"].iat[at]) for at in held} - {""})
        if len(splits) > 1:
            bad.append(
                Trouble(
                    name, f"in more than one part of the official split: {', '.join(splits)}", tuple(held)
                )
            )
        for label, values in sorted(_values(facts, held).items()):
            if len(values) > 1:
                bad.append(Trouble(name, f"label {label} differs: {', '.join(sorted(values))}", tuple(held)))
    return bad


def _values(facts: Facts, held: list[int]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for at in held:
        for label, value in facts.labels.get(str(facts.rows["key"].iat[at]), {}).items():
            if value:
                found[label].add(value)
    return found


def leaks(facts: Facts) -> pd.DataFrame:
    """Pretraining samples dropped because a held-out set holds them: source, held-out source, count."""
    gone = facts.rejected[(facts.rejected["stage"] == "dedup") & (facts.rejected["reason"] == "leak")]
    table = pd.DataFrame({"source": gone["source"], "of": [_owner(text) for text in gone["detail"]]})
    return table.value_counts(sort=False).rename("count").reset_index()


def _owner(detail: str) -> str:
    return detail.removeprefix(_SAME).split("/", 1)[0].rsplit(" ", 1)[-1]
