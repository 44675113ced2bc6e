"""Pixels: from what files store to uint8 grey or RGB."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels

cv2.setNumThreads(0)  # the build runs one process a core; OpenCV's own threads would only fight over them


def collapsed(colour: Pixels) -> Pixels:
    """[H, W] if all three channels of [H, W, 3] are equal, else the picture as it is."""
    step = max(1, colour.shape[0] // 8)
    rows = colour[::step]  # a few rows settle most coloured pictures
    if not (np.array_equal(rows[..., 0], rows[..., 1]) and np.array_equal(rows[..., 1], rows[..., 2])):
        return colour
    first, second, third = cv2.split(colour)  # a third of the time of taking one channel after the other
    if cv2.norm(first, second, cv2.NORM_INF) or cv2.norm(first, third, cv2.NORM_INF):
        return colour
    return np.asarray(first, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Scale:
    """How intensities of one file become uint8: round((value - low) * 255 / (high - low)), clipped.

    The rule, for a whole file at once, so that its frames stay comparable, and for its channels together, so that
    hues stay; where a format states how many bits are meant (DICOM, JPEG 2000), that decides for colours instead:

    - 8-bit values stay as they are; so do whole numbers or fractions already within 0 … 255 (many volumes keep
      8-bit pictures in wider types); booleans become 0 and 255;
    - fractions within 0 … 1 are multiplied by 255;
    - all else goes linearly from the smallest finite value of the file to the largest;
    - NaN becomes 0, infinities the ends.
    """

    low: float
    high: float

    @property
    def note(self) -> str:
        """For `Media.meta`: "none", or the range that was mapped."""
        return "none" if (self.low, self.high) == (0.0, 255.0) else f"{self.low:g} to {self.high:g}"

    def __call__(self, values: NDArray[Any]) -> Pixels:
        if values.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            return np.ascontiguousarray(values)
        real: NDArray[np.floating[Any]] = values.astype(
            np.float32 if values.dtype.itemsize <= 2 else np.float64
        )
        if self.high > self.low:  # all in place: a picture may be large
            real -= self.low
            real *= 255.0 / (self.high - self.low)
        else:
            real[...] = 0
        np.nan_to_num(real, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        return np.ascontiguousarray(np.clip(np.rint(real, out=real), 0, 255, out=real).astype(np.uint8))


IDENTITY = Scale(0.0, 255.0)


def scale_for(dtype: np.dtype[Any], pieces: Iterable[NDArray[Any]]) -> Scale:
    """The `Scale` of a file of this dtype; `pieces` (its slices) are gone through only where they matter."""
    if dtype == np.uint8:
        return IDENTITY
    if dtype == np.bool_:
        return Scale(0.0, 1.0)
    low, high = np.inf, -np.inf
    for piece in pieces:
        values = piece[np.isfinite(piece)] if piece.dtype.kind == "f" else piece
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        return Scale(0.0, 0.0)
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return Scale(0.0, 1.0)
    if low >= 0 and high <= 255:
        return IDENTITY
    return Scale(low, high)
