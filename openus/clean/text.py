"""Burned-in text: where it is (never what it says), and which pixels are its strokes."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.clean.shapes import Box
from openus.decode.frame import Pixels
from openus.errors import MissingExtraError

SHORT_SIDE = 480  # the detector sees smaller pictures enlarged to this short side: small letters need it
_STROKE = 9  # nothing thinner than so many pixels survives an opening of this size: letters, but also speckle
_CONTRAST = 35  # grey levels of a stroke above what the opening leaves
_TALLEST = 0.2  # of the picture's short side: not even two lines of lettering taken for one are higher
_BAR = 12  # grey levels of a cursor's bar above what stands two pixels beside it
_FEW = 12  # pixels of stroke; one letter has more
_STILL = 140  # grey level that a letter keeps in all frames of a clip
_BLACK = 50  # grey level that nothing beside a letter on black ever reaches
_LETTER = 0.08  # of the picture's short side: a letter is not larger


def strokes(pixels: Pixels) -> Pixels:
    """Thin bright structures of uint8 [H, W] (white top-hat above `_CONTRAST`), 0 or 255."""
    hat = cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, np.ones((_STROKE, _STROKE), np.uint8))
    return np.asarray(cv2.threshold(hat, _CONTRAST, 255, cv2.THRESH_BINARY)[1], np.uint8)


def may_hold_text(still: Pixels) -> bool:
    """The cheap test: whether anything in uint8 [H, W] is as thin, as bright, and as still as a letter."""
    return cv2.countNonZero(strokes(still)) >= _FEW


def find_text(pixels: Pixels) -> list[Box]:
    """Boxes of text in uint8 [H, W], by the detector of PP-OCR that travels with `rapidocr`; nothing is read.

    M. Liao et al., "Real-time scene text detection with differentiable binarization", AAAI 2020.

    Raises:
        MissingExtraError: `rapidocr` or `onnxruntime` is not installed.
    """
    if min(pixels.shape) < 8:
        return []
    found = _detector()(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None:
        return []
    height, width = pixels.shape
    boxes = []
    for corners in np.asarray(found.boxes, np.float64):
        low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
        x1, y1 = min(width, int(high[0]) + 1), min(height, int(high[1]) + 1)
        if _plausible(pixels, (x0, y0, x1 - x0, y1 - y0)):
            boxes.append((x0, y0, x1 - x0, y1 - y0))
    return sorted(boxes)


def _plausible(pixels: Pixels, box: Box) -> bool:
    """The detector at times takes the whole picture, or a lesion, for a letter: lettering is small and has strokes."""
    x, y, w, h = box
    if w < 3 or h < 3 or min(w, h) > max(_TALLEST * min(pixels.shape), 24):
        return False
    share = np.mean(strokes(pixels[max(0, y - 8) : y + h + 8, max(0, x - 8) : x + w + 8]) > 0)
    return bool(0.02 <= share <= 0.9)


@functools.cache
def _detector() -> Any:
    try:
        import onnxruntime  # noqa: F401 - rapidocr does not say in words that it is missing
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingExtraError(error.name or "rapidocr", "text", "finding text in pictures") from error
    threads = "EngineConfig.onnxruntime.{}_op_num_threads"
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.use_rec": False,
            "Det.limit_type": "min",
            "Det.limit_side_len": SHORT_SIDE,
            # One thread: workers are processes, and sums in another order would move a box.
            threads.format("intra"): 1,
            threads.format("inter"): 1,
        }
    )


def letters_on_black(still: Pixels, peak: Pixels) -> Pixels:
    """uint8 [H, W], 255 on what stays white in all frames of a clip where nothing else ever shines.

    The detector passes over letters of which the frame holds but a part; tissue neither is so still nor so alone.
    """
    ink = cv2.bitwise_and(strokes(still), cv2.threshold(still, _STILL - 1, 255, cv2.THRESH_BINARY)[1])
    mask = np.zeros_like(still)
    if cv2.countNonZero(ink) == 0:
        return mask
    wide = np.asarray(cv2.dilate(ink, np.ones((5, 5), np.uint8)), np.uint8)
    for x, y, w, h, _ in cv2.connectedComponentsWithStats(wide, connectivity=8)[2][1:].tolist():
        if max(w, h) > _LETTER * min(still.shape) + 4:
            continue
        near = np.s_[max(0, y - 4) : y + h + 4, max(0, x - 4) : x + w + 4]
        beside = peak[near][wide[near] == 0]
        if beside.size and np.quantile(beside, 0.8) < _BLACK:
            mask[y : y + h, x : x + w] |= wide[y : y + h, x : x + w]
    return mask


def text_mask(pixels: Pixels, boxes: list[Box]) -> Pixels:
    """uint8 [H, W], 255 on the letters in `boxes` and the pixel or two round them that their edge shades.

    Where letters cannot be told from what is behind them (white on white), all that is as bright is masked. The bar
    of a cursor behind the last letter goes with it.
    """
    mask = np.zeros_like(pixels)
    others = np.zeros(pixels.shape, bool)
    for x, y, w, h in boxes:
        others[y : y + h, x : x + w] = True
    for box in boxes:
        x, y, w, h = _padded(box, pixels.shape)
        region = pixels[y : y + h, x : x + w]
        mask[y : y + h, x : x + w] |= _letters(region, _surround(pixels, (x, y, w, h), others))
        _add_cursor(mask, pixels, box)
    return mask


def _add_cursor(mask: Pixels, pixels: Pixels, box: Box) -> None:
    """Mask upright bars of one or two pixels' width, about as high as the letters, within two letters to the right of
    them, with the serifs that some have."""
    x, y, w, h = box
    x0, x1 = max(2, x + w - h // 2), min(pixels.shape[1] - 2, x + w + 2 * h)
    if x1 <= x0 or h < 6:
        return
    top = max(0, y - h // 2)
    rows = pixels[top : y + h + h // 2].astype(np.int16)
    beside = np.maximum(rows[:, x0 - 2 : x1 - 2], rows[:, x0 + 2 : x1 + 2])
    bars = rows[:, x0:x1] - beside > _BAR
    for column in range(x1 - x0):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bars[:, column], [0]]).astype(np.int8)))
        runs = edges.reshape(-1, 2)
        start, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])] if len(runs) else (0, 0)
        # The box is higher than the letters, and serifs hide the ends of the bar.
        if stop - start >= max(5, 0.45 * h):
            at, serif = x0 + column, max(2, h // 4)
            first, last = max(0, top + start - 2), top + stop + 2
            mask[first:last, max(0, at - 2) : at + 3] = 255
            for rows_of_serif in (slice(first, first + 4), slice(last - 4, last)):
                mask[rows_of_serif, max(0, at - serif) : at + serif + 1] = 255


def _letters(region: Pixels, surround: Pixels) -> Pixels:
    """The letters in one box, 0 or 255, by the grey level that tells them from the surround."""
    if surround.size == 0:
        return np.full_like(region, 255)
    typical, bright = (float(value) for value in np.quantile(surround, [0.5, 0.97]))
    ink = float(np.quantile(region, 0.98))
    if ink < bright + 15:
        white = (region >= ink - 0.15 * max(0.0, ink - typical)).astype(np.uint8) * 255
        return np.asarray(cv2.dilate(white, np.ones((5, 5), np.uint8)), np.uint8)
    limit = max(typical + 0.3 * (ink - typical), min(bright, typical + 0.6 * (ink - typical)))
    behind = cv2.medianBlur(np.ascontiguousarray(region), 15).astype(np.float32)
    # On a cyst or a vessel, darker than the rest of the surround, the shaded edge of a letter is dark, too.
    limits = np.where(behind < 0.5 * typical, behind + 0.3 * (ink - behind), limit)
    letters = _with_core(region > limits, region > typical + 0.7 * (ink - typical))
    wide = np.asarray(cv2.dilate(letters, np.ones((5, 5), np.uint8)), np.uint8)
    return wide if np.mean(wide > 0) < 0.75 else np.full_like(region, 255)


def _with_core(wide: NDArray[np.bool_], core: NDArray[np.bool_]) -> Pixels:
    """The pieces of `wide` that hold a pixel of `core`, 0 or 255: bright speckle has no core as white as ink."""
    _, labels = cv2.connectedComponents(wide.astype(np.uint8), connectivity=8)
    kept = np.unique(labels[core & wide])
    return np.where(np.isin(labels, kept), np.uint8(255), np.uint8(0))


def _padded(box: Box, shape: tuple[int, ...]) -> Box:
    """A little larger: the detector's boxes cut the first and last letter at times."""
    pad = max(2, round(0.2 * box[3]))
    x0, y0 = max(0, box[0] - pad), max(0, box[1] - pad // 2)
    x1, y1 = min(shape[1], box[0] + box[2] + pad), min(shape[0], box[1] + box[3] + pad // 2)
    return x0, y0, x1 - x0, y1 - y0


def _surround(pixels: Pixels, box: Box, text: NDArray[np.bool_]) -> Pixels:
    """The grey levels above and below a box, as high as half of it, those of other `text` left out."""
    x, y, w, h = box
    reach = max(4, h // 2)
    above, below = np.s_[max(0, y - reach) : y, x : x + w], np.s_[y + h : y + h + reach, x : x + w]
    return np.concatenate([pixels[above][~text[above]], pixels[below][~text[below]]])
