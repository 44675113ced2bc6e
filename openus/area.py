"""Shrinking by area, the costliest step of a build after decoding: what OpenCV gives, in half of its time."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from openus.decode.frame import Pixels

_BAND = 1 << 18  # source pixels at once: what is between stays in the cache
_SUMMED = 16  # the sum of a square of so many pixels a side is an uint16
_NEGLIGIBLE = 1e-3  # of a pixel, as OpenCV has it


def shrink(pixels: Pixels, width: int, height: int) -> Pixels:
    """uint8 [H, W] as uint8 [height, width]: to the bit `cv2.resize` with INTER_AREA.

    OpenCV adds one pixel after the other to each sum, and every addition waits for the one before. Here whole
    columns, then whole rows, are added in the same order, so that the sums are the same.
    """
    rows, columns = pixels.shape
    even = rows % height == 0 and columns % width == 0
    if even and 2 < rows // height == columns // width <= _SUMMED:
        return _cells(pixels, rows // height)
    if even or rows < height or columns < width:  # for halves OpenCV has a fast way of its own
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    across = _weights(columns, width)
    result = np.empty((height, width), np.uint8)
    for first, last, top, down in _bands(rows, height, max(1, _BAND // columns * height // rows)):
        band = cv2.transpose(pixels[top : top + down.shape[1]]).astype(np.float32)
        narrow = cv2.transpose(across @ band)
        cv2.convertScaleAbs(down @ narrow, result[first:last])
    return result


def _cells(pixels: Pixels, side: int) -> Pixels:
    """The mean of each square of `side` pixels, which fill uint8 [H, W]."""
    total = _sum_rows(_sum_rows(pixels, side), side)  # down the columns, then, turned, along the rows
    return np.asarray(cv2.convertScaleAbs(total, alpha=1 / side**2), np.uint8)


def _sum_rows(lines: NDArray[Any], side: int) -> NDArray[np.uint16]:
    """Every `side` rows of [H, W] added to one, and turned: [W, H / side]."""
    total = lines[::side].astype(np.uint16)
    for line in range(1, side):
        total += lines[line::side]
    return np.asarray(cv2.transpose(total), np.uint16)


@lru_cache(maxsize=64)
def _bands(source: int, target: int, step: int) -> list[tuple[int, int, int, csr_array]]:
    """For every `step` rows of the result: first and last, the first source row they need, and their weights."""
    whole = _weights(source, target)
    found = []
    for first in range(0, target, step):
        part = whole[first : first + step]
        top, end = int(part.indices.min()), int(part.indices.max()) + 1
        found.append((first, first + part.shape[0], top, part[:, top:end].tocsr()))
    return found


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> csr_array:
    """float32 [target, source]: the share of each source pixel in each pixel of the result (OpenCV's table)."""
    scale = 1.0 / (target / source)
    places: list[int] = []
    shares: list[float] = []
    ends = [0]
    for cell in range(target):
        start, stop = cell * scale, cell * scale + scale
        size = min(scale, source - start)
        last = min(math.floor(stop), source - 1)
        first = min(math.ceil(start), last)
        if first - start > _NEGLIGIBLE:
            places.append(first - 1)
            shares.append((first - start) / size)
        places += range(first, last)
        shares += [1.0 / size] * (last - first)
        if stop - last > _NEGLIGIBLE:
            places.append(last)
            shares.append(min(stop - last, 1.0, size) / size)
        ends.append(len(places))
    values: NDArray[np.float32] = np.array(shares, np.float32)
    return csr_array((values, np.array(places, np.int32), np.array(ends, np.int32)), shape=(target, source))
