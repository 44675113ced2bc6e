"""Quality flags and the dark test against what they mean, written down plainly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.clean.grey import is_dark
from openus.clean.quality import quality_flags
from openus.manifest import QualityLimits


def plainly(pixels: np.ndarray, limits: QualityLimits) -> list[str]:
    shown = pixels[pixels > 0].astype(float)
    count = max(1, len(shown))
    flags = []
    if (pixels > limits.black_level).mean() < limits.empty:
        flags.append("empty")
    if (pixels >= limits.white_level).sum() > limits.saturated * count:
        flags.append("saturated")
    if (shown.std() if len(shown) else 0) < limits.flat:
        flags.append("flat")
    else:
        height, width = pixels.shape
        middle = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
        inside = middle > 0
        edges = cv2.Laplacian(np.ascontiguousarray(middle), cv2.CV_64F)[inside]
        spread = middle[inside].astype(float).var() if inside.any() else 0.0
        if (edges.var() if inside.any() else 0.0) < limits.blurred * spread:
            flags.append("blurred")
    if min(pixels.shape) < limits.tiny:
        flags.append("tiny")
    return flags


@given(
    seed=st.integers(0, 2**32 - 1), level=st.integers(0, 255), spread=st.sampled_from([0, 1, 7, 9, 40, 120]),
    blur=st.sampled_from([0.0, 1.0, 3.0, 8.0]), black=st.sampled_from([0.0, 0.3, 0.8, 0.94, 0.96, 1.0]),
    white=st.sampled_from([0.0, 0.15, 0.19, 0.21, 0.5]), height=st.integers(40, 120),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_flags_mean_what_they_say(
    seed: int, level: int, spread: int, blur: float, black: float, white: float, height: int
) -> None:
    random = np.random.default_rng(seed)
    picture = np.clip(random.normal(level, spread, (height, 90)), 0, 255)
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    chance = random.random(picture.shape)
    picture = np.where(chance < white, 255, picture).astype(np.uint8)
    picture[random.random(picture.shape) < black] = 0
    assert quality_flags(picture, QualityLimits()) == plainly(picture, QualityLimits())


@pytest.mark.parametrize("lit", [0.0, 0.009, 0.0101, 0.05, 0.1, 0.16, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("where", ["top", "anywhere", "between"])
def test_dark_is_told_from_the_whole(lit: float, where: str) -> None:
    """However few rows are looked at first."""
    random = np.random.default_rng(7)
    picture = random.integers(0, 11, (200, 300), np.uint8)
    flat = picture.reshape(-1)
    count = round(lit * flat.size)
    if where == "top":
        flat[:count] = 200
    elif where == "anywhere":
        flat[random.permutation(flat.size)[:count]] = 11
    else:  # in the rows that are not looked at first, as long as there are any
        rows = sorted(range(200), key=lambda row: row % 16 == 0)
        order = np.concatenate([np.arange(row * 300, row * 300 + 300) for row in rows])
        flat[order[:count]] = 200
    assert is_dark(picture, 10, 0.01) == (count < 0.01 * flat.size)
