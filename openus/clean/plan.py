"""What is to be done to every frame of a clip, decided once from the frames that were looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from openus.clean.evidence import Evidence, gather
from openus.clean.quality import panel_seam
from openus.clean.regions import around, tissue_regions
from openus.clean.sector import WORK, Sector, find_sector, whole
from openus.clean.shapes import Box
from openus.decode.frame import Pixels
from openus.manifest import CleanSettings


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
    sector = locate(evidence.peak, meta, evidence.frames)
    flags = [] if sector.kind == "full" else [f"sector-{sector.kind}"]
    if sector.panels > 1:
        flags.append(f"panels-{sector.panels}")
    elif panel_seam(_small(_crop(evidence.mean, sector.box))):
        flags.append("panels-2")
    inside = None if sector.kind == "full" else sector.mask()
    return Plan(sector, inside, flags=tuple(flags))


def locate(peak: Pixels, meta: Mapping[str, str], frames: int = 1) -> Sector:
    """The sector in a peak projection uint8 [H, W], looked for inside the header's regions where it has some."""
    height, width = peak.shape
    regions = tissue_regions(meta, height, width)
    if not regions:
        return find_sector(peak, frames)
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


def _small(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    scale = min(1.0, WORK / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


__all__ = ["Evidence", "Plan", "locate", "make_plan"]
