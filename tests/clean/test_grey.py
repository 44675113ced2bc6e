import cv2
import numpy as np
import pytest

from openus.clean import Cleaned, Refused, clean_frame, lit_fraction, resize_short_side, to_grey
from openus.clean.grey import is_dark
from openus.manifest import CleanSettings


def test_grey_by_luma() -> None:
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert to_grey(rgb).tolist() == [[76, 150], [29, 0]]
    grey = np.full((3, 3), 9, np.uint8)
    assert to_grey(grey) is grey


@pytest.mark.parametrize(
    ("shape", "expected"), [((400, 600), (256, 384)), ((600, 400), (384, 256)), ((257, 999), (256, 995))]
)
def test_the_short_side_shrinks_and_the_aspect_stays(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resize_short_side(np.zeros(shape, np.uint8), 256).shape == expected


def test_nothing_is_enlarged() -> None:
    small = np.zeros((128, 200), np.uint8)
    assert resize_short_side(small, 256) is small
    assert resize_short_side(small, None) is small


@pytest.mark.parametrize("how", ["area", "lanczos"])
def test_shrinking_keeps_the_mean_and_does_not_alias(how: str) -> None:
    speckle = np.random.default_rng(0).integers(0, 256, (1024, 1024)).astype(np.uint8)
    small = resize_short_side(speckle, 64, how)  # type: ignore[arg-type]
    assert abs(float(small.mean()) - float(speckle.mean())) < 2
    assert small.std() < speckle.std() / 4  # averaging 16 x 16 pixels; a sampler would keep the spread
    sampled = cv2.resize(speckle, (64, 64), interpolation=cv2.INTER_NEAREST)
    assert sampled.std() > speckle.std() * 0.9


def test_dark_frames_are_refused_with_the_figure() -> None:
    frame = np.zeros((100, 100), np.uint8)
    frame[0, :50] = 200
    assert lit_fraction(frame, 10) == 0.005
    refused = clean_frame(frame, CleanSettings())
    assert isinstance(refused, Refused) and refused.reason == "dark" and "0.5000%" in refused.detail
    frame[:20] = 200
    kept = clean_frame(frame, CleanSettings())
    assert isinstance(kept, Cleaned) and kept.sector == (0, 0, 100, 100) and kept.fraction == 0


@pytest.mark.parametrize("row", [0, 3, 8])
def test_the_dark_test_looks_at_the_whole_where_few_rows_do_not_settle_it(row: int) -> None:
    frame = np.zeros((64, 100), np.uint8)
    frame[row, :64] = 200  # just 1 % of the picture
    assert not is_dark(frame, 10, 0.01)
    frame[row, 0] = 10
    assert is_dark(frame, 10, 0.01)
