"""Writing the report: facts and pictures into one page and a folder of contact sheets."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from openus.decode.frame import Pixels
from openus.errors import CorpusError
from openus.manifest import PRETRAIN
from openus.report.charts import histogram
from openus.report.checks import checks, shares
from openus.report.cleaning import in_place, pair_sheet, read_before
from openus.report.data import Facts, choose, read_facts, records
from openus.report.duplicates import Group, groups, leaks, matrix, troubles
from openus.report.pictures import Shelf, data_uri, jpeg_uri, sheet, shrink
from openus.storage.files import write_bytes

PAGE = "report.html"
LIMIT = 15_000_000
"""Bytes that the page must not exceed: mail and browsers take it whole."""
_TILES = 24  # pictures of a source, where there are few sources
_ALL_TILES = 1200  # of all sources together
_LEAST_TILES = 6
_ALL_PAIRS = 200  # pictures before and after cleaning, of all sources together
_LEAST_PAIRS = 4
_CLUSTERS = 12
_CLUSTER_TILES = 6
_TROUBLES = 12


@dataclass(frozen=True)
class Written:
    """What was written: the page, its bytes, the contact sheets beside it, pictures in it, things to look at."""

    page: Path
    bytes: int
    sheets: tuple[Path, ...]
    pictures: int
    checks: int


def write_report(root: Path, seed: int = 0) -> Written:
    """Write `root`/report.html and the sheets `root`/report/contact-SOURCE.png and cleaning-SOURCE.png; the same bytes
    for the same corpus and seed.

    Raises:
        CorpusError: no corpus, a damaged one, or a page above `LIMIT`.
    """
    facts = read_facts(root)
    shelf = Shelf(root, facts.summary)
    each = max(_LEAST_TILES, min(_TILES, _ALL_TILES // max(1, len(facts.sources))))
    before = read_before(root)
    pairs = max(_LEAST_PAIRS, _ALL_PAIRS // max(1, len(before)))
    sources, sheets = [], {}
    for source in facts.sources:
        view, tiles = _source(facts, shelf, source, each, seed)
        sources.append(view)
        if tiles:
            sheets[f"contact-{source}.png"] = sheet(tiles)
        cleaned = _pairs(facts, shelf, source, before.get(source, {}))
        view["pairs"], view["pair_count"] = [pair for pair, _ in cleaned[:pairs]], len(cleaned)
        if cleaned:
            sheets[f"cleaning-{source}.png"] = pair_sheet([pictures for _, pictures in cleaned])
    found = groups(facts)
    bad = troubles(facts, found)
    todo = checks(facts, bad)
    most = slice(_CLUSTER_TILES)
    shown = _rows(
        facts, [*(group.kept for group in found[:_CLUSTERS]), *(t.rows[most] for t in bad[:_TROUBLES])]
    )
    names, counts = matrix(facts, found)
    view = {
        "title": facts.summary["corpus"].get("title") or facts.summary["corpus"].get("name", root.name),
        "summary": facts.summary,
        "sources": sources,
        "totals": _totals(facts),
        "checks": todo,
        "clusters": [_cluster(shelf, group, shown) for group in found[:_CLUSTERS]],
        "cluster_count": len(found),
        "matrix": {"names": names, "counts": counts},
        "leaks": leaks(facts).to_dict("records"),
        "troubles": [
            {
                "set": t.set,
                "what": t.what,
                "tiles": [_tile(shelf, shown[at]) for at in t.rows[most]],
            }
            for t in bad[:_TROUBLES]
        ],
        "trouble_count": len(bad),
        "held_out": sorted(set(facts.rows["set"].unique()) - {PRETRAIN}),
    }
    page = template("page.html").render(view).encode()
    if len(page) > LIMIT:
        raise CorpusError(f"{root / PAGE}: {len(page):,} bytes, more than {LIMIT:,}; please report it")
    folder = root / "report"
    for old in [*folder.glob("contact-*.png"), *folder.glob("cleaning-*.png")]:
        if old.name not in sheets:
            old.unlink()
    for name, data in sheets.items():
        write_bytes(folder / name, data)
    write_bytes(root / PAGE, page)
    pictures = page.count(b"data:image/jpeg;base64,")
    return Written(root / PAGE, len(page), tuple(folder / name for name in sheets), pictures, len(todo))


@functools.cache
def template(name: str) -> jinja2.Template:
    """The template of a page, a file of this folder."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _totals(facts: Facts) -> dict[str, Any]:
    rows, summary = facts.rows, facts.summary
    known = rows[rows["patient"] != ""]
    clips = rows[rows["clip"] != ""]
    return {
        "samples": len(rows),
        "sources": len(facts.sources),
        "patients": known.groupby(["source", "patient"]).ngroups,
        "clips": clips.groupby(["source", "clip"]).ngroups,
        "bytes": sum(shard["bytes"] for part in summary["sets"].values() for shard in part["shards"]),
        "refused": int((facts.rejected["stage"] != "select").sum()),
        "sets": sorted(rows["set"].unique()),
        "anatomies": sorted(rows["anatomy"].unique()),
    }


