"""BUS-UCLM: the class by the colour of the mask, where a copy lacks the ``INFO.csv`` that says it in words."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from openus.decode.media import decode_image
from openus.errors import DecodeError, SourceError
from openus.select.tables import TableMissingError, Tables

_NAME = re.compile(r"images/([A-Z]{4}_\d+\.png)$")
_DARK = 10  # grey level up to which a channel counts as black
COLOURS = {(False, False): "normal", (False, True): "benign", (True, False): "malignant", (True, True): ""}
"""Whether a mask has red and green in it, to the class of its image; none where it has both."""


@functools.lru_cache(maxsize=1)
def _is_told(tables: Tables) -> bool:
    try:
        tables.find("INFO.csv")
    except TableMissingError:
        return False
    return True


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Label `pathology` (normal, benign, malignant) of an image that no table and a mask tells of.

    Raises:
        SourceError: the mask is no picture, or has other colours than green for benign or red for malignant.
    """
    found = _NAME.search(path)
    if found is None or _is_told(tables):
        return {}
    mask = f"masks/{found[1]}"
    try:
        pixels = decode_image(tables.data(mask), mask)
    except TableMissingError:
        return {}
    except DecodeError as error:
        raise SourceError(f"bus-ucml: {error}") from error
    # A mask whose channels are equal comes as grey: black, unless it is of another release.
    planes = np.atleast_3d(pixels)
    red, green, blue = (bool(np.any(planes[..., channel % planes.shape[2]] > _DARK)) for channel in range(3))
    if blue:
        raise SourceError(
            f"bus-ucml: {mask} is neither black, green nor red; the data differ from the release"
        )
    return {"labels": {"pathology": COLOURS[red, green]}}
