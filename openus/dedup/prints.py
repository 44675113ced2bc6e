"""Fingerprints: the hashes by which a picture is found again after it was resized, cropped, framed or written on.

One perceptual hash survives resizing, re-encoding, squashing and gamma, but a crop of a few per cent moves a third
of its bits. So a picture has two kinds of hashes. Those of the *index* describe it as it stands: whole, and without
its uniform border; each twice, plainly and with thin bright strokes (text, calipers) opened away. Its *views* are
hashes of windows in it, as a crop would have them. A copy of A that was cropped matches, as a whole, a view of A;
one that was framed matches, without its border, A without its border.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.clean.area import shrink
from openus.decode.frame import Pixels

Box = tuple[float, float, float, float]
"""Top, bottom, left, right as fractions of a picture's height and width."""

WHOLE: Box = (0.0, 1.0, 0.0, 1.0)
RADIUS = 27
"""Bits (of 256) within which two fingerprints are candidates: of 2,600 real pictures none of another patient is
within 44, and the copies that `benchmarks/dedup.py` makes are within 24 in 98 of 100 cases and more."""

_LOW = 16  # frequencies a side
_GRID = 64  # samples a side that the transform sees
_FINE = 128  # side at which strokes are opened away
_STROKE = 5  # pixels of the fine grid: strokes up to 4 of 128 vanish
_LIT = 12  # grey levels (0-255) above black, or off a uniform border, from which a pixel counts as content
_UNIFORM = 0.9  # share of a picture's outermost pixels that must be alike to make them a border
_LIT_SHARE = 0.02  # share of lit pixels that makes a row or column content


def _windows() -> tuple[Box, ...]:
    """Windows of 95 % (offsets of 1.25 %) and of 90 % of a side (offsets of 5 %)."""
    found = []
    for side, steps in ((0.95, 5), (0.90, 3)):
        offsets = [(1 - side) * step / (steps - 1) for step in range(steps)]
        found += [(y, y + side, x, x + side) for y, x in product(offsets, offsets)]
    return tuple(found)


WINDOWS = _windows()
INDEX_HASHES = 4
VIEWS = 2 * len(WINDOWS)


def content_box(pixels: Pixels) -> Box:
    """The part of uint8 [H, W] inside its dark or uniform border; the whole where that would be a sliver."""
    ring = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    level = int(np.median(ring))
    lit = pixels > _LIT
    if level > _LIT and _beyond(ring, level).mean() <= 1 - _UNIFORM:
        lit = _beyond(pixels, level)
    height, width = pixels.shape
    rows = np.flatnonzero(np.count_nonzero(lit, axis=1) > _LIT_SHARE * width)
    columns = np.flatnonzero(np.count_nonzero(lit, axis=0) > _LIT_SHARE * height)
    if len(rows) < max(8, height // 8) or len(columns) < max(8, width // 8):
        return WHOLE
    return rows[0] / height, (rows[-1] + 1) / height, columns[0] / width, (columns[-1] + 1) / width


def _beyond(pixels: Pixels, level: int) -> NDArray[np.bool_]:
    return (pixels < max(0, level - _LIT)) | (pixels > min(255, level + _LIT))


def cut(pixels: Pixels, box: Box) -> Pixels:
    """The box of a picture, on whole pixels, at least one."""
    height, width = pixels.shape
    top, left = min(height - 1, round(box[0] * height)), min(width - 1, round(box[2] * width))
    return pixels[top : max(top + 1, round(box[1] * height)), left : max(left + 1, round(box[3] * width))]


def inside(outer: Box, inner: Box) -> Box:
    """`inner`, given as fractions of `outer`, as fractions of the picture."""
    high, wide = outer[1] - outer[0], outer[3] - outer[2]
    return (
        outer[0] + inner[0] * high,
        outer[0] + inner[1] * high,
        outer[2] + inner[2] * wide,
        outer[2] + inner[3] * wide,
    )


def index_box(content: Box, number: int) -> Box:
    """What hash `number` of the index describes, of a picture with that `content`."""
    return content if number & 1 else WHOLE


def view_box(content: Box, number: int) -> Box:
    """The window that query `number` describes: first the views, then the hashes of the index."""
    if number >= VIEWS:
        return index_box(content, number - VIEWS)
    return inside(content if number >= len(WINDOWS) else WHOLE, WINDOWS[number % len(WINDOWS)])


def fingerprint(pixels: Pixels) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Hashes of uint8 [H, W]: index uint8 [4, 32] (whole, content; the same with strokes opened away), and
    views uint8 [68, 32] (windows of the whole, windows of the content)."""
    index = np.empty((INDEX_HASHES, 32), np.uint8)
    views = np.empty((VIEWS, 32), np.uint8)
    content = content_box(pixels)
    for number, box in enumerate((WHOLE, content)):
        piece = slice(number * len(WINDOWS), (number + 1) * len(WINDOWS))
        if number and content == WHOLE:
            index[number::2], views[piece] = index[0::2], views[: len(WINDOWS)]
            break
        part = cut(pixels, box)
        plain = shrink(part, _GRID, _GRID)
        index[number] = _hashes(plain, (WHOLE,))[0]
        views[piece] = _hashes(plain, WINDOWS)
        stroke = np.ones((_STROKE, _STROKE), np.uint8)
        opened = cv2.morphologyEx(shrink(part, _FINE, _FINE), cv2.MORPH_OPEN, stroke)
        index[number + 2] = _hashes(np.asarray(opened, np.uint8), (WHOLE,))[0]
    return index, views


def _hashes(square: Pixels, windows: tuple[Box, ...]) -> NDArray[np.uint8]:
    """256-bit hashes of windows: the low frequencies of each against their median, the mean left out."""
    spans, top, left = _spans(windows)
    transforms = np.stack([_transform(*span, len(square)) for span in spans])
    # Windows share their spans: each is transformed once along either side, all windows by one product.
    rows = transforms @ square.astype(np.float32)
    low = (rows[top] @ transforms[left].swapaxes(1, 2)).reshape(len(windows), _LOW * _LOW)
    middle = (_LOW * _LOW - 1) // 2
    median = np.partition(low[:, 1:], middle, axis=1)[:, middle, None]
    return np.packbits(low > median, axis=1)


@cache
def _spans(windows: tuple[Box, ...]) -> tuple[tuple[tuple[float, float], ...], list[int], list[int]]:
    """The different spans of windows along a side, and of each window which it has from top to bottom and across."""
    spans = tuple(dict.fromkeys(span for box in windows for span in (box[:2], box[2:])))
    places = {span: place for place, span in enumerate(spans)}
    return spans, [places[box[:2]] for box in windows], [places[box[2:]] for box in windows]


@cache
def _transform(start: float, stop: float, side: int) -> NDArray[np.float32]:
    """[16, side]: takes `side` samples to the low cosine frequencies of their window from `start` to `stop`.

    The window is resampled by area to a fixed grid, so a window and the same picture cut out agree.
    """
    edges = np.linspace(start * side, stop * side, _GRID + 1)
    cells = np.arange(side)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    resample = np.maximum(overlap, 0)
    resample /= resample.sum(axis=1, keepdims=True)
    angle = np.pi * (2 * np.arange(_GRID) + 1) / (2 * _GRID)
    cosines = np.cos(np.arange(_LOW)[:, None] * angle)
    return np.asarray(cosines @ resample, np.float32)
