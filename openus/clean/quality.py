"""Flags of pictures that a user may want to leave out: empty, saturated, flat, blurred, tiny."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.clean.grey import lit_count
from openus.decode.frame import Pixels
from openus.manifest import QualityLimits

_SEAM = 12  # grey levels from one side of a seam to the other
_SAME_TISSUE = (
    0.3  # correlation of its two sides; 0.2 at most between real pictures, 0.4 and more beside a line
)


def quality_flags(pixels: Pixels, limits: QualityLimits) -> list[str]:
    """The flags of a finished picture, uint8 [H, W]; thresholds in `QualityLimits`, each with its meaning.

    Black pixels (blanked, or outside the sector) do not count as picture. Sharpness is the variance of the
    Laplacian (J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000) over the
    variance of the grey levels, so that gain does not change it; both of the middle of the picture,
    half as high and half as wide, where even a narrow sector shows tissue.
    """
    flags = []
    count = max(1, cv2.countNonZero(pixels))
    total = cv2.sumElems(pixels)[0]
    squares = float(cv2.norm(pixels, cv2.NORM_L2SQR))
    # The sums alone tell of most pictures that they are neither: too bright for so few, too dark for so many.
    brightest = limits.black_level * pixels.size + (255 - limits.black_level) * limits.empty * pixels.size
    if total < brightest and lit_count(pixels, limits.black_level) < limits.empty * pixels.size:
        flags.append("empty")
    white = limits.saturated * count
    if squares > limits.white_level**2 * white and lit_count(pixels, limits.white_level - 1) > white:
        flags.append("saturated")
    spread = _variance(squares, total, count)
    if spread < limits.flat**2:
        flags.append("flat")
    else:
        top, left = pixels.shape[0] // 4, pixels.shape[1] // 4
        middle = pixels[top : pixels.shape[0] - top, left : pixels.shape[1] - left]
        count = max(1, cv2.countNonZero(middle))
        edges = cv2.Laplacian(middle, cv2.CV_16S)
        if count < middle.size:
            edges = cv2.bitwise_and(edges, edges, mask=middle)
        if _spread(edges, count) < limits.blurred * _spread(middle, count):
            flags.append("blurred")
    if min(pixels.shape) < limits.tiny:
        flags.append("tiny")
    return flags


def _spread(values: NDArray[Any], count: int) -> float:
    """Variance of the `count` values [H, W] that are not zero by a mask: zeros add to no sum, so none is needed."""
    return _variance(float(cv2.norm(values, cv2.NORM_L2SQR)), cv2.sumElems(values)[0], count)


def _variance(squares: float, total: float, count: int) -> float:
    return max(0.0, squares / count - (total / count) ** 2)


def panel_seam(work: Pixels) -> bool:
    """Whether two pictures stand side by side in uint8 [H, W] with hardly a gap: a seam from top to bottom.

    At a seam nearly every row jumps at the same column; inside tissue a column jumps in a few rows only.
    """
    height, width = work.shape
    if min(height, width) < 32:
        return False
    jumps = cv2.absdiff(work[:, :-2], work[:, 2:])
    start, stop = int(0.25 * width), int(0.75 * width)
    high = cv2.threshold(jumps[:, start:stop], _SEAM, 1, cv2.THRESH_BINARY)[1]
    if 2 * cv2.reduce(high, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).max() < height:
        return False  # as in nearly every picture: no column jumps in half of its rows
    jump = np.median(jumps, axis=0)
    at = start + int(jump[start:stop].argmax())
    around = np.concatenate([jump[max(0, at - 14) : max(0, at - 2)], jump[at + 3 : at + 15]])
    seam = jump[at] > _SEAM and jump[at] > 4 * max(1.0, float(np.median(around)))
    return bool(seam and _alike(work, at + 1) < _SAME_TISSUE)


def _alike(work: Pixels, column: int) -> float:
    """Correlation of the texture four columns left and right of one: tissue goes on behind a bright scan line."""
    left, right = (
        np.asarray(work[:, column + shift - 1 : column + shift + 2].mean(axis=1), np.float32)
        for shift in (-4, 4)
    )
    left, right = (side - cv2.blur(side[:, None], (1, 31))[:, 0] for side in (left, right))
    spread = float(left.std() * right.std())
    return float((left * right).mean() - left.mean() * right.mean()) / spread if spread > 0 else 0.0
