"""Markings in colour laid over tissue: calipers, boxes, Doppler, traced outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openus.decode.frame import Pixels

_COLOURED = 40  # difference of the channels; chroma subsampling of a grey JPEG stays far below
_TINT = 0.5  # share of lit pixels in colour above which the whole picture is tinted


@dataclass(frozen=True)
class Colour:
    """mask: uint8 [H, W], 255 on coloured pixels; share: of them in the picture; filled: share that forms areas
    (colour Doppler, painted overlays) instead of lines; tinted: the grey scale itself is shown in a colour."""

    mask: Pixels
    share: float
    filled: float
    tinted: bool


def coloured(pixels: Pixels) -> Colour | None:
    """Coloured pixels of uint8 [H, W, 3] RGB; None for a grey picture."""
    if pixels.ndim == 2:
        return None
    red, green, blue = cv2.split(pixels)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    chroma = cv2.subtract(high, low)
    mask = np.asarray(cv2.threshold(chroma, _COLOURED, 255, cv2.THRESH_BINARY)[1], np.uint8)
    count = cv2.countNonZero(mask)
    if count == 0:
        return None
    lit = max(1, cv2.countNonZero(cv2.inRange(high, 40, 255)))
    # Half of what shines is in colour: a tinted grey map, not an overlay.
    faint = cv2.countNonZero(cv2.inRange(chroma, 12, 255))
    areas = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return Colour(mask, count / mask.size, cv2.countNonZero(areas) / mask.size, faint > _TINT * lit)
