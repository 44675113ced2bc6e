"""Hashes of pictures: exact (SHA-256 of the pixels) and perceptual (256-bit DCT hash)."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

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
    low = cv2.dct(shrink(pixels, _SIDE, _SIDE).astype(np.float32))[:_KEPT, :_KEPT]
    half = low.size // 2
    values = np.partition(low, (half - 1, half), axis=None)
    median = (values[half - 1] + values[half]) / 2  # as np.median, in a tenth of its time
    return np.packbits(low > median).tobytes().hex()
