"""What is to be done to every frame of a clip, decided once from the frames that were looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from openus.clean.calipers import find_calipers
from openus.clean.evidence import Evidence, gather
from openus.clean.quality import panel_seam
from openus.clean.regions import around, tissue_regions
from openus.clean.sector import Sector, find_sector, shrink, whole
from openus.clean.shapes import Box
from openus.clean.text import find_text, letters_on_black, may_hold_text, text_mask
from openus.decode.frame import Pixels
from openus.manifest import CleanSettings

_MANY = 8  # frames that tell what is burned in from tissue that happens to rest


@dataclass(frozen=True)
class Plan:
    """Decisions for the frames of one size in a clip.

    sector:  what to keep; `sector.box` is the crop.
    inside:  uint8 [h, w] of the crop, 255 inside the sector; None where the whole frame is kept.
    marked:  uint8 [h, w] of the crop, 255 on static text and calipers; None where there are none.
    text_boxes: boxes of text inside the sector; -1 where nobody looked.
    flags:   what a row should say of the clip.
    """

    sector: Sector
    inside: Pixels | None = None
    marked: Pixels | None = None
    text_boxes: int = -1
    flags: tuple[str, ...] = ()


def make_plan(frames: Sequence[Pixels], settings: CleanSettings, meta: Mapping[str, str]) -> Plan:
    """Decide from frames of one size, uint8 [H, W] or [H, W, 3]; `meta` is what the decoder found.

    Raises:
        MissingExtraError: level `full` without the extra `text`.
    """
    evidence = gather(frames)
    small = shrink(evidence.peak)
    sector = locate(evidence.peak, meta, evidence.frames, small)
    flags = [] if sector.kind == "full" else [f"sector-{sector.kind}"]
    if sector.panels > 1:
        flags.append(f"panels-{sector.panels}")
    else:
        same = sector.kind == "full" and evidence.mean is evidence.peak
        if panel_seam((small if same else shrink(_crop(evidence.mean, sector.box)))[0]):
            flags.append("panels-2")
    inside = None if sector.kind == "full" else sector.mask()
    plan = Plan(sector, inside, flags=tuple(flags))
    return _with_marks(plan, evidence) if settings.level == "full" else plan


def _with_marks(plan: Plan, evidence: Evidence) -> Plan:
    """Add the static text and calipers inside the sector to a plan."""
    still, mean = (np.ascontiguousarray(_crop(p, plan.sector.box)) for p in (evidence.still, evidence.mean))
    if plan.inside is not None:
        still, mean = still.copy(), mean.copy()  # of a single picture, they are its own pixels
        # Grey outside: text there is not counted, and the outline of a sector on black misleads the detector.
        outside = plan.inside == 0
        still[outside] = mean[outside] = int(np.median(mean[~outside]))
    boxes = find_text(mean) if may_hold_text(still) else []
    marked = cv2.bitwise_or(text_mask(mean, boxes), find_calipers(still))
    if evidence.frames >= _MANY:
        letters = letters_on_black(evidence.still, evidence.peak)
        marked = cv2.bitwise_or(marked, np.ascontiguousarray(_crop(letters, plan.sector.box)))
    if plan.inside is not None:
        marked = cv2.bitwise_and(marked, plan.inside)
    some = np.asarray(marked, np.uint8) if cv2.countNonZero(marked) else None
    return replace(plan, marked=some, text_boxes=len(boxes))


def locate(
    peak: Pixels, meta: Mapping[str, str], frames: int = 1, small: tuple[Pixels, int] | None = None
) -> Sector:
    """The sector in a peak projection uint8 [H, W], looked for inside the header's regions where it has some;
    `small` is what `shrink(peak)` gives."""
    height, width = peak.shape
    regions = tissue_regions(meta, height, width)
    if not regions:
        return find_sector(peak, frames, small)
    box = around(regions)
    x, y, w, h = box
    found = find_sector(np.ascontiguousarray(_crop(peak, box)), frames)
    moved = replace(
        found,
        kind="other" if found.kind == "full" else found.kind,
        outline=found.outline + np.array([x, y], np.float32),
        box=(found.box[0] + x, found.box[1] + y, found.box[2], found.box[3]),
        panels=max(found.panels, len(regions)),
    )
    nothing_cut = found.kind == "full" and w * h >= 0.97 * height * width
    return whole(height, width, moved.panels) if nothing_cut else moved


def _crop(pixels: Pixels, box: Box) -> Pixels:
    x, y, w, h = box
    return pixels[y : y + h, x : x + w]
