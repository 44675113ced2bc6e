"""Colour to grey, size, and the dark-frame test."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from openus.clean.area import shrink
from openus.decode.frame import Pixels


def to_grey(pixels: Pixels) -> Pixels:
    """Luma of uint8 [H, W, 3] RGB by ITU-R BT.601 weights; uint8 [H, W] passes through.

    Returns:
        uint8 [H, W].
    """
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8) if pixels.ndim == 3 else pixels


def resize_short_side(pixels: Pixels, size: int | None, how: Literal["area", "lanczos"] = "area") -> Pixels:
    """Shrink uint8 [H, W] so that its short side is `size` pixels, aspect kept; never enlarges.

    `area` averages the pixels that fall together, the right filter for speckle (nearest or bilinear
    sampling aliases it); `lanczos` keeps edges sharper and is low-passed first where it must be.
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    if size is None or short <= size:
        return pixels
    target = (max(1, round(width * size / short)), max(1, round(height * size / short)))
    if how == "lanczos":
        return _lanczos(pixels, target)
    return shrink(pixels, *target)


def _lanczos(pixels: Pixels, target: tuple[int, int]) -> Pixels:
    # Pillow widens the kernel with the scale; OpenCV's Lanczos has a fixed 8 x 8 support and would alias.
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS))


def lit_count(pixels: Pixels, level: int) -> int:
    """How many pixels of uint8 [H, W] are brighter than `level`."""
    return cv2.countNonZero(cv2.threshold(pixels, level, 1, cv2.THRESH_BINARY)[1])


def lit_fraction(pixels: Pixels, level: int) -> float:
    """Share of the pixels of uint8 [H, W] that are brighter than `level`."""
    return lit_count(pixels, level) / max(1, pixels.size)


def is_dark(pixels: Pixels, level: int, fraction: float) -> bool:
    """Whether fewer than `fraction` of the pixels of uint8 [H, W] are brighter than `level`.

    A few rows settle it for most pictures: what is lit there is enough for the whole.
    """
    enough = fraction * pixels.size
    return all(lit_count(pixels[::step], level) < enough for step in (32, 8, 1))
