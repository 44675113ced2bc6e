"""Markings laid over tissue: bright calipers on grey pictures, and everything in colour."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from openus.decode.frame import Pixels

_ARMS = (4, 5, 6, 8)  # pixels from the middle of a cross to its tips
_ALIKE = 0.66  # normalised correlation with a cross
_PARTLY = 0.5  # the same where a number stands beside it
_EVEN = 40  # grey levels by which the dimmest part of an arm drawn by a scanner is below the mean
_LIFT = 30  # grey levels of its dimmest arm above what lies between them
_NUMBER = 90  # pixels of a caliper with a number beside it
_BRIGHT = 110  # grey level of a caliper's middle
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


def find_calipers(still: Pixels) -> Pixels:
    """uint8 [H, W], 255 on the arms of bright crosses (upright or oblique) in uint8 [H, W].

    A cross is a place that looks like one by normalised correlation at one of a few sizes, whose middle and
    arms are bright, and whose quarters between the arms are darker.
    """
    found = np.zeros_like(still)
    height, width = still.shape
    # Only near thin bright strokes can there be a cross: most pictures have few, and are done here.
    hat = np.asarray(cv2.morphologyEx(still, cv2.MORPH_TOPHAT, np.ones((7, 7), np.uint8)), np.uint8)
    peaks = (hat > 45) & (still >= _BRIGHT)
    if np.count_nonzero(peaks) < 5:
        return found
    for arm in _ARMS:
        for oblique in (False, True):
            cross, quarters = _cross(arm, oblique)
            side = cross.shape[0]
            if min(height, width) <= side:
                continue
            score = cv2.matchTemplate(still, cross, cv2.TM_CCOEFF_NORMED)
            half = side // 2
            middle = peaks[half : height - half, half : width - half]
            score = np.where(middle[: score.shape[0], : score.shape[1]], score, 0)
            best = score >= np.maximum(_PARTLY, cv2.dilate(score, np.ones((5, 5), np.uint8)) - 1e-6)
            for row, column in np.argwhere(best):
                place = np.s_[row : row + side, column : column + side]
                if _is_cross(still[place], cross, quarters, float(score[row, column])):
                    found[place] |= np.asarray(255 - quarters, np.uint8)
                    _add_number(found, still, hat, (row + half, column + half), arm, cross)
    return found


def _add_number(
    found: Pixels, still: Pixels, hat: Pixels, middle: tuple[int, int], arm: int, cross: Pixels
) -> None:
    """Mask the small number that scanners print beside a caliper: strokes as bright as its arms, near it."""
    row, column = middle
    reach = 2 * arm + 6
    near = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
    half = cross.shape[0] // 2
    arms = still[row - half : row + half + 1, column - half : column + half + 1][cross > 128]
    ink = float(np.median(arms))
    strokes = ((still[near] >= 0.8 * ink) & (hat[near] >= 45)).astype(np.uint8) * 255
    if cv2.countNonZero(strokes) > _NUMBER:  # bright speckle all round, no number
        return
    found[near] |= np.asarray(cv2.dilate(strokes, np.ones((3, 3), np.uint8)), np.uint8)


def _is_cross(patch: Pixels, cross: Pixels, quarters: Pixels, score: float) -> bool:
    """Every arm is bright, and brighter than the quarters beside it; all four, or three where the arms are as even
    as ink: in the fourth, a number or a bright interface may lie."""
    arms = patch[cross > 128].astype(np.float32)
    low, typical = float(np.quantile(arms, 0.15)), float(arms.mean())
    between = patch[quarters > 0].astype(np.float32)
    if score >= _ALIKE and low > between.mean() + _LIFT and np.quantile(between, 0.85) < typical - 20:
        return True
    labels = cv2.connectedComponents(quarters, connectivity=4)[1]
    parts = [patch[labels == number].astype(np.float32) for number in range(1, int(labels.max()) + 1)]
    dark = sum(low > part.mean() + 1.5 * _LIFT and np.quantile(part, 0.85) < typical - 30 for part in parts)
    return bool(dark >= 3 and low > typical - _EVEN)


@functools.cache
def _cross(arm: int, oblique: bool) -> tuple[Pixels, Pixels]:
    """A cross of soft one-pixel arms with a margin, 0 to 255, and the quarters between its arms, 0 or 255."""
    margin = 2
    side = 2 * (arm + margin) + 1
    cross = np.zeros((side, side), np.uint8)
    middle, low, high = arm + margin, margin, side - 1 - margin
    if oblique:
        cv2.line(cross, (low, low), (high, high), 255, 1)
        cv2.line(cross, (low, high), (high, low), 255, 1)
    else:
        cv2.line(cross, (low, middle), (high, middle), 255, 1)
        cv2.line(cross, (middle, low), (middle, high), 255, 1)
    near = cv2.dilate(cross, np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur(cross, (0, 0), 0.7)
    soft = cv2.convertScaleAbs(soft, alpha=255 / float(soft.max()))
    return np.asarray(soft, np.uint8), np.asarray(255 - near, np.uint8)
