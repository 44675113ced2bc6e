"""Flags of pictures that a user may want to leave out: saturated, flat, blurred, tiny."""

from __future__ import annotations

import cv2
import numpy as np

from openus.decode.frame import Pixels
from openus.manifest import QualityLimits


def quality_flags(pixels: Pixels, limits: QualityLimits) -> list[str]:
    """The flags of a finished picture, uint8 [H, W]; thresholds in `QualityLimits`, each with its meaning.

    Black pixels (blanked, or outside the sector) do not count as picture. Sharpness is the variance of the
    Laplacian (J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000) over the
    variance of the grey levels, so that gain does not change it.
    """
    flags = []
    shown = cv2.inRange(pixels, 1, 255)
    count = max(1, cv2.countNonZero(shown))
    if cv2.countNonZero(cv2.inRange(pixels, limits.white_level, 255)) > limits.saturated * count:
        flags.append("saturated")
    spread = float(cv2.meanStdDev(pixels, mask=shown)[1][0, 0])
    if spread < limits.flat:
        flags.append("flat")
    else:
        edges = cv2.Laplacian(pixels, cv2.CV_16S)
        sharpness = float(cv2.meanStdDev(edges, mask=shown)[1][0, 0]) ** 2 / spread**2
        if sharpness < limits.blurred:
            flags.append("blurred")
    if min(pixels.shape) < limits.tiny:
        flags.append("tiny")
    return flags


def panel_seam(work: Pixels) -> bool:
    """Whether two pictures stand side by side in uint8 [H, W] with hardly a gap: a seam from top to bottom.

    At a seam nearly every row jumps at the same column; inside tissue a column jumps in a few rows only.
    """
    height, width = work.shape
    if min(height, width) < 32:
        return False
    left, right = work[:, :-2].astype(np.int16), work[:, 2:].astype(np.int16)
    jump = np.median(np.abs(left - right), axis=0)
    start, stop = int(0.25 * width), int(0.75 * width)
    at = start + int(jump[start:stop].argmax())
    around = np.concatenate([jump[max(0, at - 14) : max(0, at - 2)], jump[at + 3 : at + 15]])
    return bool(jump[at] > 12 and jump[at] > 4 * max(1.0, float(np.median(around))))
