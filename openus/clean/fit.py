"""Shapes fitted to the outline of a sector by consensus: what most points of a side agree on.

The outline is read as four profiles (first and last lit pixel of each row and column). A side is the line that
most of its points lie on within a pixel, those beyond it counted against it; of lines with like support the
outermost. This is the consensus idea of M. A. Fischler and R. C. Bolles, "Random sample consensus", CACM 24 (1981)
381, over all pairs of a fixed few points instead of random ones, so that the result never varies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.clean.shapes import Floats, arc, at_height, cut, meeting, on_circle
from openus.decode.frame import Pixels

SectorKind = Literal["convex", "linear", "phased", "trapezoid", "other", "full"]

_SAMPLED = 24  # points of a side whose pairs propose lines
_NEAR = 1.25  # pixels from a line to count for it
_CLEAR = 3.0  # pixels beyond a line to count against it
_CENTRES = (
    0.0,
    -0.3,
    -0.6,
    -1.0,
    -1.5,
    -2.5,
)  # of a bottom arc, as shares of the way from the apex down to it
_LOPSIDED = 0.2  # radians by which the two sides of a fan may differ in their lean
_UPRIGHT = 0.06  # tangent of the greatest lean of an upright side


@dataclass(frozen=True)
class Rim:
    """The outline of a picture as profiles, in pixels: x of its ends in `rows`, y of its ends in `columns`."""

    rows: Floats
    left: Floats
    right: Floats
    columns: Floats
    first: Floats
    last: Floats

    @classmethod
    def of(cls, part: Pixels, lit: Pixels) -> Rim:
        """From the solid part of a picture, and what is lit at most a few pixels round it (its corners, say)."""
        near = cv2.dilate(part, np.ones((9, 9), np.uint8))
        # Whether, not how much: numpy finds the first True of a row without reading on.
        grown = np.asarray(cv2.bitwise_and(near, cv2.bitwise_or(lit, part)), np.uint8) > 0
        turned = np.ascontiguousarray(grown.T)
        height, width = part.shape
        rows, columns = np.flatnonzero(grown.any(axis=1)), np.flatnonzero(turned.any(axis=1))
        return cls(
            rows.astype(np.float32),
            grown.argmax(axis=1)[rows].astype(np.float32),
            (width - 1 - grown[:, ::-1].argmax(axis=1)[rows]).astype(np.float32),
            columns.astype(np.float32),
            turned.argmax(axis=1)[columns].astype(np.float32),
            (height - 1 - turned[:, ::-1].argmax(axis=1)[columns]).astype(np.float32),
        )


def side(rows: Floats, ends: Floats, outward: int) -> tuple[Floats, float] | None:
    """The line x = a + b y that most of the points (ends, rows) lie on, and few beyond; the share that lie on it.

    outward: -1 for a left side, 1 for a right one.

    Returns:
        float32 [2, 2], the upper and lower end of the agreeing stretch; None for fewer than 8 points.
    """
    if len(rows) < 8:
        return None
    picked = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).astype(int))
    i, j = np.triu_indices(len(picked), 4)
    i, j = picked[i], picked[j]
    slope = (ends[j] - ends[i]) / (rows[j] - rows[i])
    usable = np.abs(slope) < 1.8  # at most 61 degrees from upright
    if not usable.any():
        return None
    slope = slope[usable]
    start = ends[i][usable] - slope * rows[i][usable]
    beyond = outward * (ends[None, :] - start[:, None] - slope[:, None] * rows[None, :])
    near = np.abs(beyond) < _NEAR
    votes = np.count_nonzero(near, axis=1)
    # The edge of a shadow may be as straight, but has tissue beyond it.
    score = votes - np.count_nonzero(beyond > _CLEAR, axis=1)
    good = np.flatnonzero(score >= score.max() - 0.05 * votes.max())
    middle = rows.mean()
    best = good[np.argmax(outward * (start[good] + slope[good] * middle))]
    agree = near[best]
    b, a = np.polyfit(rows[agree], ends[agree], 1)
    y = np.array([rows[agree].min(), rows[agree].max()])
    return np.stack([a + b * y, y], axis=1).astype(np.float32), float(votes[best]) / len(rows)


def level(values: Floats, outward: int) -> tuple[float, float]:
    """The whole number that most agree on within a pixel (the outermost of like support), and their share."""
    whole = np.rint(values).astype(np.int64)
    low = int(whole.min()) - 1
    counts = np.bincount(whole - low, minlength=3)
    votes = counts.copy()
    votes[1:] += counts[:-1]
    votes[:-1] += counts[1:]
    # The window of three round the outermost such number holds it at its rim: its own count decides.
    good = np.flatnonzero((votes >= 0.9 * votes.max()) & (counts >= 0.3 * counts.max()))
    if len(good) == 0:
        good = np.array([int(votes.argmax())])
    chosen = int(good[-1] if outward > 0 else good[0])
    return float(low + chosen), float(votes[chosen]) / len(values)


def fit_fan(rim: Rim, shape: tuple[int, ...]) -> tuple[SectorKind, Floats] | None:
    """Two sides that meet above the picture, an arc below; None where the outline says otherwise."""
    width = shape[1]
    inside_left, inside_right = rim.left > 1, rim.right < width - 2  # the frame's edge is not the sector's
    found = (
        side(rim.rows[inside_left], rim.left[inside_left], -1),
        side(rim.rows[inside_right], rim.right[inside_right], 1),
    )
    if found[0] is None or found[1] is None:
        return None
    left, right = found[0][0], found[1][0]
    tall = float(np.ptp(rim.rows))
    if min(np.ptp(left[:, 1]), np.ptp(right[:, 1])) < 0.15 * tall:
        return None
    (lx, ly), (rx, ry) = left[1] - left[0], right[1] - right[0]
    if lx > -_UPRIGHT * ly or rx < _UPRIGHT * ry:  # they must open downwards
        return None
    if abs(np.arctan2(lx, ly) + np.arctan2(rx, ry)) > _LOPSIDED:  # one of them is the edge of a shadow
        return None
    apex = meeting(left, right)
    inner = (rim.columns - apex[0] > 0.8 * lx / ly * (rim.last - apex[1])) & (
        rim.columns - apex[0] < 0.8 * rx / ry * (rim.last - apex[1])
    )
    face = (rim.columns > left[0, 0]) & (rim.columns < right[0, 0])
    if np.count_nonzero(inner) < 8:
        return None
    bottom = _bottom(rim, inner, apex, (left, right))
    kind, top = _top(rim, face, apex, left, right, float(np.hypot(*(bottom[len(bottom) // 2] - apex))))
    return kind, _window(np.concatenate([top, bottom]), rim)


def _bottom(
    rim: Rim, inner: NDArray[np.bool_], apex: tuple[float, float], sides: tuple[Floats, Floats]
) -> Floats:
    """From right to left: an arc round the apex, a flatter one (lines from a flat face), or a level edge."""
    x, y = rim.columns[inner], rim.last[inner]
    straight, flat_share = level(y, 1)
    depth = straight - apex[1]
    found = [(level(np.hypot(x - apex[0], y - apex[1] - f * depth), 1), f * depth) for f in _CENTRES]
    # The apex is the likely centre: another has to explain clearly more.
    (radius, share), lower = max(found, key=lambda item: item[0][1] + (0.1 if item[1] == 0 else 0))
    if max(share, flat_share) < 0.2:  # a faint end: nothing lit is cut
        radius, lower = float(np.hypot(x - apex[0], y - apex[1]).max()), 0.0
    elif flat_share > share + 0.1:
        return np.array([at_height(sides[1], straight), at_height(sides[0], straight)], np.float32)
    centre = (apex[0], apex[1] + lower)
    ends = [on_circle(edge, centre, radius) for edge in (sides[1], sides[0])]
    start, end = (float(np.arctan2(px - centre[0], py - centre[1])) for px, py in ends)
    return arc(centre, radius, start, end)


def _top(
    rim: Rim, face: NDArray[np.bool_], apex: tuple[float, float], left: Floats, right: Floats, outer: float
) -> tuple[SectorKind, Floats]:
    """From left to right: a point (phased array), an arc round the apex (convex), or a flat face (trapezoid)."""
    tip = np.array([apex], np.float32)
    if np.count_nonzero(face) < 8:
        high = float(rim.rows[0])
        if high - apex[1] < 0.12 * outer:
            return "phased", tip
        return "trapezoid", np.array([at_height(left, high), at_height(right, high)], np.float32)
    x, y = rim.columns[face], rim.first[face]
    radius, round_share = level(np.hypot(x - apex[0], y - apex[1]), -1)
    flat, flat_share = level(y, -1)
    if min(radius, flat - apex[1]) < 0.12 * outer:
        return "phased", tip
    if flat_share >= round_share or max(flat_share, round_share) < 0.3:
        flat = min(flat, float(rim.rows[0]) + 2) if flat_share < 0.3 else flat
        # A face that the frame cuts off is the straight part of a bigger probe.
        kind: SectorKind = "trapezoid" if flat >= 2 else "convex"
        return kind, np.array([at_height(left, flat), at_height(right, flat)], np.float32)
    start, end = (float(np.arctan2(*(edge[1] - edge[0]))) for edge in (left, right))
    return "convex", arc(apex, radius, start, end)


def _window(outline: Floats, rim: Rim) -> Floats:
    """Cut the outline where the display window cut the picture: at an upright edge shared by many rows."""
    low, left_share = level(rim.left, -1)
    high, right_share = level(rim.right, 1)
    bounds = (low if left_share > 0.2 else -np.inf, high if right_share > 0.2 else np.inf)
    # An upright edge further in than the outermost tissue is a shadow's, not a window's.
    bounds = (
        bounds[0] if bounds[0] <= rim.left.min() + 2 else -np.inf,
        bounds[1] if bounds[1] >= rim.right.max() - 2 else np.inf,
    )
    return cut(cut(outline, bounds[0], 1), bounds[1], -1)


def fit_rectangle(rim: Rim, work: Pixels, floor: int) -> tuple[Floats, bool] | None:
    """Upright sides and level ends. A side where the picture does not step to the background is not cut.

    Returns its corners, and whether most points of all four sides agree on them; None where the left or right
    side is not upright.
    """
    height, width = work.shape
    left, left_share = level(rim.left, -1)
    right, right_share = level(rim.right, 1)
    if min(left_share, right_share) < 0.3:
        return None
    top, top_share = level(rim.first, -1)
    bottom, bottom_share = level(rim.last, 1)
    x0, x1, y0, y1 = (int(value) for value in (left, right, top, bottom))
    inside = work[y0 : y1 + 1, x0 : x1 + 1]
    if inside.size == 0:
        return None
    lit = floor + 12
    if np.mean(inside[:, :4].mean(axis=1) > lit) < 0.5:
        x0 = 0
    if np.mean(inside[:, -4:].mean(axis=1) > lit) < 0.5:
        x1 = width - 1
    if top_share < 0.4 or np.mean(inside[:4].mean(axis=0) > lit) < 0.5:
        y0 = 0
    if bottom_share < 0.4 or np.mean(inside[-4:].mean(axis=0) > lit) < 0.5:
        y1 = height - 1
    # The corners stand for whole pixels, of which a frame many times larger keeps all parts.
    a, b, c, d = x0 - 0.25, y0 - 0.25, x1 + 0.25, y1 + 0.25
    sure = min(left_share, right_share, top_share, bottom_share) >= 0.6
    return np.array([[a, b], [c, b], [c, d], [a, d]], np.float32), sure
