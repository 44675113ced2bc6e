"""The rectangles of a DICOM picture that its own header calls tissue (PS3.3 C.8.5.5, US Region Calibration)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from openus.clean.shapes import Box

_TWO_DIMENSIONAL = 1  # RegionSpatialFormat: 2D (tissue or flow)
_PICTURES = (1, 2)  # RegionDataType: tissue, colour flow


def tissue_regions(meta: Mapping[str, str], height: int, width: int) -> list[Box]:
    """Rectangles (x, y, w, h) of two-dimensional tissue or flow, those that lie in others left out.

    Empty where the header names none, or names places outside the picture: it then describes another picture
    than the one stored.
    """
    try:
        regions = json.loads(meta.get("SequenceOfUltrasoundRegions", "[]"))
    except ValueError:
        return []
    boxes: set[Box] = set()
    for region in regions:
        if (
            region.get("RegionSpatialFormat") != _TWO_DIMENSIONAL
            or region.get("RegionDataType") not in _PICTURES
        ):
            continue
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if not all(isinstance(value, int) for value in corners):
            return []
        x0, y0, x1, y1 = corners
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            return []
        boxes.add((x0, y0, min(x1, width - 1) - x0 + 1, min(y1, height - 1) - y0 + 1))
    return sorted(box for box in boxes if not any(_holds(other, box) for other in boxes - {box}))


def around(boxes: list[Box]) -> Box:
    """The smallest box that holds all of them."""
    x, y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return x, y, right - x, bottom - y


def _holds(one: Box, other: Box) -> bool:
    inside_x = one[0] <= other[0] and other[0] + other[2] <= one[0] + one[2]
    return inside_x and one[1] <= other[1] and other[1] + other[3] <= one[1] + one[3]
