"""Draws docs/images/house.svg, the house as one picture: ``python docs/make_house.py``; ``--check`` compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape

from written import DOCS, write_or_check

WIDE, HIGH, GAP = 136, 58, 74
LEFT, STEP = 26, WIDE + GAP
FLOORS = {"openus": (26, "#e8f1f2", "#1f6f78"), "usfmae": (332, "#f6efe3", "#8a5a14")}

# room: (column, y, what it holds, floor or "" for what lies between)
ROOMS = {
    "manifests": (0, 70, "46 datasets in YAML", "openus"),
    "hosts": (1, 70, "where files lie", "openus"),
    "transfer": (2, 70, "bytes, checked", "openus"),
    "archives": (3, 70, "members, safely", "openus"),
    "decode": (4, 70, "pixels, by content", "openus"),
    "clean": (4, 196, "grey, sector, text", "openus"),
    "dedup": (3, 196, "copies, leaks", "openus"),
    "shards": (2, 196, "tar + Parquet", "openus"),
    "corpus folder": (1, 196, "on disk or in storage", ""),
    "publish": (0, 196, "what licences allow", "openus"),
    "stream": (1, 376, "exact, resumable", "usfmae"),
    "train": (2, 376, "loop, checkpoints", "usfmae"),
    "model": (2, 496, "masked autoencoder", "usfmae"),
    "tasks": (3, 376, "fine-tune, score", "usfmae"),
    "you": (4, 376, "scores, pictures", ""),
}
# from, to, what is handed on
HANDS = (
    ("manifests", "hosts", "Source"),
    ("hosts", "transfer", "RemoteFile"),
    ("transfer", "archives", "file"),
    ("archives", "decode", "Member"),
    ("decode", "clean", "Frame"),
    ("clean", "dedup", "Frame"),
    ("dedup", "shards", "keep/drop"),
    ("shards", "corpus folder", "rows"),
    ("corpus folder", "publish", "by class"),
    ("corpus folder", "stream", "byte ranges"),
    ("stream", "train", "uint8"),
    ("model", "train", "network"),
    ("train", "tasks", "weights"),
    ("tasks", "you", ""),
)


def picture() -> str:
    """The whole drawing as SVG."""
    width = LEFT + 4 * STEP + WIDE + LEFT + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 590" role="img" '
            'font-family="system-ui, Helvetica, Arial, sans-serif" text-anchor="middle">',
            "<title>The rooms of openus and usfmae, and what each hands on</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>',
            f'<rect width="{width}" height="590" fill="#fff"/>',
            *_floors(width),
            *_hands(),
            *_rooms(),
            "</svg>\n",
        ]
    )


def _floors(width: int) -> Iterator[str]:
    for name, (top, paper, ink) in FLOORS.items():
        height = 252 if name == "openus" else 242
        yield f'<rect x="8" y="{top}" width="{width - 16}" height="{height}" rx="10" fill="{paper}"/>'
        yield (
            f'<text x="22" y="{top + 26}" text-anchor="start" font-size="17" font-weight="700" fill="{ink}">'
            f"{name}</text>"
        )


def _rooms() -> Iterator[str]:
    for name, (column, y, holds, floor) in ROOMS.items():
        x = LEFT + column * STEP
        ink = FLOORS[floor][2] if floor else "#444"
        dash = "" if floor else ' stroke-dasharray="5 3"'
        yield (
            f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7" fill="#fff" stroke="{ink}" '
            f'stroke-width="1.5"{dash}/>'
        )
        middle = x + WIDE // 2
        yield f'<text x="{middle}" y="{y + 25}" font-size="15" font-weight="600" fill="#222">{escape(name)}</text>'
        yield f'<text x="{middle}" y="{y + 44}" font-size="12" fill="#555">{escape(holds)}</text>'


def _hands() -> Iterator[str]:
    for giver, taker, thing in HANDS:
        (from_column, from_y, *_), (to_column, to_y, *_) = ROOMS[giver], ROOMS[taker]
        if from_column == to_column:  # up or down
            x = LEFT + from_column * STEP + WIDE // 2
            down = to_y > from_y
            ends = (x, from_y + HIGH * down, x, to_y + HIGH * (not down) + (-2 if down else 2))
            label = f'x="{x + 8}" y="{(ends[1] + ends[3]) // 2 + 4}" text-anchor="start"'
        else:
            right = to_column > from_column
            start = LEFT + from_column * STEP + WIDE * right
            end = LEFT + to_column * STEP + WIDE * (not right)
            ends = (start, from_y + HIGH // 2, end + (-2 if right else 2), to_y + HIGH // 2)
            label = f'x="{(start + end) // 2}" y="{from_y + HIGH // 2 - 7}"'
        yield (
            f'<line x1="{ends[0]}" y1="{ends[1]}" x2="{ends[2]}" y2="{ends[3]}" stroke="#555" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
        if thing:
            yield f'<text {label} font-size="12" fill="#333">{escape(thing)}</text>'


if __name__ == "__main__":
    sys.exit(write_or_check(DOCS / "images" / "house.svg", picture))
