"""Small plane geometry of outlines, in pixels: x to the right, y down, angles from straight down."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""x, y, width, height."""


def arc(apex: tuple[float, float], radius: float, start: float, end: float) -> Floats:
    """float32 [33, 2] on a circle round `apex`, from angle `start` to `end`."""
    angle = np.linspace(start, end, 33)
    return np.stack([apex[0] + radius * np.sin(angle), apex[1] + radius * np.cos(angle)], 1).astype(
        np.float32
    )


def clip_box(outline: Floats, height: int, width: int, margin: int = 0) -> Box:
    """The smallest box of whole pixels inside the frame that holds the outline and a margin round it."""
    low = np.maximum(np.rint(outline.min(axis=0)) - margin, 0).astype(int)
    high = np.minimum(np.rint(outline.max(axis=0)) + margin, [width - 1, height - 1]).astype(int)
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
    if not np.isfinite(x):
        return outline
    points: list[tuple[float, float]] = []
    corners = outline.tolist()
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside, follows = keep * (x0 - x) >= 0, keep * (x1 - x) >= 0
        if inside:
            points.append((x0, y0))
        if inside != follows:
            points.append((x, y0 + (x - x0) / (x1 - x0) * (y1 - y0)))
    return np.array(points, np.float32).reshape(-1, 2)


def on_circle(edge: Floats, centre: tuple[float, float], radius: float) -> tuple[float, float]:
    """Where the line through two points float32 [2, 2], followed downwards, leaves a circle; its nearest point
    to the centre where it misses it."""
    step = (edge[1] - edge[0]) / np.hypot(*(edge[1] - edge[0]))
    away = edge[0] - np.array(centre)
    along = -float(away @ step)
    rest = radius**2 - float(away @ away) + along**2
    t = along + np.sqrt(max(0.0, rest))
    return float(edge[0, 0] + t * step[0]), float(edge[0, 1] + t * step[1])
