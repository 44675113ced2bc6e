"""The scan sector: the part of a picture that the probe insonified, found from its shape.

The picture is shrunk, its flat background told from what is lit, thin things (text, rulers, grey bars) are
taken away by an opening, and a shape is fitted to the outline of what is left:

    fan        two straight sides that meet above, an arc below; above an arc round the same point (convex),
               that point itself (phased), or a flat face (trapezoid)
    rectangle  linear arrays; a side counts only where the picture steps from tissue to background

A side is the line that most of the outline lies on, so that neither text that touches the sector nor a shadow
at its flank moves it; a side that cannot be seen is not cut. Where no shape fits, or hardly anything would be
cut, the whole frame is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.clean import area
from openus.clean.fit import Rim, SectorKind, fit_fan, fit_rectangle
from openus.clean.shapes import Box, Floats, clip_box, cut, inside_fraction
from openus.decode.frame import Pixels

Labels = NDArray[np.int32]

WORK = 400  # greatest long side of the picture that is looked at
THIN = 15  # what is thinner than so many of its pixels (4 to 8 %) is no sector
_DARKEST_SIDE = 32  # a level brighter than this is no background: flat shadows lie at 40 in some pictures
# Grey levels above the background that count as lit. Coding noise round a sharp edge can reach the lower one,
# so it comes first only where many frames tell faint tissue from noise.
_MARGINS = {True: (4, 9), False: (9, 4)}
_SLACK = 0.3  # pixels of the work picture by which a fitted side may be wrong
_LEAST = 0.03  # share of the frame that a sector has
_SQUARE = np.ones((3, 3), np.uint8)
_NEARLY_ALL = 0.97  # a sector that covers so much of the frame is the frame


@dataclass(frozen=True)
class Sector:
    """The insonified region.

    kind:  its shape; `full` where the whole frame is kept.
    outline: float32 [N, 2], x and y of its corners in pixels of the frame, in order.
    box:   x, y, width, height of the part of the frame to keep.
    panels: how many pictures stand side by side in the frame.
    margin: pixels by which the mask is wider than the outline, for what the fit may be wrong by.
    """

    kind: SectorKind
    outline: Floats
    box: Box
    panels: int = 1
    margin: int = 0

    def mask(self) -> Pixels:
        """uint8 [height, width] of the box: 255 inside the sector, 0 outside."""
        x, y, w, h = self.box
        canvas = np.zeros((h, w), np.uint8)
        points = np.rint((self.outline - np.array([x, y], np.float32)) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [points], 255, lineType=cv2.LINE_8, shift=4)
        if self.margin:
            around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self.margin + 1, 2 * self.margin + 1))
            return np.asarray(cv2.dilate(canvas, around), np.uint8)
        return canvas


@lru_cache(maxsize=64)
def whole(height: int, width: int, panels: int = 1) -> Sector:
    """The sector of a frame that is kept as it is."""
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    corners.flags.writeable = False
    return Sector("full", corners, (0, 0, width, height), panels)


def find_sector(peak: Pixels, frames: int = 1, small: tuple[Pixels, int] | None = None) -> Sector:
    """Find the sector in the peak projection uint8 [H, W] of so many frames of a clip, or in a single picture.

    small: what `shrink(peak)` gives, where the caller has it already.
    """
    height, width = peak.shape
    work, factor = small or shrink(peak)
    size = (work.shape[1], work.shape[0])
    floor = background(work)
    if floor is None or min(size) < 2 * THIN:
        return whole(height, width)
    count = 1
    for margin in _MARGINS[frames >= 8]:
        lit = np.asarray(cv2.threshold(work, floor + margin, 1, cv2.THRESH_BINARY)[1], np.uint8)
        parts = _parts(_solid(lit))
        found = [_shape(part, lit, work, floor) for part in parts]
        count = max(1, len(parts))
        if found and all(found):
            break
    else:
        return whole(height, width, count)
    kinds, outlines = zip(*(shape for shape in found if shape is not None), strict=True)
    outline = outlines[0]
    if len(parts) > 1:  # the pictures and the strip between them stay together
        outline = cv2.convexHull(np.concatenate(outlines))[:, 0]
    if inside_fraction(outline, work.shape) > _NEARLY_ALL:
        return whole(height, width, len(parts))
    # Sides that go on beyond the picture are cut there: their ends moved into it, they would lean the other way.
    outline = cut(cut(outline, size[0] - 1, -1)[:, ::-1], size[1] - 1, -1)[:, ::-1]
    full = np.asarray((outline + 0.5) * factor - 0.5, np.float32)
    # What ends with the work picture ends with the frame, whose last few pixels the former leaves out.
    full[outline[:, 0] > size[0] - 1.5, 0] = width - 1
    full[outline[:, 1] > size[1] - 1.5, 1] = height - 1
    kind: SectorKind = kinds[0] if len(parts) == 1 else "other"
    margin = round(_SLACK * factor)
    return Sector(kind, full, clip_box(full, height, width, margin), len(parts), margin)


def shrink(pixels: Pixels) -> tuple[Pixels, int]:
    """uint8 [H, W] averaged over squares of so many pixels that its long side is at most `WORK`, and their side.

    Squares that the last rows and columns do not fill are left out: whole ones are averaged several times as fast.
    """
    height, width = pixels.shape
    factor = -(-max(height, width) // WORK)
    size = (width // factor, height // factor)
    if factor == 1 or min(size) < 1:
        return pixels, 1
    return area.shrink(pixels[: size[1] * factor, : size[0] * factor], *size), factor


def background(work: Pixels) -> int | None:
    """The grey level of the flat, dark surround of uint8 [H, W], or None where there is none to speak of.

    The darkest level that 1.5 % of the picture holds without any texture: shadows are dark too, but lie above it
    or are not flat.
    """
    levels, least = _DARKEST_SIDE + 1, 0.015 * work.size
    dim = cv2.threshold(work, levels, 255, cv2.THRESH_BINARY_INV)[1]
    if cv2.countNonZero(dim) < least:
        return None
    spread = cv2.morphologyEx(work, cv2.MORPH_GRADIENT, _SQUARE)
    flat = cv2.bitwise_and(dim, cv2.threshold(spread, 2, 255, cv2.THRESH_BINARY_INV)[1])
    if cv2.countNonZero(flat) < least:
        return None
    counts = cv2.calcHist([work], [0], flat, [levels], [0, levels]).ravel()
    near = np.convolve(counts, np.ones(3), "same")
    dark = np.flatnonzero(near >= least)
    return int(dark[0]) if len(dark) else None


def _solid(lit: Pixels) -> Pixels:
    """What is lit, its speckle closed and all thin things opened away, 0 or 1."""
    # Black beyond the frame, so that a thin bar along its edge counts as thin.
    wide = cv2.copyMakeBorder(lit, THIN, THIN, THIN, THIN, cv2.BORDER_CONSTANT, value=[0])
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (THIN, THIN))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, disc)
    return np.ascontiguousarray(opened[THIN:-THIN, THIN:-THIN])


def _parts(solid: Pixels) -> list[Pixels]:
    """The pictures in the frame: the biggest piece, and those of like size that stand beside it."""
    # The measures of the pieces take six times as long as to find them, and mostly there is but one.
    count = cv2.connectedComponents(solid, connectivity=8)[0]
    if count == 1 or (count == 2 and cv2.countNonZero(solid) < _LEAST * solid.size):
        return []
    if count == 2:
        return [solid]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA]) + 1
    first = order[0]
    if stats[first, cv2.CC_STAT_AREA] < _LEAST * solid.size:
        return []
    parts = [[int(first)]]
    for label in order[1:]:
        if stats[label, cv2.CC_STAT_AREA] < 0.1 * stats[first, cv2.CC_STAT_AREA]:
            break
        if stats[label, cv2.CC_STAT_AREA] >= 0.5 * stats[first, cv2.CC_STAT_AREA] and all(
            _beside(stats[label], stats[other[0]]) for other in parts
        ):
            parts.append([int(label)])
        elif len(parts) == 1 and _below(stats[label], stats[first]):
            parts[0].append(int(label))  # the same picture, cut by a shadow
    return [_chosen(np.asarray(labels, np.int32), part) for part in parts]


def _chosen(labels: Labels, part: list[int]) -> Pixels:
    chosen = labels == part[0] if len(part) == 1 else np.isin(labels, part)
    return np.asarray(chosen, np.uint8)


def _beside(one: Labels, other: Labels) -> bool:
    """Bounding boxes (x, y, w, h, …) that share rows but no columns."""
    apart = one[0] >= other[0] + other[2] or other[0] >= one[0] + one[2]
    rows = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return bool(apart and rows > 0.5 * min(one[3], other[3]))


def _below(one: Labels, other: Labels) -> bool:
    """Under the other within a tenth of its height, and within its columns: a title bar is above, or wider."""
    near = 0 <= one[1] - other[1] - other[3] <= 0.1 * other[3]
    return bool(near and one[0] >= other[0] - 5 and one[0] + one[2] <= other[0] + other[2] + 5)


def _shape(part: Pixels, lit: Pixels, work: Pixels, floor: int) -> tuple[SectorKind, Floats] | None:
    """Kind and outline of one picture in work pixels, or None where nothing fits."""
    rim = Rim.of(part, lit)
    fan = fit_fan(rim, part.shape)
    if fan is not None and _fits(part, fan[1]):
        return fan
    box = fit_rectangle(rim, work, floor)
    # Where all four sides are plain to see, more may hang on to the picture: a line of text up to a title bar.
    if box is not None and _fits(part, box[0], 0.93 if box[1] else 0.97):
        return "linear", box[0]
    return None


def _fits(part: Pixels, outline: Floats, held: float = 0.97) -> bool:
    """The outline holds so much of the part (text may adjoin it), and the part fills most of the outline."""
    canvas = np.zeros_like(part)
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
    inside = cv2.countNonZero(cv2.bitwise_and(canvas, part))
    return inside >= held * cv2.countNonZero(part) and inside >= 0.7 * cv2.countNonZero(canvas)
