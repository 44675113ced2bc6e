"""Shrinking by area: what OpenCV gives, but for the last grey level or two."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from openus.clean.area import shrink


def opencv(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


def check(pixels: np.ndarray, width: int, height: int) -> None:
    result = shrink(pixels, width, height)
    assert result.dtype == np.uint8 and result.flags.c_contiguous and result.flags.owndata
    wrong = np.abs(result.astype(int) - opencv(pixels, width, height))
    assert wrong.max() <= 2 and wrong.mean() <= 0.3, (
        pixels.shape,
        (height, width),
        wrong.max(),
        wrong.mean(),
    )


@pytest.mark.parametrize("seed", range(8))
def test_sizes_of_every_kind_give_what_opencv_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(12):
        height, width = (int(side) for side in random.integers(3, 700, 2))
        target = (int(random.integers(1, width + 1)), int(random.integers(1, height + 1)))
        check(random.integers(0, 256, (height, width), np.uint8), *target)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((534, 958), (459, 256)),
        ((1080, 1920), (455, 256)),
        ((512, 768), (384, 256)),  # whole cells
        ((256, 459), (64, 64)),  # whole cells one way only
        ((300, 100), (100, 300)),  # nothing to do
        ((100, 300), (64, 128)),  # one side grows
        ((5000, 70), (30, 256)),  # one side very much shorter
        ((5000, 7), (3, 256)),
        ((128, 128), (8, 8)),
        ((160, 160), (7, 7)),
    ],
)
def test_known_sizes(shape: tuple[int, int], size: tuple[int, int]) -> None:
    check(np.random.default_rng(0).integers(0, 256, shape, np.uint8), *size)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_flat_pictures_keep_their_level(level: int) -> None:
    for shape, size in (((534, 958), (459, 256)), ((300, 301), (37, 299)), ((90, 4000), (300, 9))):
        assert (shrink(np.full(shape, level, np.uint8), *size) == level).all()


def test_known_values() -> None:
    """Of a ramp along the columns, the mean of each third; between whole pixels, by the parts of them."""
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None], 90, axis=0)
    np.testing.assert_array_equal(shrink(ramp, 40, 30), ramp[:30, 1::3])
    steps = np.repeat(np.array([0, 0, 100, 100, 0] * 16, np.uint8)[None], 80, axis=0)
    wide = shrink(
        steps, 32, 80
    )  # 2.5 pixels to one: of each five, 0 0 and half of 100; the other half, 100 and 0
    np.testing.assert_array_equal(wide[40, :4], [20, 60, 20, 60])


def test_a_part_of_a_picture() -> None:
    """Rows that do not follow each other in memory; the picture itself stays as it is."""
    whole = np.random.default_rng(1).integers(0, 256, (300, 400), np.uint8)
    before, part = whole.copy(), whole[20:280, 31:390]
    np.testing.assert_array_equal(shrink(part, 200, 101), shrink(np.ascontiguousarray(part), 200, 101))
    np.testing.assert_array_equal(shrink(whole[:, ::-1], 200, 101), shrink(whole[:, ::-1].copy(), 200, 101))
    np.testing.assert_array_equal(whole, before)
    same = shrink(whole, 400, 300)
    same[:] = 0
    np.testing.assert_array_equal(whole, before)


def test_many_sizes_in_turn_and_in_threads() -> None:
    random = np.random.default_rng(2)
    pictures = [random.integers(0, 256, (200 + n, 300 - n), np.uint8) for n in range(30)]
    expected = [shrink(picture, 100, 90) for picture in pictures]
    found: list[list[np.ndarray]] = [[], [], []]

    def work(number: int) -> None:
        found[number] = [shrink(picture, 100, 90) for _ in range(3) for picture in pictures]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found:
        for result, right in zip(results, expected * 3, strict=True):
            np.testing.assert_array_equal(result, right)
