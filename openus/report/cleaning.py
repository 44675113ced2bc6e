"""Before and after: a seeded few pictures of each cleaned source, as they came and as they were stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openus.clean.area import shrink
from openus.clean.before import SIDE
from openus.decode.frame import Pixels
from openus.report.pictures import encode_sheet
from openus.storage.files import read_parquet, write_parquet

FOLDER, NAME = "report", "before.parquet"
_COLUMNS = 4  # pairs in a line of the sheet
_GAP = 6


def write_before(root: Path, rows: pa.Table) -> None:
    """Keep beside the report what `rows` (columns key, source, `before`) hold of pictures before cleaning."""
    path = root / FOLDER / NAME
    chosen = rows.select(["key", "source", "before"]).filter(pc.greater(pc.binary_length(rows["before"]), 0))
    if len(chosen):
        write_parquet(path, chosen.sort_by([("source", "ascending"), ("key", "ascending")]))
    else:
        path.unlink(missing_ok=True)


def read_before(root: Path) -> dict[str, dict[str, bytes]]:
    """Source to key to JPEG of the pictures before cleaning; empty where none were kept, or the file is damaged."""
    try:
        table = read_parquet(root / FOLDER / NAME)
    except (OSError, ValueError):
        return {}
    found: dict[str, dict[str, bytes]] = {}
    for source, key, data in zip(*(table[n].to_pylist() for n in ("source", "key", "before")), strict=True):
        found.setdefault(source, {})[key] = data
    return found


def in_place(row: Mapping[str, Any], stored: Pixels) -> Pixels:
    """The stored picture, uint8 [h, w], where it lay in its frame: as large as the picture before, grey elsewhere."""
    width, height = int(row["source_width"]), int(row["source_height"])
    scale = min(1.0, SIDE / max(width, height))
    canvas = np.full((max(1, round(height * scale)), max(1, round(width * scale))), 96, np.uint8)
    x, y, w, h = (round(int(value) * scale) for value in row["sector"])
    w, h = max(1, min(w, canvas.shape[1] - x)), max(1, min(h, canvas.shape[0] - y))
    smaller = stored.shape[1] >= w
    canvas[y : y + h, x : x + w] = shrink(stored, w, h) if smaller else cv2.resize(stored, (w, h))
    return canvas


def pair_sheet(pairs: Sequence[tuple[bytes, Pixels]]) -> bytes:
    """A PNG of (JPEG before, uint8 [H, W] after), each pair side by side in a cell of its own."""
    columns = min(_COLUMNS, len(pairs))
    lines = -(-len(pairs) // columns)
    wide, high = 2 * SIDE + _GAP, SIDE + _GAP
    firsts = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data, _ in pairs]
    colour = any(first is not None and first.ndim == 3 for first in firsts)
    page = np.full((lines * high, columns * (wide + 2 * _GAP), 3)[: 3 if colour else 2], 255, np.uint8)
    for number, (first, (_, after)) in enumerate(zip(firsts, pairs, strict=True)):
        top, left = number // columns * high, number % columns * (wide + 2 * _GAP)
        for shift, picture in ((0, first), (SIDE + _GAP, after)):
            if picture is not None:
                if colour and picture.ndim == 2:
                    picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
                place = page[top : top + picture.shape[0], left + shift : left + shift + picture.shape[1]]
                place[:] = picture
    return encode_sheet(page)
