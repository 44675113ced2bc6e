"""`openus audit`: a built corpus, looked at the way a privacy officer would.

Three questions: is there text left in the pictures, do attributes of the rows look like they identify someone,
do the paths of the sources hold names or dates. Every finding is a reason to look, not a verdict. What is found
goes into `corpus.json` under "audit", pictures of it into `audit.png`; recognised text goes nowhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openus import __version__, console
from openus.clean.shapes import Box
from openus.clean.text import find_text, may_hold_text
from openus.commands.progress import reporter
from openus.decode.frame import Pixels
from openus.shards.corpus import NAME, read_corpus, save_corpus, sets_digest, shard_path
from openus.shards.keep import keep_anew, kept_digests
from openus.shards.pack import MASK
from openus.storage.files import read_parquet, write_bytes
from openus.storage.pieces import read_piece

SHEET = "audit.png"
_SHOWN, _SIDE, _ACROSS = 48, 240, 6  # pictures on the sheet, pixels of a side of each, pictures in a line
_LISTED = 200  # findings of a kind that are listed one by one; all are counted
_COLUMNS = ["key", "shard", "offset", "size", "source", "member", "clip", "patient", "labels"]

_PATHS = {
    "date": re.compile(r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)"),
    "word-for-identity": re.compile(r"(?i)(?<![a-z])(?:mrn|ssn|dob|surname|firstname|lastname)(?![a-z])"),
    "name": re.compile(r"(?<![A-Za-z])[A-Z][a-z]{2,}(?:\^|, ?)[A-Z][a-z]+"),
    "e-mail": re.compile(r"[\w.]+@[\w-]+\.[a-z]{2,}"),
}
_ATTRIBUTES = re.compile(
    r"(?i)name|birth|dob|address|phone|e-?mail|mrn|accession|physician|operator|institution"
)


@dataclass
class Audit:
    """What was looked at and found. Lists hold at most `_LISTED` entries; `counts` counts all findings.
    `of` names the shards that were looked at (`sets_digest`); `sources` tells of how many pictures of each source that
    were searched hold text."""

    openus: str = __version__
    of: str = ""
    seed: int = 0
    samples: int = 0
    searched: int = 0
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    text: list[dict[str, Any]] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)
    paths: list[dict[str, str]] = field(default_factory=list)


def audit(
    root: Path,
    *,
    sample: int = 300,
    seed: int = 0,
    looked: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Audit, list[tuple[str, Pixels, list[Box]]]]:
    """Look at every row, and search `sample` seeded pictures for text, as many of each source; `looked` hears of each
    picture: (1, how many there are).

    Returns:
        the findings, and (key, uint8 [H, W], boxes) of the pictures that still hold text.

    Raises:
        CorpusError: `root` holds no corpus this version can read.
        MissingExtraError: the extra `text` is not installed.
    """
    summary = read_corpus(root)
    rows = _rows(root, summary)
    found = Audit(of=sets_digest(summary), seed=seed, samples=len(rows))
    counts: Counter[str] = Counter()
    for row in rows:
        _look_at_row(row, found, counts)
    chosen = _choose(rows, sample, seed)
    pictures = []
    for row in (rows[i] for i in sorted(chosen)):
        pixels = _picture(row)
        boxes = find_text(pixels) if may_hold_text(pixels) else []
        tally = found.sources.setdefault(row["source"], {"searched": 0, "text": 0})
        tally["searched"] += 1
        if boxes:
            counts["text"] += 1
            tally["text"] += 1
            pictures.append((row["key"], pixels, boxes))
            if len(found.text) < _LISTED:
                found.text.append(
                    {"key": row["key"], "source": row["source"], "boxes": [list(b) for b in boxes]}
                )
        looked(1, len(chosen))
    found.searched = len(chosen)
    found.counts = dict(sorted(counts.items()))
    return found, pictures


def audit_corpus(root: Path, *, sample: int, seed: int, quiet: bool, as_json: bool) -> None:
    """Audit a corpus, record the result in its `corpus.json` and `audit.png`, and print it."""
    with reporter(quiet or as_json, "pictures") as report:
        found, pictures = audit(
            root, sample=sample, seed=seed, looked=lambda done, total: report("search", done, total)
        )
    sheet = root / SHEET
    sheet.unlink(missing_ok=True)
    if pictures:
        write_bytes(sheet, contact_sheet(pictures[:_SHOWN]))
    summary = read_corpus(root)
    summary["audit"] = asdict(found)
    whole = hashlib.sha256((root / NAME).read_bytes()).hexdigest() == kept_digests(root).get(NAME)
    save_corpus(root, summary)
    if whole:  # else `openus repair` is to find what was damaged before
        keep_anew(root, [NAME])
    if as_json:
        console.print_json(asdict(found))
        return
    say = console.out.print
    say(
        f"{root}: {found.searched:,} of {found.samples:,} pictures searched for text, every row read",
        markup=False,
    )
    shown = f"{_SHOWN} of them in" if len(pictures) > _SHOWN else "see"
    say(
        f"  with text left: {found.counts.get('text', 0):,}" + (f", {shown} {sheet}" if pictures else ""),
        markup=False,
        soft_wrap=True,
    )
    for source, tally in sorted(found.sources.items(), key=lambda item: (-item[1]["text"], item[0])):
        if tally["text"] and not quiet:
            say(f"    {source}: {tally['text']:,} of {tally['searched']:,}", markup=False)
    for kind, entries in (("attributes", found.attributes), ("paths", found.paths)):
        say(
            f"  suspicious {kind}: {sum(n for k, n in found.counts.items() if k.startswith(kind)):,}",
            markup=False,
        )
        if not quiet:
            for entry in entries[:10]:
                say(
                    f"    {entry['source']}: {entry['member']} ({entry['why']})", markup=False, soft_wrap=True
                )


def _rows(root: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, part in summary["sets"].items():
        if name.endswith(MASK):
            continue
        for shard in part["shards"]:
            path = shard_path(root, name, shard)
            table = read_parquet(root / "manifest" / shard["manifest"], _COLUMNS)
            rows += [row | {"set": name, "path": path} for row in table.to_pylist()]
    return rows


def _choose(rows: list[dict[str, Any]], sample: int, seed: int) -> list[int]:
    """Places of `sample` rows: sources take turns, so that a large one hides no small one, and their clips, too."""
    seen: Counter[tuple[str, str]] = Counter()
    turns: dict[str, list[tuple[int, int]]] = {}
    for place in map(int, np.random.default_rng(seed).permutation(len(rows))):
        source, clip = rows[place]["source"], rows[place]["clip"]
        turns.setdefault(source, []).append((seen[source, clip] if clip else 0, place))
        seen[source, clip] += 1
    order = sorted(
        (turn, source, place)
        for source, places in turns.items()
        for turn, (_, place) in enumerate(sorted(places, key=lambda item: item[0]))
    )
    return [place for _, _, place in order[:sample]]


def _look_at_row(row: dict[str, Any], found: Audit, counts: Counter[str]) -> None:
    where = {"key": row["key"], "source": row["source"], "member": row["member"]}
    for why, pattern in _PATHS.items():
        if pattern.search(row["member"]):
            counts[f"paths-{why}"] += 1
            if len(found.paths) < _LISTED:
                found.paths.append(where | {"why": why})
    suspects = [f"label {label}" for label, _ in row["labels"] if _ATTRIBUTES.search(label)]
    values = [("patient", row["patient"]), *((f"label {label}", value) for label, value in row["labels"])]
    suspects += [
        f"{field_name} looks like a {why}"
        for field_name, value in values
        for why, pattern in _PATHS.items()
        if pattern.search(value)
    ]
    for why in suspects:
        counts[f"attributes-{why}"] += 1
        if len(found.attributes) < _LISTED:
            found.attributes.append(where | {"why": why})


def _picture(row: dict[str, Any]) -> Pixels:
    data = read_piece(row["path"], row["offset"], row["size"])
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)


def contact_sheet(pictures: list[tuple[str, Pixels, list[Box]]]) -> bytes:
    """A PNG of pictures with their boxes drawn in, each in a square of `_SIDE` pixels with its key below."""
    tiles = []
    for key, pixels, boxes in pictures:
        scale = _SIDE / max(pixels.shape)
        shown = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        for x, y, w, h in boxes:
            cv2.rectangle(shown, (x - 1, y - 1), (x + w, y + h), (0, 0, 255), 1)
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        small = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
        tile = np.full((_SIDE + 16, _SIDE, 3), 32, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small
        cv2.putText(
            tile, key, (2, _SIDE + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1, cv2.LINE_AA
        )
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 32)] * (-len(tiles) % _ACROSS)
    rows = [np.hstack(tiles[i : i + _ACROSS]) for i in range(0, len(tiles), _ACROSS)]
    return bytes(cv2.imencode(".png", np.vstack(rows))[1])
