"""Small plane geometry of outlines, in pixels: x to the right, y down, angles from straight down."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""x, y, width, height."""


def arc(apex: tuple[float, float], radius: float, start: float, end: float, points: int = 33) -> Floats:
    """float32 [points, 2] on a circle round `apex`, from angle `start` to `end`."""
    angle = np.linspace(start, end, points)
    return np.stack([apex[0] + radius * np.sin(angle), apex[1] + radius * np.cos(angle)], 1).astype(
        np.float32
    )


def clip_box(outline: Floats, height: int, width: int) -> Box:
    """The smallest box of whole pixels inside the frame that holds the outline."""
    low = np.maximum(np.floor(outline.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(axis=0)), [width - 1, height - 1]).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0] + 1), int(high[1] - low[1] + 1)


def inside_fraction(outline: Floats, shape: tuple[int, ...]) -> float:
    """Share of a frame of this shape that the outline covers."""
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
    return cv2.countNonZero(canvas) / canvas.size


def meeting(one: Floats, other: Floats) -> tuple[float, float]:
    """Where two lines, each through two points float32 [2, 2], meet; they must not be parallel."""
    d1, d2 = one[1] - one[0], other[1] - other[0]
    gap = other[0] - one[0]
    t = float(gap[0] * d2[1] - gap[1] * d2[0]) / float(d1[0] * d2[1] - d1[1] * d2[0])
    return float(one[0, 0] + t * d1[0]), float(one[0, 1] + t * d1[1])


def at_height(edge: Floats, y: float) -> tuple[float, float]:
    """The point at height `y` of a line through two points float32 [2, 2] that is not level."""
    t = (y - edge[0, 1]) / (edge[1, 1] - edge[0, 1])
    return float(edge[0, 0] + t * (edge[1, 0] - edge[0, 0])), float(y)


def cut(outline: Floats, x: float, keep: int) -> Floats:
    """The part of a polygon float32 [N, 2] right of the upright line at `x` (keep 1) or left of it (keep -1).

    After I. E. Sutherland and G. W. Hodgman, "Reentrant polygon clipping", CACM 17 (1974) 32.
    """
    points: list[tuple[float, float]] = []
    for here, after in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        inside, follows = keep * (here[0] - x) >= 0, keep * (after[0] - x) >= 0
        if inside:
            points.append((float(here[0]), float(here[1])))
        if inside != follows:
            t = (x - here[0]) / (after[0] - here[0])
            points.append((float(x), float(here[1] + t * (after[1] - here[1]))))
    return np.array(points, np.float32).reshape(-1, 2)
