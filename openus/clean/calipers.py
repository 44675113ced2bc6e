"""Bright calipers on grey pictures: crosses and stars that somebody measured between."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels

_ARMS = (4, 5, 6, 8)  # pixels from the middle of a cross to its tips
_ALIKE = 0.66  # normalised correlation with a shape
_PARTLY = 0.5  # the same where a number, or a bright interface, lies at one side of it
_PLAIN = 0.8  # the same where nothing else is asked
_UNEVEN_UPRIGHT, _UNEVEN_OBLIQUE = 0.36, 0.53  # greatest spread of the ink of a shape, by its contrast
_STROKE = 45  # grey levels of a thin stroke above what an opening leaves
_AHEAD = 15  # grey levels of the arms above what lies between them, at a few places looked at first
_DIM = 90  # grey level that all arms have
_LIFT = 30  # grey levels of a shape's dimmest part above what lies between its arms
_NUMBER = 90  # pixels of a caliper with a number beside it
_BRIGHT = 110  # grey level of a caliper's middle


def find_calipers(still: Pixels) -> Pixels:
    """uint8 [H, W], 255 on the strokes of bright calipers in uint8 [H, W]: crosses, stars, crosses of four wedges.

    A caliper is a place that looks like one by normalised correlation with one of a few drawn shapes, whose strokes
    are bright, as even as ink, and brighter than what lies between them.
    """
    found = np.zeros_like(still)
    # Only near thin bright strokes can there be a cross: most pictures have few, and are done here.
    hat = np.asarray(cv2.morphologyEx(still, cv2.MORPH_TOPHAT, np.ones((7, 7), np.uint8)), np.uint8)
    thin = cv2.threshold(hat, _STROKE, 1, cv2.THRESH_BINARY)[1]
    peaks = cv2.bitwise_and(thin, cv2.threshold(still, _BRIGHT - 1, 1, cv2.THRESH_BINARY)[1])
    if cv2.countNonZero(peaks) < 5:
        return found
    middles = np.asarray(cv2.dilate(peaks, np.ones((3, 3), np.uint8)), np.uint8)
    for family, shapes in zip(_FAMILIES, _shapes(), strict=True):
        for row, column in _spots(still, middles, family):
            for shape in shapes:
                half, reach = shape.reach, shape.reach + 2
                top, left = max(0, row - reach), max(0, column - reach)
                window = still[top : row + reach + 1, left : column + reach + 1]
                if min(window.shape) < 2 * half + 1:
                    continue
                score = cv2.matchTemplate(window, shape.drawn, cv2.TM_CCOEFF_NORMED)
                _, likeness, _, (x, y) = cv2.minMaxLoc(score)
                place = np.s_[top + y : top + y + 2 * half + 1, left + x : left + x + 2 * half + 1]
                if likeness >= _PARTLY and _is_caliper(still[place], shape, likeness):
                    found[place] |= shape.masked
                    _add_number(found, still, hat, (top + y + half, left + x + half), shape)
    return found


def _spots(still: Pixels, middles: Pixels, family: _Family) -> list[tuple[int, int]]:
    """Row and column where uint8 [H, W] is brighter at the places of a family's arms than at those between them, and
    `middles` is set, where the family has a bright middle."""
    pad = 4
    wide = np.asarray(cv2.copyMakeBorder(still, pad, pad, pad, pad, cv2.BORDER_REPLICATE), np.uint8)
    height, width = still.shape

    def at(places: tuple[tuple[int, int], ...]) -> list[Pixels]:
        return [wide[pad + y : pad + y + height, pad + x : pad + x + width] for x, y in places]

    lowest = np.minimum.reduce(at(family.bright))
    a, b, c, d = at(family.dark)
    high, low = (cv2.max(a, b), cv2.max(c, d)), (cv2.min(a, b), cv2.min(c, d))
    second, third = cv2.max(cv2.min(*high), cv2.max(*low)), cv2.min(cv2.max(*low), cv2.min(*high))
    between = second if family.spared == 1 else third
    hits = cv2.threshold(cv2.subtract(lowest, between), _AHEAD, 1, cv2.THRESH_BINARY)[1]
    hits = cv2.bitwise_and(hits, cv2.threshold(lowest, _DIM, 1, cv2.THRESH_BINARY)[1])
    if not family.hollow:
        hits = cv2.bitwise_and(hits, middles)
    if cv2.countNonZero(hits) == 0:
        return []
    centres = cv2.connectedComponentsWithStats(hits, connectivity=8)[3][1:]
    return [(round(float(y)), round(float(x))) for x, y in centres]


def _add_number(found: Pixels, still: Pixels, hat: Pixels, middle: tuple[int, int], shape: _Shape) -> None:
    """Mask the small number that scanners print beside a caliper: strokes as bright as its arms, near it on any side,
    or a little further at its own height."""
    row, column = middle
    half, reach = shape.reach, 2 * shape.reach + 2
    ink = float(np.median(still[row - half : row + half + 1, column - half : column + half + 1][shape.ink]))
    for high, wide, most in ((reach, reach, _NUMBER), (half, reach + 6, _NUMBER // 2)):
        near = np.s_[max(0, row - high) : row + high + 1, max(0, column - wide) : column + wide + 1]
        strokes = ((still[near] >= 0.8 * ink) & (hat[near] >= _STROKE)).astype(np.uint8) * 255
        if cv2.countNonZero(strokes) <= most:  # else there is bright speckle all round, no number
            found[near] |= np.asarray(cv2.dilate(strokes, np.ones((3, 3), np.uint8)), np.uint8)


def _is_caliper(patch: Pixels, shape: _Shape, likeness: float) -> bool:
    """Whether the strokes stand out as ink does: on all sides, or on three of four where they are very even; beyond
    the fourth, a number or a bright interface may lie."""
    ink = patch[shape.ink].astype(np.float32)
    low, typical = float(np.quantile(ink, 0.15)), float(ink.mean())
    parts = [patch[part].astype(np.float32) for part in shape.between]
    between = np.concatenate(parts)
    uneven = float(ink.std()) / max(1.0, typical - float(between.mean()))
    if likeness >= _ALIKE and low > between.mean() + _LIFT and np.quantile(between, 0.85) < typical - 20:
        # Speckle that looks like a cross is brightest in its middle and fades from there.
        return likeness >= _PLAIN or uneven <= shape.uneven
    dark = sum(bool(low > part.mean() + _LIFT and np.quantile(part, 0.85) < typical - 30) for part in parts)
    return dark >= 3 and uneven <= 0.55 * shape.uneven


@dataclass(frozen=True)
class _Shape:
    """A caliper as drawn, uint8 [n, n]; the pixels of its ink and the four areas between its arms, bool [n, n]; what
    to mask, uint8 [n, n]; the greatest spread of its ink by its contrast."""

    drawn: Pixels
    ink: NDArray[np.bool_]
    between: tuple[NDArray[np.bool_], ...]
    masked: Pixels
    uneven: float

    @property
    def reach(self) -> int:
        """Pixels from the middle to the edge."""
        return len(self.drawn) // 2


@dataclass(frozen=True)
class _Family:
    """Places (x, y from the middle) that are bright in all shapes of a family, and four that are dark in all of them
    but for so many; whether the middle is dark, too."""

    bright: tuple[tuple[int, int], ...]
    dark: tuple[tuple[int, int], ...]
    spared: int
    hollow: bool = False


def _round(distance: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    n = distance
    return ((n, 0), (-n, 0), (0, n), (0, -n)), ((n, n), (-n, n), (n, -n), (-n, -n))


_FAMILIES = (
    _Family(_round(3)[0], _round(3)[1], 1),  # upright: beside one arm there may be a number
    _Family(_round(3)[1], _round(4)[0], 2),  # oblique: a star, which has two more arms, looks much like it
    _Family(_round(4)[0], _round(3)[1], 1, True),  # four wedges round a dark middle
)


@functools.cache
def _shapes() -> tuple[tuple[_Shape, ...], ...]:
    """Of each family: crosses of several sizes, and crosses with capped arms, as some scanners draw them."""
    upright, oblique = _round(1)
    crosses = [[_shape([_Arm(a, arm) for a in arms]) for arm in _ARMS] for arms in (upright, oblique)]
    capped = _shape([_Arm(a, 3.5, cap=1.8) for a in oblique])
    wedges = _shape([_Arm(a, 5, start=2, cap=1.2) for a in upright])
    return tuple(crosses[0]), (*crosses[1], capped), (wedges,)


@dataclass(frozen=True)
class _Arm:
    """A stroke towards a point (x, y), so many times as far out, from `start` to `end`; `cap` is half of the length
    of a stroke across its end."""

    towards: tuple[int, int]
    end: float
    start: float = 0.0
    cap: float = 0.0


def _shape(arms: list[_Arm]) -> _Shape:
    fine, half = 9, max(int(arm.end + 0.7 * arm.cap) for arm in arms) + 2
    side = 2 * half + 1
    canvas = np.zeros((side * fine, side * fine), np.uint8)
    middle = np.array([half, half]) * fine + fine // 2
    for arm in arms:
        along = np.array(arm.towards, float)
        across = arm.cap * np.array([-along[1], along[0]]) / np.hypot(*along)
        strokes = [(along * arm.start, along * arm.end)]
        if arm.cap:
            strokes.append((along * arm.end - across, along * arm.end + across))
        for ends in strokes:
            start, end = (tuple(int(v) for v in np.rint(middle + point * fine)) for point in ends)
            # An oblique line of pixels that touch at their corners is thinner than an upright one.
            cv2.line(canvas, start, end, 255, fine if 0 in arm.towards else 5)
    lines = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(lines, (0, 0), 0.6)
    drawn = np.asarray(cv2.convertScaleAbs(soft, alpha=255 / float(soft.max())), np.uint8)
    ink = lines > 128
    masked = np.asarray(cv2.dilate(ink.astype(np.uint8) * 255, np.ones((3, 3), np.uint8)), np.uint8)
    down, right = np.mgrid[-half : half + 1, -half : half + 1]
    upright = all(0 in arm.towards for arm in arms)
    quarter = (
        2 * (down > 0) + (right > 0)
        if upright
        else np.where(abs(down) > abs(right), 2 + (down > 0), right > 0)
    )
    between = tuple((masked == 0) & (quarter == number) for number in range(4))
    return _Shape(drawn, ink, between, masked, _UNEVEN_UPRIGHT if upright else _UNEVEN_OBLIQUE)
