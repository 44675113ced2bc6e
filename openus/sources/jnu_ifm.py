"""JNU-IFM: what a frame shows, from the ``frame_label.csv`` that lies in the folder of each video."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.errors import SourceError
from openus.select.tables import Tables

_NAME = re.compile(r"(\d{8}T\d{6})/image/[^/]*_0*(\d+)\.png$")
CLASSES = {"3": "none", "4": "only symphysis", "5": "only head", "6": "symphysis and head"}


@functools.lru_cache(maxsize=4)
def _labels(tables: Tables, video: str) -> dict[int, str]:
    rows = tables.read(f"{video}/frame_label.csv", columns=("frame_id", "frame_label"))
    return {int(row["frame_id"]): row["frame_label"] for row in rows if row["frame_id"].isdecimal()}


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Label `structures` of a frame, where its video's table has a row for it.

    Raises:
        SourceError: the table or a column is missing, or the label is none of the four codes.
    """
    found = _NAME.search(path)
    code = _labels(tables, found[1]).get(int(found[2]), "") if found else ""
    if not code:
        return {}
    if code not in CLASSES:
        raise SourceError(
            f"jnu-ifm: label of {path} is '{code}', not one of {', '.join(CLASSES)}; "
            "the data differ from the release of 2022"
        )
    return {"labels": {"structures": CLASSES[code]}}
