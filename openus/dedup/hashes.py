"""Hashes of pictures: exact (SHA-256 of the pixels) and perceptual (256-bit DCT hash)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openus.area import shrink
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
    small = np.asarray([shrink(pixels, _SIDE, _SIDE) for pixels in pictures], np.float64)
    low = (_COSINES @ small.reshape(-1, _SIDE, _SIDE) @ _COSINES.T).reshape(-1, _KEPT * _KEPT)
    # What lies above the lower of the middle two lies above the median.
    middle = np.sort(low, axis=1)[:, _KEPT * _KEPT // 2 - 1]
    return [bits.tobytes().hex() for bits in np.packbits(low > middle[:, None], axis=1)]


def _cosines() -> NDArray[np.float64]:
    """[16, 64] of an orthogonal DCT, in whole numbers, so that no product of a picture is rounded anywhere."""
    angle = np.pi * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
    table = np.cos(np.arange(_KEPT)[:, None] * angle)
    table[0] /= np.sqrt(2)
    return np.asarray(np.rint(table * (1 << 16)), np.float64)


_COSINES = _cosines()
