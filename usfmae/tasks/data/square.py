"""From an image of any shape to the square a network takes, the same in training and in prediction."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def square(pixels: Pixels, size: int, aspect: Literal["stretch", "pad", "crop"] = "stretch") -> Pixels:
    """Make a grey image square: uint8 [H, W] to uint8 [size, size], C-contiguous.

    ``stretch`` resizes both sides; ``pad`` keeps the proportions and adds black, centred; ``crop`` keeps the
    proportions and cuts the centre. Shrinking averages areas (speckle would alias under point sampling);
    enlarging is bilinear.
    """
    return _square(pixels, size, aspect, None)


def square_mask(mask: Pixels, size: int, aspect: Literal["stretch", "pad", "crop"] = "stretch") -> Pixels:
    """The same for a mask of class numbers: nearest neighbour, no new values."""
    return _square(mask, size, aspect, cv2.INTER_NEAREST_EXACT)


def _square(pixels: Pixels, size: int, aspect: str, how: int | None) -> Pixels:
    height, width = pixels.shape
    if aspect == "stretch":
        return _resize(pixels, size, size, how)
    scale = size / (max(height, width) if aspect == "pad" else min(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    resized = _resize(pixels, columns, rows, how)
    out = np.zeros((size, size), np.uint8)
    top, left = (rows - size) // 2, (columns - size) // 2
    source = resized[max(top, 0) : max(top, 0) + size, max(left, 0) : max(left, 0) + size]
    out_top, out_left = max(-top, 0), max(-left, 0)
    out[out_top : out_top + source.shape[0], out_left : out_left + source.shape[1]] = source
    return out


def _resize(pixels: Pixels, width: int, height: int, how: int | None) -> Pixels:
    if pixels.shape == (height, width):
        return np.ascontiguousarray(pixels)
    if how is None:
        shrinks = width * height < pixels.shape[0] * pixels.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)