def _source(
    facts: Facts, shelf: Shelf, source: str, count: int, seed: int
) -> tuple[dict[str, Any], list[Any]]:
    """What the page shows of one source, and the tiles of its contact sheet."""
    entry = facts.entry(source)
    rows = facts.rows[facts.rows["source"] == source]
    tiles, grey = [], []
    shown: list[dict[str, Any]] = []
    for row in records(choose(rows, count, seed)):
        pixels = shelf.picture(row)
        if pixels is None:
            continue
        grey.append(float(pixels.mean()))
        tile = shrink(pixels)
        tiles.append(tile)
        shown.append({"uri": data_uri(tile), **_facts(row)})
    view = {
        "slug": source,
        "entry": entry,
        "anatomy": rows["anatomy"].iloc[0] if len(rows) else "",
        "tiles": shown,
        "funnel": _funnel(entry),
        "charts": _charts(rows, np.asarray(grey)) if len(rows) else [],
        "flags": _flags(rows),
        "cut": float(1 - shares(rows).median()) if len(rows) else 0.0,
        "masked": float(rows["cleaned_fraction"].mean()) if len(rows) else 0.0,
        "text_boxes": int(rows["text_boxes"].clip(lower=0).sum()),
    }
    return view, tiles


def _pairs(
    facts: Facts, shelf: Shelf, source: str, before: Mapping[str, bytes]
) -> list[tuple[dict[str, Any], tuple[bytes, Pixels]]]:
    """Pictures before and after cleaning, those most altered first: what the page says of each, and the two."""
    rows = facts.rows[(facts.rows["source"] == source) & facts.rows["key"].isin(list(before))]
    found = []
    for row in records(rows.sort_values(["cleaned_fraction", "key"], ascending=[False, True])):
        pixels = shelf.picture(row)
        if pixels is None:
            continue
        after = in_place(row, pixels)
        first = before[row["key"]]
        pair = {"before": jpeg_uri(first), "after": data_uri(after), **_facts(row)}
        found.append((pair, (first, after)))
    return found


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    x, y, width, height = (int(value) for value in row["sector"])
    return {
        "name": f"{row['member']}#{row['index']}" if row["kind"] != "image" else row["member"],
        "key": row["key"],
        "size": f"{row['width']} × {row['height']}",
        "frame": f"{row['source_width']} × {row['source_height']}",
        "sector": f"{width} × {height} at ({x}, {y})",
        "masked": float(row["cleaned_fraction"]),
        "text_boxes": int(row["text_boxes"]),
        "flags": row["flags"],
        "set": row["set"],
        "anatomy": row["anatomy"],
        "source": row["source"],
        "split": row["split"],
    }


def _funnel(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Files and frames as shares of what was found: kept, and what went why."""
    members, frames = entry["members"], entry["frames"]
    announced = max(1, frames["announced"], frames["decoded"])
    policy = max(0, frames["announced"] - frames["decoded"])
    return {
        "files": {"found": members["found"], "selected": members["selected"]},
        "files_share": members["selected"] / max(1, members["found"]),
        "announced": frames["announced"],
        "decoded": frames["decoded"],
        "kept": frames["kept"],
        "kept_share": frames["kept"] / announced,
        "refused_share": frames["rejected"] / announced,
        "policy_share": policy / announced,
        "refused": sorted(
            ((why, n) for why, n in entry["rejected"].items() if why != "policy"), key=lambda item: -item[1]
        ),
    }


def _charts(rows: Any, grey: np.ndarray) -> list[tuple[str, str]]:
    short = np.minimum(rows["source_width"].to_numpy(), rows["source_height"].to_numpy())
    shape = np.array([box[2] / max(1, box[3]) for box in rows["sector"]])
    return [
        ("short side of the source's frames", histogram(short, unit=" px")),
        (f"mean grey level ({len(grey)} pictures)", histogram(grey)),
        ("width over height of what was kept", histogram(shape)),
    ]


def _flags(rows: Any) -> list[tuple[str, int, float]]:
    words: Counter[str] = Counter()
    for text, count in rows["flags"].value_counts().items():
        for word in filter(None, str(text).split(",")):
            words[word] += int(count)
    return [
        (word, count, count / len(rows)) for word, count in sorted(words.items(), key=lambda i: (-i[1], i[0]))
    ]


def _rows(facts: Facts, places: Sequence[Sequence[int]]) -> dict[int, dict[str, Any]]:
    """The rows of all these places, taken at once: pandas takes as long for one."""
    chosen = sorted({at for part in places for at in part})
    return dict(zip(chosen, records(facts.rows.iloc[chosen]), strict=True))


def _tile(shelf: Shelf, row: Mapping[str, Any]) -> dict[str, Any]:
    pixels = shelf.picture(row)
    return {"uri": "" if pixels is None else data_uri(shrink(pixels)), **_facts(row)}


def _cluster(shelf: Shelf, group: Group, shown: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    rows = [shown[at] for at in group.kept]
    sources = {*(row["source"] for row in rows), *(join.left.split("/", 1)[0] for join in group.joins)}
    return {
        "size": group.size,
        "tiles": [_tile(shelf, row) for row in rows[:_CLUSTER_TILES]],
        "joins": group.joins[:_CLUSTER_TILES],
        "more": max(0, len(group.joins) - _CLUSTER_TILES),
        "sources": sorted(sources),
        "sets": sorted({row["set"] for row in rows}),
        "anatomies": sorted({row["anatomy"] for row in rows}),
    }
