"""Hashes of pictures: exact (SHA-256 of the pixels) and perceptual (256-bit DCT hash)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels

_SIDE = 64
_KEPT = 16


def pixel_sha256(pixels: Pixels) -> str:
    """SHA-256 over height and width (two little-endian int32) and the bytes of uint8 [H, W]."""
    digest = hashlib.sha256(np.asarray(pixels.shape, "<i4").tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def phash(pixels: Pixels) -> str:
    """Perceptual hash of uint8 [H, W]: 64 hexadecimal digits.

    The picture is shrunk to 64 x 64 and transformed by a 2-D DCT; the 16 x 16 lowest frequencies are compared
    with their median (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010).
    """
    return phashes([pixels])[0]


def phashes(pictures: Sequence[Pixels]) -> list[str]:
    """`phash` of each picture, uint8 [H, W]."""
    low = np.asarray([_low(pixels) for pixels in pictures], np.float64).reshape(-1, _KEPT * _KEPT)
    # What lies above the lower of the middle two lies above the median.
    middle = np.sort(low, axis=1)[:, _KEPT * _KEPT // 2 - 1]
    return [bits.tobytes().hex() for bits in np.packbits(low > middle[:, None], axis=1)]


def _low(pixels: Pixels) -> NDArray[np.float64]:
    """The low frequencies of uint8 [H, W], float64 [16, 16], all whole numbers.

    Means of exactly two, quick and alike on every processor, bring each side to 128 pixels at most; one product along
    either side is both the rest of the shrinking and the transform.
    """
    rows, columns = pixels.shape
    high, wide = _halvings(rows), _halvings(columns)
    below, right = -rows % (1 << high), -columns % (1 << wide)
    if below or right:
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    for step in range(max(high, wide)):
        size = pixels.shape[1] >> (step < wide), pixels.shape[0] >> (step < high)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    low = _waves(rows) @ (pixels.astype(np.float64) @ _waves(columns).T)
    return np.asarray(low, np.float64)


def _halvings(side: int) -> int:
    return max(0, (side // _SIDE).bit_length() - 1)


@lru_cache(64)
def _waves(side: int) -> NDArray[np.float64]:
    """[16, n] from the n pixels that halving leaves of a side to the frequencies of the means of 64 equal parts of it.

    In whole numbers, so that no product of a picture is rounded anywhere. A last pixel of which a part lies beyond
    the side counts by the part within.
    """
    step = 1 << _halvings(side)
    angle = np.pi * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
    cosines = np.cos(np.arange(_KEPT)[:, None] * angle)
    cosines[0] /= np.sqrt(2)
    edges = np.minimum(np.arange(0, side + step, step), side) * (_SIDE / side)
    sums = np.pad(np.cumsum(cosines, axis=1), ((0, 0), (1, 0)))
    until = np.stack([np.interp(edges, np.arange(_SIDE + 1), wave) for wave in sums])
    return np.asarray(np.rint(np.diff(until, axis=1) * (1 << 16)), np.float64)
