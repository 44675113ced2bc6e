"""The scan sector on screens of every geometry, and where it must keep its hands off."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from openus.clean import clean_frame
from openus.clean.fit import level, side
from openus.clean.pipeline import Cleaned, clean_frames
from openus.clean.plan import locate
from openus.clean.sector import find_sector, whole
from openus.clean.shapes import arc, cut, meeting
from openus.decode.frame import Frame
from openus.demo.phantom import PROBES, ProbeKind, draw_patient, view
from openus.manifest import CleanSettings
from tests.helpers.scanner import screen

SECTOR = CleanSettings(level="sector", size="native")


def overlap(pixels: np.ndarray, truth: np.ndarray) -> tuple[float, str]:
    found = find_sector(pixels)
    canvas = np.zeros(truth.shape, bool)
    x, y, w, h = found.box
    canvas[y : y + h, x : x + w] = found.mask() > 0
    return float((canvas & truth).sum() / (canvas | truth).sum()), found.kind


@pytest.mark.parametrize("kind", PROBES)
def test_sector_of_every_geometry(kind: ProbeKind) -> None:
    results = []
    for number in range(8):
        shown = screen(kind, number)
        results.append(overlap(shown.pixels, shown.sector))
    assert {name for _, name in results} == {kind}
    assert np.mean([iou for iou, _ in results]) >= 0.97
    assert min(iou for iou, _ in results) >= 0.95


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("scale", [0.5, 1.7])
def test_other_sizes_and_jpeg(kind: ProbeKind, scale: float) -> None:
    shown = screen(kind, 3)
    size = (round(720 * scale), round(540 * scale))
    pixels = cv2.resize(shown.pixels, size, interpolation=cv2.INTER_AREA)
    pixels = cv2.imdecode(
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE
    )
    truth = cv2.resize(shown.sector.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    iou, name = overlap(pixels, truth)
    assert iou >= (0.93 if scale < 1 else 0.96) and name == kind  # a pixel is 2 % of a small one


def test_a_sector_cut_by_the_frame_keeps_its_corners() -> None:
    shown = screen("convex", 1)
    rows, columns = np.flatnonzero(shown.sector.any(axis=1)), np.flatnonzero(shown.sector.any(axis=0))
    cut_out = np.s_[rows[0] + 30 : rows[-1] + 12, columns[0] + 40 : columns[-1] - 40]
    iou, name = overlap(shown.bare[cut_out], shown.sector[cut_out])
    assert iou >= 0.96 and name == "convex"


@pytest.mark.parametrize("kind", PROBES)
def test_tissue_that_fills_the_frame_is_kept_whole(kind: ProbeKind) -> None:
    inner = view(draw_patient(3, 5, "solid", "linear"), 0, size=300, margin=0).pixels
    shadow = inner.copy()
    shadow[150:, 60:200] = shadow[150:, 60:200] // 12  # a deep shadow is tissue
    for pixels in (inner, shadow):
        assert find_sector(pixels).kind == "full"
        cleaned = clean_frame(pixels, SECTOR)
        assert isinstance(cleaned, Cleaned)
        assert np.array_equal(cleaned.pixels, pixels) and cleaned.fraction == 0


def test_a_flat_grey_shadow_is_no_background() -> None:
    pixels = view(draw_patient(3, 5, "solid", "linear"), 0, size=300, margin=0).pixels.copy()
    pixels[220:] = 40  # seen in a real picture: the deep quarter without any signal, well above black
    assert find_sector(pixels).kind == "full"


def test_the_edge_of_a_shadow_is_no_side_of_a_fan() -> None:
    shown = screen("convex", 3, text=False, calipers=False)
    shaded = shown.bare.copy()
    columns = np.arange(shaded.shape[1])[None, :]
    rows, across = np.flatnonzero(shown.sector.any(axis=1)), np.flatnonzero(shown.sector.any(axis=0))
    middle = across.mean() - 25 - 0.12 * (np.arange(shaded.shape[0])[:, None] - rows[0])
    shaded[columns < middle] = 0  # no contact on the left
    shaded[rows[0] : rows[0] + 25] = shown.bare[rows[0] : rows[0] + 25]  # but the skin is seen
    found = find_sector(shaded)
    x, y, w, h = found.box
    kept = np.zeros(shaded.shape, bool)
    kept[y : y + h, x : x + w] = found.mask() > 0
    assert ((shaded > 20) & ~kept).sum() <= 0.002 * (shaded > 20).sum()


def test_a_side_that_leaves_the_frame_early_does_not_lean_inwards() -> None:
    canvas = np.zeros((350, 350), np.uint8)
    fan = np.concatenate([arc((175, -120), 120, 0.6, -0.6), arc((175, -120), 440, -0.6, 0.6)])
    cv2.fillPoly(canvas, [np.rint(fan).astype(np.int32)], 1)
    speckle = np.random.default_rng(4).integers(60, 200, canvas.shape).astype(np.uint8)
    pixels = canvas * speckle
    pixels[140:, 300:] = 0  # no contact there: few rows reach the frame's right edge
    found = find_sector(pixels)
    x, y, w, h = found.box
    kept = np.zeros(pixels.shape, bool)
    kept[y : y + h, x : x + w] = found.mask() > 0
    assert found.kind == "convex"
    assert ((pixels > 20) & ~kept).sum() <= 0.002 * (pixels > 20).sum()


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((200, 300), np.uint8), np.full((200, 300), 128, np.uint8), np.zeros((8, 8), np.uint8),
     np.full((1, 400), 200, np.uint8), np.eye(300, dtype=np.uint8) * 255],
)  # fmt: skip
def test_what_is_no_picture_is_kept_whole(pixels: np.ndarray) -> None:
    found = find_sector(pixels)
    assert found.kind == "full" and found.box == (0, 0, pixels.shape[1], pixels.shape[0])
    assert (whole(*pixels.shape).mask() == 255).all()


def test_noise_never_fails(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 400, 2)
        pixels = rng.integers(0, 256, (height, width)).astype(np.uint8)
        for _ in range(int(rng.integers(0, 6))):
            corner = rng.integers(0, 400, 4)
            pixels[corner[0] : corner[0] + corner[1], corner[2] : corner[2] + corner[3]] = rng.integers(0, 40)
        x, y, w, h = find_sector(pixels).box
        assert 0 <= x < x + w <= width and 0 <= y < y + h <= height


def test_one_sector_for_a_clip_from_all_its_frames() -> None:
    shown = screen("convex", 3, text=False, calipers=False)
    dark = shown.pixels.copy()
    dark[:, :360] //= 20  # a frame without contact on one side
    frames = [Frame(np.zeros_like(dark), 0), Frame(dark, 1), Frame(shown.pixels, 2)]
    done = list(clean_frames(frames, SECTOR))
    assert [type(outcome).__name__ for _, outcome in done] == ["Refused", "Cleaned", "Cleaned"]
    one, other = (outcome for _, outcome in done[1:])
    assert isinstance(one, Cleaned) and isinstance(other, Cleaned)
    assert one.sector == other.sector and "sector-convex" in one.flags


def test_memory_is_bounded_however_long_the_clip() -> None:
    alive = 0
    most = 0

    def endless() -> object:
        nonlocal alive, most
        base = screen("linear", 1).pixels
        for index in range(400):
            alive += 1
            most = max(most, alive)
            yield Frame(base.copy(), index)

    seen = []
    for frame, _ in clean_frames(endless(), SECTOR.model_copy(update={"look": 16})):  # type: ignore[arg-type]
        alive -= 1
        seen.append(frame.index)
    assert seen == list(range(400)) and most <= 17


def test_a_clip_that_changes_its_size() -> None:
    first, second = screen("linear", 1), screen("phased", 2, height=600, width=800)
    frames = [Frame(first.pixels, 0), Frame(second.pixels, 1), Frame(first.pixels, 2)]
    kinds = [o.flags for _, o in clean_frames(frames, SECTOR) if isinstance(o, Cleaned)]
    assert kinds == [("sector-linear",), ("sector-phased",), ("sector-linear",)]


def region(x0: int, y0: int, x1: int, y1: int, space: int = 1, kind: int = 1) -> str:
    return (
        f'{{"RegionSpatialFormat": {space}, "RegionDataType": {kind}, "RegionLocationMinX0": {x0}, '
        f'"RegionLocationMinY0": {y0}, "RegionLocationMaxX1": {x1}, "RegionLocationMaxY1": {y1}}}'
    )


def test_dicom_regions_bound_the_search() -> None:
    pixels = (
        np.random.default_rng(1).integers(30, 200, (400, 600)).astype(np.uint8)
    )  # no background to be seen
    meta = {"SequenceOfUltrasoundRegions": f"[{region(100, 50, 499, 349)}]"}
    assert locate(pixels, meta).box == (100, 50, 400, 300)
    spectral = {"SequenceOfUltrasoundRegions": f"[{region(0, 0, 99, 99, 3, 3)}]"}
    assert locate(pixels, spectral).kind == "full"
    two = {"SequenceOfUltrasoundRegions": f"[{region(0, 50, 290, 349)}, {region(300, 50, 599, 349)}]"}
    assert (locate(pixels, two).box, locate(pixels, two).panels) == ((0, 50, 600, 300), 2)


@pytest.mark.parametrize(
    "text", ["[{}]", "nonsense", f"[{region(0, 0, 900, 100)}]", f"[{region(50, 50, 20, 20)}]"]
)
def test_dicom_regions_that_make_no_sense_are_ignored(text: str) -> None:
    pixels = np.full((400, 600), 99, np.uint8)
    assert locate(pixels, {"SequenceOfUltrasoundRegions": text}).kind == "full"


def test_two_panels_are_recorded() -> None:
    left, right = (view(draw_patient(2, n, None, "linear"), 0, size=240, margin=0).pixels for n in (1, 2))
    height, width = min(left.shape[0], right.shape[0]), min(left.shape[1], right.shape[1])
    left, right = left[:height, :width], right[:height, :width]
    black = np.zeros((height + 80, 2 * width + 140), np.uint8)
    black[40 : 40 + height, 30 : 30 + width] = left
    black[40 : 40 + height, 110 + width : 110 + 2 * width] = right
    cleaned = clean_frame(black, SECTOR)
    assert isinstance(cleaned, Cleaned) and "panels-2" in cleaned.flags
    assert cleaned.sector[2] >= 2 * width + 70  # both are kept
    bordered = np.hstack([left, np.full((height, 2), 255, np.uint8), right])
    seam = clean_frame(bordered, SECTOR)
    assert isinstance(seam, Cleaned) and "panels-2" in seam.flags
    alone = clean_frame(left, SECTOR)
    assert isinstance(alone, Cleaned) and "panels-2" not in alone.flags
    struck = cv2.GaussianBlur(left, (0, 0), 4, sigmaY=0.5)  # as wide as the speckle of older probes
    struck[:, width // 2 : width // 2 + 2] = np.maximum(struck[:, width // 2 : width // 2 + 2], 200)
    lined = clean_frame(struck, SECTOR)  # a scan line of interference
    assert isinstance(lined, Cleaned) and "panels-2" not in lined.flags


def test_a_line_is_what_most_points_agree_on() -> None:
    rows = np.arange(100, dtype=np.float32)
    ends = 50 - 0.5 * rows
    ends[20:30] -= 12  # text that touches the side
    ends[60:85] += 9  # a shadow at the flank
    found = side(rows, ends.astype(np.float32), -1)
    assert found is not None
    line, share = found
    assert share == pytest.approx(0.65, abs=0.02)
    assert np.allclose((line[1] - line[0])[0] / (line[1] - line[0])[1], -0.5, atol=0.01)
    assert level(np.array([5, 5, 5, 6, 80, 81], np.float32), 1)[0] in (5.0, 6.0)


def test_points_beyond_a_line_count_against_it() -> None:
    rows = np.arange(100, dtype=np.float32)
    ends = np.where(rows < 40, 300 + 0.6 * rows, 250).astype(
        np.float32
    )  # below the side, the edge of a shadow
    found = side(rows, ends, 1)
    assert found is not None and found[1] == pytest.approx(0.4, abs=0.02)


def test_plane_geometry() -> None:
    one = np.array([[0, 10], [10, 0]], np.float32)
    other = np.array([[20, 10], [10, 0]], np.float32)
    assert meeting(one, other) == pytest.approx((10, 0))
    points = arc((5, 5), 10, -0.5, 0.5)
    assert np.allclose(np.hypot(*(points - 5).T), 10, atol=1e-4)
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    assert set(map(tuple, cut(square, 4, 1).tolist())) == {(4, 0), (10, 0), (10, 10), (4, 10)}
    assert set(map(tuple, cut(square, 4, -1).tolist())) == {(0, 0), (4, 0), (4, 10), (0, 10)}
    assert cut(square, -5, 1).tolist() == square.tolist()
