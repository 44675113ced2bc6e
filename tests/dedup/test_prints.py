"""Fingerprints and the second look, on simulated pictures: copies are found and confirmed, others are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.dedup.compare import similarity
from openus.dedup.prints import (
    INDEX_HASHES,
    RADIUS,
    VIEWS,
    WHOLE,
    content_box,
    cut,
    fingerprint,
    index_box,
    inside,
    view_box,
)
from tests.helpers.pictures import scan

Change = Callable[[np.ndarray], np.ndarray]


def crop(picture: np.ndarray) -> np.ndarray:
    return picture[7:198, 2:249]


def border(picture: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=0)


def light(picture: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 9, 18, 25, 12, cv2.BORDER_CONSTANT, value=180)


def letterbox(picture: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 60, 60, 0, 0, cv2.BORDER_CONSTANT, value=0)


def text(picture: np.ndarray) -> np.ndarray:
    return cv2.putText(picture.copy(), "LIVER 3.5 MHz", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)


def jpeg(picture: np.ndarray) -> np.ndarray:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)


def square(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (200, 200), interpolation=cv2.INTER_LINEAR)


def gamma(picture: np.ndarray) -> np.ndarray:
    return (255 * (picture / 255) ** 0.7).astype(np.uint8)


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """Distance of the nearest (view or hash of a, hash of b), and the similarity of those windows."""
    (index, views), (other, _) = fingerprint(a), fingerprint(b)
    queries = np.concatenate([views, index])
    table = np.bitwise_count(queries[:, None] ^ other[None]).sum(axis=2)
    query, number = np.unravel_index(table.argmin(), table.shape)
    boxes = view_box(content_box(a), int(query)), index_box(content_box(b), int(number))
    return int(table.min()), similarity(a, b, *boxes)


@pytest.mark.parametrize("change", [crop, border, light, letterbox, text, jpeg, small, square, gamma])
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_copy_is_found_and_confirmed(change: Change, seed: int) -> None:
    picture = scan(seed)
    distance, score = nearest(picture, change(picture))
    assert distance <= RADIUS
    assert score > 0.88


def test_other_pictures_are_neither_near_nor_alike() -> None:
    pictures = [scan(seed) for seed in range(6)]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            distance, score = nearest(a, b)
            assert distance > RADIUS
            assert score < 0.6
            assert similarity(a, b, WHOLE, WHOLE) < 0.6


def test_the_same_place_with_other_speckle_is_not_a_copy() -> None:
    assert similarity(scan(1), scan(1, speckle=2), WHOLE, WHOLE) < 0.75


def test_flat_pictures_have_nothing_to_compare() -> None:
    flat = np.full((64, 64), 90, np.uint8)
    assert similarity(flat, flat, WHOLE, WHOLE) == 0.0


def test_shapes_and_borders() -> None:
    picture = scan(4)
    index, views = fingerprint(picture)
    assert (index.shape, views.shape) == ((INDEX_HASHES, 32), (VIEWS, 32))
    framed = cv2.copyMakeBorder(cut(picture, content_box(picture)), 30, 10, 40, 0, cv2.BORDER_CONSTANT)
    inner = cut(framed, content_box(framed))
    assert inner.shape == cut(picture, content_box(picture)).shape
    assert content_box(np.zeros((50, 50), np.uint8)) == WHOLE
    for shape in ((1, 1), (3, 200), (200, 3)):
        assert fingerprint(np.full(shape, 200, np.uint8))[1].shape == (VIEWS, 32)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 0.4), st.floats(0.6, 1), st.integers(0, VIEWS + INDEX_HASHES - 1))
def test_windows_stay_inside(low: float, high: float, number: int) -> None:
    content = (low, high, low / 2, 1.0)
    top, bottom, left, right = view_box(content, number)
    assert 0 <= top < bottom <= 1 + 1e-9 and 0 <= left < right <= 1 + 1e-9
    assert inside(content, WHOLE) == pytest.approx(content)
