"""Text, calipers and colour: what is planted goes, what is tissue stays, what was done is told."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from openus.clean import Cleaned, Refused, clean_frame
from openus.clean.calipers import find_calipers
from openus.clean.fill import fill
from openus.clean.marks import coloured
from openus.clean.pipeline import clean_frames
from openus.clean.plan import make_plan
from openus.clean.quality import quality_flags
from openus.clean.text import find_text, letters_on_black, may_hold_text, text_mask
from openus.decode.frame import Frame
from openus.demo.phantom import PROBES, ProbeKind, draw_patient, view
from openus.manifest import CleanSettings, QualityLimits
from tests.helpers.scanner import Screen, screen

FULL = CleanSettings(level="full", size="native")


def cleaned(shown: Screen, settings: CleanSettings = FULL) -> tuple[Cleaned, np.ndarray]:
    """The record, and the picture put back to its place on the screen."""
    result = clean_frame(shown.pixels, settings)
    assert isinstance(result, Cleaned)
    whole = np.zeros(shown.bare.shape, np.uint8)
    x, y, w, h = result.sector
    whole[y : y + h, x : x + w] = result.pixels
    return result, whole


def gone(shown: Screen, after: np.ndarray, where: np.ndarray) -> float:
    """Share of planted pixels that are now nearer to the tissue round them than to the ink."""
    tissue = cv2.medianBlur(shown.bare, 15).astype(int)
    ink = shown.pixels.max(axis=2) if shown.pixels.ndim == 3 else shown.pixels
    reach = np.maximum(0.5 * np.abs(ink - tissue), 20)
    return float((np.abs(after - tissue) <= reach)[where].mean())


@pytest.mark.parametrize("colour", [False, True])
def test_what_is_planted_goes_and_tissue_stays(colour: bool) -> None:
    outside, inside, marks, altered = [], [], [], []
    for kind in PROBES:
        for number in range(2):
            shown = screen(kind, number, colour=colour)
            record, after = cleaned(shown)
            assert record.text_boxes >= 1 and 0 < record.fraction < 0.1
            outside.append(float((after[shown.outside] == 0).mean()))
            inside.append(gone(shown, after, shown.inside))
            marks.append(gone(shown, after, shown.marks))
            planted = (shown.inside | shown.marks).astype(np.uint8)
            clear = shown.sector & (cv2.dilate(planted, np.ones((7, 7), np.uint8)) == 0)
            altered.append(float((after != shown.bare)[clear].mean()))
    assert np.mean(outside) >= 0.99
    assert np.mean(inside) >= 0.95
    assert np.mean(marks) >= (0.99 if colour else 0.9)
    assert np.mean(altered) <= 0.005 and max(altered) <= 0.02


def test_nothing_is_masked_where_nothing_is_planted() -> None:
    for kind in PROBES:
        shown = screen(kind, 3, text=False, calipers=False)
        record, _ = cleaned(shown)
        assert (record.text_boxes, record.fraction) == (0, 0.0)


def test_levels_do_what_they_say() -> None:
    shown = screen("linear", 1)
    sector, after = cleaned(shown, FULL.model_copy(update={"level": "sector"}))
    assert sector.text_boxes == -1 and sector.fraction == 0
    assert np.array_equal(after[shown.inside], shown.pixels[shown.inside])
    none, after = cleaned(shown, FULL.model_copy(update={"level": "none"}))
    assert np.array_equal(after, shown.pixels) and none.flags == ()


def test_a_label_of_a_clip_is_found_once_and_masked_in_every_frame() -> None:
    tissue = [view(draw_patient(5, 4, None, "linear"), n, size=260, margin=0).pixels for n in range(6)]
    height, width = (min(p.shape[axis] for p in tissue) for axis in (0, 1))
    tissue = [p[:height, :width].copy() for p in tissue]
    ink = np.zeros((height, width), np.uint8)
    cv2.putText(ink, "LT LOBE", (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    frames = [Frame(np.maximum(p, ink), n) for n, p in enumerate(tissue)]
    for (frame, outcome), bare in zip(clean_frames(frames, FULL), tissue, strict=True):
        assert isinstance(outcome, Cleaned) and outcome.text_boxes == 1
        still = np.abs(outcome.pixels.astype(int) - frame.pixels)[ink > 200]
        bright = frame.pixels[ink > 200] > bare[ink > 200].astype(int) + 60
        assert np.mean(still[bright] > 20) > 0.9


def test_half_a_letter_on_black_is_masked_in_a_clip_and_a_bright_line_is_not() -> None:
    rng = np.random.default_rng(5)
    frames = []
    for index in range(10):
        pixels = rng.integers(20, 180, (300, 320)).astype(np.uint8)
        pixels[200:, :120] = 4  # the dark beside the tissue
        cv2.putText(pixels, "R2", (-12, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 250, 2, cv2.LINE_AA)
        cv2.line(pixels, (180, 90), (194, 92), 240, 2)  # an interface that rests
        frames.append(Frame(pixels, index))
    first = frames[0].pixels
    peak = np.maximum.reduce([frame.pixels for frame in frames])
    still = np.minimum.reduce([frame.pixels for frame in frames])
    mask = letters_on_black(still, peak)
    letter = np.zeros(first.shape, bool)
    letter[220:260, :40] = first[220:260, :40] > 140
    assert letter.sum() > 40 and (mask[letter] == 255).all()
    assert not mask[:190].any() and (mask > 0).mean() < 0.01
    outcomes = [outcome for _, outcome in clean_frames(frames, FULL)]
    assert all(isinstance(o, Cleaned) and (o.pixels[letter] < 60).all() for o in outcomes)
    assert not letters_on_black(np.full((40, 40), 200, np.uint8), np.full((40, 40), 200, np.uint8)).any()


def test_detector_only_where_the_cheap_test_finds_strokes() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (200, 300)).astype(np.uint8), (0, 0), 9
    )
    assert not may_hold_text(smooth)
    written = smooth.copy()
    cv2.putText(written, "QSE MAMA", (60, 100), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    assert may_hold_text(written)
    boxes = find_text(written)
    assert len(boxes) == 1
    mask = text_mask(written, boxes)
    changed = np.abs(written.astype(int) - smooth) > 40
    assert (mask[changed] > 0).mean() > 0.97 and (mask > 0).mean() < 0.05


def test_white_on_white_masks_the_box() -> None:
    white = np.full((80, 200), 240, np.uint8)
    assert (text_mask(white, [(50, 30, 60, 14)])[30:44, 50:110] == 255).all()


def test_calipers_of_several_sizes_and_both_kinds() -> None:
    tissue = view(draw_patient(1, 2, None, "linear"), 0, size=300, margin=0).pixels // 2
    marked = tissue.copy()
    places = [(60, 60), (140, 70), (80, 180), (200, 200)]
    for number, place in enumerate(places):
        style = cv2.MARKER_CROSS if number % 2 else cv2.MARKER_TILTED_CROSS
        cv2.drawMarker(marked, place, 255, style, 11 + 2 * number, 1 + number // 2)
    assert cv2.countNonZero(find_calipers(tissue)) == 0
    found = find_calipers(marked)
    assert [bool(found[y, x]) for x, y in places] == [True] * 4


def test_a_number_beside_a_caliper_hides_neither() -> None:
    tissue = view(draw_patient(1, 2, None, "linear"), 0, size=300, margin=0).pixels // 2
    marked = tissue.copy()
    cv2.drawMarker(marked, (90, 120), 255, cv2.MARKER_CROSS, 13, 1)
    cv2.putText(marked, "3", (81, 118), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 255, 1)
    ink = marked != tissue
    assert (find_calipers(marked)[ink] > 0).mean() > 0.8


def coarse_speckle(seed: int) -> np.ndarray:
    """Bright, coarse and stretched, as older scanners show it: full of blobs that look a little like crosses."""
    noise = np.random.default_rng(seed).rayleigh(1.0, (360, 320)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2.0, sigmaY=1.2)
    return np.clip(120 + 45 * (soft - soft.mean()) / soft.std(), 0, 255).astype(np.uint8)


def test_speckle_is_no_caliper() -> None:
    shares = [np.mean(find_calipers(coarse_speckle(seed)) > 0) for seed in range(6)]
    assert np.mean(shares) <= 0.001


def test_crosses_of_wedges_and_capped_crosses() -> None:
    tissue = coarse_speckle(1) // 2
    marked = tissue.copy()
    for x, y in ((60, 70), (200, 90)):  # four wedges round a dark middle
        cv2.rectangle(marked, (x - 6, y - 6), (x + 6, y + 6), 40, -1)
        for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            ends = [
                (x + 5 * dx + dy, y + 5 * dy + dx),
                (x + 5 * dx - dy, y + 5 * dy - dx),
                (x + 2 * dx, y + 2 * dy),
            ]
            cv2.fillPoly(marked, [np.array(ends, np.int32)], 235)
    for x, y in ((90, 240), (250, 280)):  # an oblique cross with a bar across each arm
        cv2.rectangle(marked, (x - 5, y - 5), (x + 5, y + 5), 50, -1)
        for dx, dy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            cv2.line(marked, (x, y), (x + 3 * dx, y + 3 * dy), 250, 1)
            cv2.line(marked, (x + 4 * dx, y + 2 * dy), (x + 2 * dx, y + 4 * dy), 250, 1)
    ink = (marked != tissue) & (marked > 190)
    found = find_calipers(cv2.GaussianBlur(marked, (0, 0), 0.6))
    assert (found[ink] > 0).mean() > 0.9
    assert (found > 0).mean() < 0.02


def test_a_caliper_on_a_bright_interface() -> None:
    marked = view(draw_patient(1, 2, None, "linear"), 0, size=300, margin=0).pixels // 3
    marked[121:124, 70:88] = 190  # below an arm, and a number above
    before = marked.copy()
    cv2.drawMarker(marked, (90, 119), 250, cv2.MARKER_CROSS, 13, 1)
    cv2.putText(marked, "2", (80, 117), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 250, 1)
    ink = marked != before
    assert (find_calipers(marked)[ink] > 0).mean() > 0.75


def test_the_cursor_behind_the_last_letter_goes_too() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (200, 300)).astype(np.uint8), (0, 0), 9
    )
    written = smooth.copy()
    cv2.putText(written, "QSE MAMA", (60, 100), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    cv2.line(written, (146, 86), (146, 104), 190, 1)
    mask = text_mask(written, [(58, 86, 84, 18)])
    assert (mask[88:103, 146] == 255).all()
    assert not mask[:, 152:].any()
    for ends in (((160, 86), (160, 104)), ((157, 86), (163, 86)), ((157, 104), (163, 104))):
        cv2.line(written, *ends, 190, 1)  # a cursor with serifs, a letter further on
    mask = text_mask(written, [(58, 86, 84, 18)])
    assert (mask[86:105, 160] == 255).all() and (mask[86, 157:164] == 255).all()
    assert not mask[:, 168:].any()
    short = smooth.copy()
    for ends in (((150, 89), (150, 101)), ((147, 89), (153, 89)), ((147, 101), (153, 101))):
        cv2.line(short, *ends, 190, 1)
    assert (text_mask(short, [(58, 84, 84, 22)])[89:102, 150] == 255).all()  # of which the box holds a margin


def test_lines_of_text_are_not_each_others_surround() -> None:
    dark = np.full((120, 200), 40, np.uint8)
    for row, word in ((50, "MAMA ESQ"), (64, "QSE")):
        cv2.putText(dark, word, (60, row), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    mask = text_mask(dark, [(58, 40, 66, 12), (58, 54, 30, 12)])
    assert (mask[dark > 120] == 255).mean() > 0.97
    assert (mask[54:66, 58:88] == 255).mean() < 0.9  # the letters, not the box


def doppler() -> np.ndarray:
    pixels = cv2.cvtColor(
        view(draw_patient(1, 2, None, "linear"), 0, size=200, margin=0).pixels, cv2.COLOR_GRAY2RGB
    )
    cv2.circle(pixels, (100, 100), 30, (220, 40, 30), -1)
    return pixels


def test_colour_doppler_by_the_corpus_file() -> None:
    kept = clean_frame(doppler(), FULL)
    assert isinstance(kept, Cleaned) and "colour-doppler" in kept.flags and kept.fraction == 0
    dropped = clean_frame(doppler(), FULL.model_copy(update={"doppler": "drop", "level": "sector"}))
    assert isinstance(dropped, Refused) and dropped.reason == "colour-doppler"
    masked = clean_frame(doppler(), FULL.model_copy(update={"doppler": "mask"}))
    assert isinstance(masked, Cleaned) and masked.fraction > 0.03
    limited = clean_frame(doppler(), FULL.model_copy(update={"doppler": "mask", "max_altered": 0.01}))
    assert isinstance(limited, Refused) and limited.reason == "altered" and "%" in limited.detail


def test_a_traced_outline_is_masked_and_a_tint_is_not() -> None:
    grey = view(draw_patient(1, 2, None, "linear"), 0, size=200, margin=0).pixels
    traced = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    cv2.ellipse(traced, (100, 100), (50, 30), 0, 0, 360, (0, 255, 0), 1)
    record = clean_frame(traced, FULL)
    assert isinstance(record, Cleaned) and "coloured-marks" in record.flags
    line = (traced[..., 1].astype(int) - traced[..., 0]) > 100
    assert (record.pixels[line] < 240).all() and 0 < record.fraction < 0.1
    sepia = np.stack([grey, grey * 0.8, grey * 0.5], axis=2).astype(np.uint8)
    toned = clean_frame(sepia, FULL)
    assert isinstance(toned, Cleaned) and toned.flags[0] == "tinted" and toned.fraction == 0
    noisy = np.stack([grey, grey, np.clip(grey.astype(int) + 15, 0, 255)], axis=2).astype(np.uint8)
    assert coloured(noisy) is None and coloured(grey) is None


def test_a_picture_is_not_written_to_while_it_is_looked_at() -> None:
    """A sector cut out to its corners fills the frame, and what lies outside of it is the frame's own."""
    shown = screen("convex", 3)
    rows, columns = np.nonzero(shown.sector)
    tight = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    pixels = np.ascontiguousarray(shown.pixels[tight])
    pixels.flags.writeable = False
    before = pixels.copy()
    plan = make_plan([pixels], FULL, {})
    assert plan.inside is not None and plan.sector.box[2:] == pixels.shape[::-1] and plan.text_boxes > 0
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("kind", PROBES)
def test_masked_pixels_at_the_rim_are_filled_with_tissue(kind: ProbeKind) -> None:
    shown = screen(kind, 0, text=False, calipers=False)
    rows, columns = np.nonzero(shown.sector)
    row = int(np.quantile(rows, 0.6))
    planted = shown.pixels.copy()
    left = int(columns[rows == row].min())
    cv2.putText(planted, "QSE", (left + 2, row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 2)
    depth = cv2.distanceTransform(shown.sector.astype(np.uint8), cv2.DIST_L2, 3)
    rim = (planted != shown.pixels) & shown.sector & (depth < 8)
    share = cv2.blur(shown.sector.astype(np.float32), (25, 25))
    tissue = cv2.blur(np.where(shown.sector, shown.bare, 0).astype(np.float32), (25, 25)) / np.maximum(
        share, 1e-3
    )
    _, after = cleaned(replace(shown, pixels=planted))
    assert rim.sum() > 50 and abs(float((after[rim] - tissue[rim]).mean())) < 12


@pytest.mark.parametrize("how", ["local", "inpaint"])
def test_filling_changes_the_mask_only(how: str) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(90, 110, (120, 160)).astype(np.uint8)
    mask = np.zeros_like(pixels)
    mask[40:60, 50:120] = 255
    before = pixels.copy()
    pixels[mask > 0] = 255
    after = fill(pixels, mask, how)  # type: ignore[arg-type]
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert ((after[mask > 0] >= 90) & (after[mask > 0] < 110)).all()
    assert fill(pixels, np.zeros_like(mask)) is pixels
    everything = fill(pixels, np.full_like(mask, 255))
    assert everything.shape == pixels.shape and (everything == 0).all()  # nothing is known, nothing invented


def test_quality_flags() -> None:
    limits = QualityLimits()
    tissue = view(draw_patient(1, 2, None, "linear"), 0, size=200, margin=0).pixels
    assert quality_flags(tissue, limits) == []
    assert quality_flags(np.full((100, 100), 77, np.uint8), limits) == ["flat"]
    assert "saturated" in quality_flags(np.where(tissue > 110, 255, tissue).astype(np.uint8), limits)
    assert quality_flags(cv2.GaussianBlur(tissue, (0, 0), 6), limits.model_copy(update={"flat": 0.0})) == [
        "blurred"
    ]
    assert quality_flags(tissue[:50], limits) == ["tiny"]
    assert quality_flags(np.zeros((80, 80), np.uint8), limits) == ["empty", "flat"]
    mostly = np.zeros_like(tissue)
    mostly[:8] = tissue[:8]
    assert "empty" in quality_flags(mostly, limits)
