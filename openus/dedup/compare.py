"""Are two pictures the same one? The second look, at pixels, for pairs whose hashes are near.

Copies of one picture share its speckle; another frame of the same scene, or another patient, does not. So the two
windows are brought to one size and aligned (ECC: Evangelidis and Psarakis, Parametric Image Alignment Using
Enhanced Correlation Coefficient Maximization, PAMI 2008), the scales between tissue layout and pixel noise are
kept, and the correlation is taken block by block. The worst blocks are left out, as a copy may carry text.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels
from openus.dedup.prints import Box, cut

SIDE = 128
_BLOCK = 16
_FINE, _COARSE = 1.0, 4.0  # standard deviations, in pixels of the common size, of the band that is compared
_LEFT_OUT = 0.25  # share of the textured blocks that may differ
_TEXTURED = 0.5  # a block counts where its contrast is at least this share of the middle one's
_DARK = _BLOCK * _BLOCK * 0.15**2  # energy of a block without any picture
_AROUND = 6.0  # standard deviation of the window that evens contrast
_FAINT = 0.3  # contrast, in roots of grey levels, below which it is left as it is
_MIN_BLOCKS = 6

Plane = NDArray[np.float32]
_EVERYWHERE = np.full((SIDE, SIDE), 255, np.uint8)


def similarity(a: Pixels, b: Pixels, box_a: Box, box_b: Box) -> float:
    """How surely the window of `a` (uint8 [H, W]) and that of `b` show one and the same picture.

    Returns:
        About 1 for copies, about 0 for different pictures; the mean correlation of the better three quarters of
        the blocks that hold texture in either; 0 where too few do.
    """
    first, second = _plane(a, box_a), _plane(b, box_b)
    return max(_agreement(first, second), _agreement(first, _aligned(first, second)))


def _plane(pixels: Pixels, box: Box) -> Plane:
    part = cut(pixels, box)
    grows = part.shape[0] < SIDE or part.shape[1] < SIDE
    square = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
    # A root evens the contrast of dark and bright tissue, and with it much of a change of gamma.
    return np.asarray(np.sqrt(square, dtype=np.float32), np.float32)


def _aligned(first: Plane, second: Plane) -> Plane:
    """`second` moved and stretched (affine) onto `first`; as it is, where no alignment is found."""
    warp: Plane = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        found = cv2.findTransformECC(first, second, warp, cv2.MOTION_AFFINE, criteria, _EVERYWHERE, 5)
        warp = np.asarray(found[1], np.float32)
    except cv2.error:  # it says so when the iteration leaves the picture or does not converge
        return second
    if np.abs(warp[:, :2] - np.eye(2)).max() > 0.15 or np.abs(warp[:, 2]).max() > 0.15 * SIDE:
        return second
    moved = cv2.warpAffine(
        second,
        warp,
        (SIDE, SIDE),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, np.float32)


def _band(plane: Plane) -> Plane:
    """The scales that are compared, at even contrast: the edge of the scan must not outweigh its speckle."""
    band = cv2.GaussianBlur(plane, (0, 0), _FINE) - cv2.GaussianBlur(plane, (0, 0), _COARSE)
    contrast = np.sqrt(cv2.GaussianBlur(band * band, (0, 0), _AROUND))
    return np.asarray(band / (contrast + _FAINT), np.float32)


def _agreement(first: Plane, second: Plane) -> float:
    """Mean correlation of the better blocks."""
    a, b = _blocks(_band(first)), _blocks(_band(second))
    energy_a, energy_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    energy = np.maximum(energy_a, energy_b)
    lit = energy[energy > _DARK]
    if len(lit) < _MIN_BLOCKS:
        return 0.0
    textured = np.flatnonzero(energy >= max(_DARK, _TEXTURED**2 * float(np.median(lit))))
    both = (a[textured] * b[textured]).sum(axis=1)
    norm = np.sqrt(energy_a[textured] * energy_b[textured])
    correlation = np.sort(np.where(norm > 0, both / np.maximum(norm, 1e-12), 0.0))
    return float(correlation[int(_LEFT_OUT * len(correlation)) :].mean())


def _blocks(plane: Plane) -> Plane:
    """[SIDE, SIDE] to [blocks, pixels of a block], the mean of each block taken off."""
    side = SIDE // _BLOCK
    flat = plane.reshape(side, _BLOCK, side, _BLOCK).swapaxes(1, 2).reshape(side * side, -1)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), np.float32)
