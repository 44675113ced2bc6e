"""The steps a frame goes through, in order, with the record of what they did.

decoded frame ─▶ plan of its clip ─▶ crop ─▶ grey ─▶ masked text and markings ─▶ black outside ─▶ resize
                 (first frames)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from openus.clean.evidence import look
from openus.clean.fill import fill
from openus.clean.grey import is_dark, lit_fraction, resize_short_side, to_grey
from openus.clean.marks import Colour, coloured
from openus.clean.plan import Plan, make_plan
from openus.clean.sector import whole
from openus.decode.frame import Frame, Pixels
from openus.manifest import CleanSettings

_NO_META: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A frame ready to be stored.

    pixels:  uint8 [H, W].
    sector:  x, y, width, height of the part that was kept, in pixels of the source frame.
    fraction: share of the pixels of the sector that cleaning masked (what is blanked outside does not count).
    text_boxes: boxes of text inside the sector that were masked; -1 where nobody looked.
    flags:   sorted short words: ``sector-convex``, ``panels-2``, ``colour-doppler``, … (not those of its quality:
             see `quality_flags`).
    """

    pixels: Pixels
    sector: tuple[int, int, int, int]
    fraction: float = 0.0
    text_boxes: int = -1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame that does not belong in a corpus, with a short stable reason and the figure behind it."""

    reason: str
    detail: str


def clean_frames(
    frames: Iterable[Frame], settings: CleanSettings, meta: Mapping[str, str] = _NO_META
) -> Iterator[tuple[Frame, Cleaned | Refused]]:
    """Clean the frames of one image, clip or volume, in order, as a stream.

    Above level ``none`` the first frames (`settings.look` of them, at most `evidence.LOOK_BYTES`) are held back
    to decide the sector and the static text of the clip; memory does not grow with its length. `meta` are the
    facts the decoder found in the file (`Media.meta`).
    """
    if settings.level == "none":
        for frame in frames:
            yield frame, clean_frame(frame.pixels, settings)
        return
    taken, stream = look(frames, settings.look)
    plans: dict[tuple[int, ...], Plan] = {}
    if taken:
        plans[taken[0].pixels.shape[:2]] = make_plan([frame.pixels for frame in taken], settings, meta)
    del taken
    for frame in stream:
        shape = frame.pixels.shape[:2]
        if shape not in plans:  # a clip whose size changes midway
            plans[shape] = make_plan([frame.pixels], settings, meta)
        yield frame, clean_frame(frame.pixels, settings, plans[shape])


def clean_frame(pixels: Pixels, settings: CleanSettings, plan: Plan | None = None) -> Cleaned | Refused:
    """Clean one decoded frame, uint8 [H, W] or [H, W, 3]. Without a plan above level ``none``, it gets its own."""
    if plan is None:
        if settings.level == "none":
            plan = Plan(whole(*pixels.shape[:2]))
        else:
            plan = make_plan([pixels], settings, _NO_META)
    x, y, w, h = plan.sector.box
    crop = pixels[y : y + h, x : x + w]
    flags = list(plan.flags)
    colour = coloured(crop) if settings.level != "none" else None
    flags += _colour_flags(colour, settings)
    if "colour-doppler" in flags and settings.doppler == "drop":
        assert colour is not None
        return Refused("colour-doppler", f"{colour.filled:.2%} of the picture are areas in colour")
    grey = to_grey(crop)
    fraction = 0.0
    if settings.level == "full":
        hidden = _hidden(plan, colour, flags, settings)
        if hidden is not None:
            masked = cv2.countNonZero(hidden)
            fraction = masked / (w * h if plan.inside is None else max(1, cv2.countNonZero(plan.inside)))
            if fraction > settings.max_altered:
                return Refused("altered", f"{fraction:.1%} of the sector would be masked")
            grey = fill(grey, hidden, settings.fill, plan.inside)
    if plan.inside is not None:
        grey = np.asarray(cv2.bitwise_and(grey, plan.inside), np.uint8)
    if is_dark(grey, settings.dark_level, settings.dark_fraction):
        lit = lit_fraction(grey, settings.dark_level)
        return Refused("dark", f"{lit:.4%} of pixels above grey level {settings.dark_level}")
    size = None if settings.size == "native" else settings.size
    small = resize_short_side(grey, size, settings.filter)
    return Cleaned(small, plan.sector.box, fraction, plan.text_boxes, tuple(sorted(flags)))


def _colour_flags(colour: Colour | None, settings: CleanSettings) -> list[str]:
    if colour is None:
        return []
    if colour.tinted:
        return ["tinted"]
    if colour.filled > settings.doppler_share:
        return ["colour-doppler"]
    return ["coloured-marks"] if colour.share > 2e-4 else []


def _hidden(plan: Plan, colour: Colour | None, flags: list[str], settings: CleanSettings) -> Pixels | None:
    """uint8 [h, w] of the crop, non-zero where this frame is to be masked; None where nothing is."""
    hide_colour = "coloured-marks" in flags or ("colour-doppler" in flags and settings.doppler == "mask")
    if colour is None or not hide_colour:
        return plan.marked
    # Coding blurs colour more than brightness: what surrounds a coloured line is shaded by it.
    wide = np.asarray(cv2.dilate(colour.mask, np.ones((5, 5), np.uint8)), np.uint8)
    if plan.inside is not None:
        wide = np.asarray(cv2.bitwise_and(wide, plan.inside), np.uint8)
    return wide if plan.marked is None else np.asarray(cv2.bitwise_or(wide, plan.marked), np.uint8)
