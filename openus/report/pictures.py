"""Pictures of the report: read from the shards by their byte range, made small, put into the page as JPEG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from openus.clean import area
from openus.decode.frame import Pixels
from openus.shards.codecs import PNG
from openus.storage.pieces import read_piece

TILE = 148
_QUALITY = 70
_GAP = 4
_SHEET_COLUMNS = 8


class Shelf:
    """The shards of a corpus, for reading single pictures."""

    def __init__(self, root: Path, summary: Mapping[str, Any]) -> None:
        self._places: dict[tuple[str, str], Path] = {}
        for name, part in summary["sets"].items():
            for shard in part["shards"]:
                place = shard.get("url") or str(root / name / shard["file"])
                self._places[name, shard["file"]] = Path(place)

    def picture(self, row: Mapping[str, Any]) -> Pixels | None:
        """The grey picture of a row, uint8 [H, W]; None where its shard is elsewhere or its bytes are damaged."""
        place = self._places.get((row["set"], row["shard"]))
        try:
            data = read_piece(place or Path(row["shard"]), int(row["offset"]), int(row["size"]))
        except OSError:
            return None
        if not data:
            return None
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        return None if pixels is None else np.asarray(pixels, np.uint8)


def shrink(pixels: Pixels, side: int = TILE) -> Pixels:
    """The picture, uint8 [H, W], made to fit a square of `side` pixels; never enlarged."""
    scale = side / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return area.shrink(pixels, *size)


def data_uri(pixels: Pixels) -> str:
    """A grey picture, uint8 [H, W], as an address that holds its bytes (JPEG)."""
    block = np.ascontiguousarray(pixels)[:, :, None]
    data = simplejpeg.encode_jpeg(block, quality=_QUALITY, colorspace="GRAY", fastdct=False)
    return jpeg_uri(data)


def jpeg_uri(data: bytes) -> str:
    """A JPEG file as an address that holds its bytes."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def sheet(tiles: Sequence[Pixels], side: int = TILE) -> bytes:
    """A contact sheet as PNG: tiles, each uint8 [h, w] of at most `side` pixels, centred on black squares."""
    columns = min(_SHEET_COLUMNS, max(1, len(tiles)))
    lines = -(-len(tiles) // columns)
    step = side + _GAP
    page = np.full((max(1, lines) * step - _GAP, columns * step - _GAP), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * step, number % columns * step
        page[top : top + side, left : left + side] = 0
        height, width = tile.shape
        y, x = top + (side - height) // 2, left + (side - width) // 2
        page[y : y + height, x : x + width] = tile
    return encode_sheet(page)


def encode_sheet(page: Pixels) -> bytes:
    """uint8 [H, W] or [H, W, 3] BGR as PNG."""
    done, buffer = cv2.imencode(".png", page, PNG)
    if not done:
        raise ValueError(f"cannot encode a contact sheet of {page.shape}")
    return bytes(buffer)
