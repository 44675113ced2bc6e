"""Shrinking by area: to the bit what OpenCV gives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from openus import area
from openus.area import shrink


def opencv(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("seed", range(8))
def test_sizes_of_every_kind_give_what_opencv_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(12):
        height, width = (int(side) for side in random.integers(3, 700, 2))
        target = (int(random.integers(1, width + 1)), int(random.integers(1, height + 1)))
        pixels = random.integers(0, 256, (height, width), np.uint8)
        np.testing.assert_array_equal(shrink(pixels, *target), opencv(pixels, *target))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((534, 958), (459, 256)),  # several bands
        ((1080, 1920), (455, 256)),
        ((512, 768), (384, 256)),  # whole cells
        ((256, 459), (64, 64)),  # whole cells one way only
        ((100, 300), (300, 100)),  # nothing to do
        ((100, 300), (64, 128)),  # one side grows
        ((5000, 7), (3, 256)),
    ],
)
def test_known_sizes(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(shrink(pixels, *size), opencv(pixels, *size))


def test_a_part_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not follow each other in memory, and bands of one row."""
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400), np.uint8)[20:280, 31:390]
    expected = opencv(np.ascontiguousarray(pixels), 200, 101)
    np.testing.assert_array_equal(shrink(pixels, 200, 101), expected)
    monkeypatch.setattr(area, "_BAND", 1)
    np.testing.assert_array_equal(shrink(pixels, 200, 101), expected)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7, 12, 16, 17])
def test_whole_cells(side: int) -> None:
    random = np.random.default_rng(side)
    for pixels in (
        random.integers(0, 256, (31 * side, 23 * side), np.uint8),
        np.full((8 * side, 5 * side), 255, np.uint8),
    ):
        height, width = (length // side for length in pixels.shape)
        np.testing.assert_array_equal(shrink(pixels, width, height), opencv(pixels, width, height))
