"""Phantoms as a scanner shows them: a field of view somewhere on a screen, with text, rulers and marks planted.

Everything planted is known pixel by pixel, so that what cleaning should take away, and leave, can be counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.demo.phantom import ProbeKind, draw_patient, view

Mask = NDArray[np.bool_]
OUTSIDE = (
    "MI 1.1 TIS 0.4",
    "GEN S P21",
    "14:52:07",
    "FR 28HZ RS",
    "DEPTH 12.0CM",
    "ID 4711-B",
    "GAIN 61 DR 70",
)
INSIDE = ("LT BREAST 2H", "MAMA DIREITA", "QSE", "UPPER POLE", "R KIDNEY SAG", "LVOT")


@dataclass(frozen=True)
class Screen:
    """pixels: uint8 [H, W] or [H, W, 3], all planted; bare: uint8 [H, W], the picture alone;
    sector, outside, inside, marks: bool [H, W], the field of view, and where text outside of it, text inside it,
    and calipers are."""

    pixels: NDArray[np.uint8]
    bare: NDArray[np.uint8]
    sector: Mask
    outside: Mask
    inside: Mask
    marks: Mask


def screen(
    kind: ProbeKind, number: int, *, seed: int = 7, text: bool = True, calipers: bool = True, colour: bool = False,
    height: int = 540, width: int = 720, view_number: int = 0,
) -> Screen:  # fmt: skip
    """The screen of a scanner with phantom `number`; the same arguments give the same pixels."""
    rng = np.random.default_rng([seed, number])
    seen = view(draw_patient(seed, number, "cyst" if number % 2 else None, kind), view_number, size=300)
    h, w = seen.pixels.shape
    x, y = int(rng.integers(40, width - w - 40)), int(rng.integers(30, height - h - 20))
    bare, sector = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
    bare[y : y + h, x : x + w], sector[y : y + h, x : x + w] = seen.pixels, seen.sector
    frame = _furniture(rng, bare, x + w, y, h)
    outside = (frame != bare) & ~sector
    pixels = np.where(sector, bare, frame)
    inside = _text_inside(rng, pixels, sector) if text else np.zeros_like(sector)
    shown = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if colour else pixels
    marks = _calipers(rng, shown, sector, inside, colour) if calipers else np.zeros_like(sector)
    return Screen(shown, bare, sector, outside, inside, marks)


def _furniture(
    rng: np.random.Generator, bare: NDArray[np.uint8], right: int, top: int, tall: int
) -> NDArray[np.uint8]:
    """Title bar, text round the picture, grey bar, depth ruler: some of it touches the picture."""
    frame = bare.copy()
    height, width = frame.shape
    cv2.rectangle(frame, (0, 0), (width - 1, 14), 60, -1)
    cv2.putText(frame, "GENERAL HOSPITAL 12-10-2020", (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 220, 1)
    for number, words in enumerate(rng.permutation(OUTSIDE)):
        place = (8 if number % 2 else width - 150, 40 + number * height // 8)
        cv2.putText(frame, str(words), place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 230, 1, cv2.LINE_AA)
    for step in range(12):
        cv2.line(frame, (right + 3, top + step * tall // 12), (right + 9, top + step * tall // 12), 200, 1)
    cv2.rectangle(frame, (width - 22, 60), (width - 12, 260), 128, -1)
    return frame


def _text_inside(rng: np.random.Generator, pixels: NDArray[np.uint8], sector: Mask) -> Mask:
    """Write two labels into the tissue; returns where they changed it."""
    before = pixels.copy()
    deep = cv2.erode(sector.astype(np.uint8), np.ones((25, 25), np.uint8), borderValue=0)
    for words in rng.choice(INSIDE, 2, replace=False):
        (w, h), _ = cv2.getTextSize(str(words), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        fits = cv2.erode(deep, np.ones((h + 4, w + 4), np.uint8), anchor=(0, h + 3), borderValue=0)
        fits[:, -w - 6 :] = 0
        places = np.argwhere(fits > 0)
        if len(places):
            row, column = places[int(rng.integers(len(places)))]
            cv2.putText(
                pixels,
                str(words),
                (int(column), int(row)),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.5,
                245,
                1,
                cv2.LINE_AA,
            )
    return np.abs(pixels.astype(int) - before) > 30


def _calipers(
    rng: np.random.Generator, shown: NDArray[np.uint8], sector: Mask, taken: Mask, colour: bool
) -> Mask:
    """Draw four crosses into the tissue, away from its text; returns where they changed it."""
    before = shown.copy()
    free = cv2.erode(sector.astype(np.uint8), np.ones((31, 31), np.uint8), borderValue=0)
    free &= 1 - cv2.dilate(taken.astype(np.uint8), np.ones((41, 41), np.uint8))
    ink = (255, 255, 0) if colour else 255
    for _ in range(4):
        places = np.argwhere(free > 0)
        row, column = (int(v) for v in places[int(rng.integers(len(places)))])
        cv2.drawMarker(shown, (column, row), ink, cv2.MARKER_CROSS, 11, 1)
        free[max(0, row - 20) : row + 20, max(0, column - 20) : column + 20] = 0
    changed = np.abs(shown.astype(int) - before) > 30
    return changed.any(axis=2) if changed.ndim == 3 else changed
