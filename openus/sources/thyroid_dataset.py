"""Thyroid Dataset: classes of the TN3K part, from two tables without a header that some copies lack."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.errors import SourceError
from openus.select.tables import Tables

_NAME = re.compile(r"(trainval|test)-image/([^/]+)\.jpg$")
CLASSES = {"0": "benign", "1": "malignant"}


@functools.lru_cache(maxsize=2)
def _labels(tables: Tables, part: str) -> dict[str, str]:
    name = f"label4{part}.csv"
    try:
        path = tables.find(name)
    except SourceError:  # not part of every copy
        return {}
    rows = tables.read(name, header=False)
    if rows and set(rows[0]) != {"0", "1"}:
        raise SourceError(
            f"thyroid-dataset: {path} has {len(rows[0])} columns; expected two, the image's name and its class (0 or 1)"
        )
    return {row["0"].removesuffix(".jpg"): row["1"] for row in rows}


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Label `malignancy` (benign, malignant) of a TN3K image, where the copy has the tables.

    Raises:
        SourceError: a table has other columns, or another class.
    """
    found = _NAME.search(path)
    code = _labels(tables, found[1]).get(found[2], "") if found else ""
    if not code:
        return {}
    if code not in CLASSES:
        raise SourceError(f"thyroid-dataset: class of {path} is '{code}', not one of {', '.join(CLASSES)}")
    return {"labels": {"malignancy": CLASSES[code]}}
