"""kidneyUS: view, quality and kind of kidney from the JSON cell of the annotation table.

The table comes from the authors' label repository, a download of its own; without it the images are unlabelled.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from openus.errors import SourceError
from openus.select.tables import TableMissingError, Tables

TABLE = "labels/reviewed_labels_1.csv"
_TRANSPLANT = re.compile("transplant", re.IGNORECASE)


@functools.lru_cache(maxsize=1)
def _labels(tables: Tables) -> dict[str, dict[str, str]]:
    try:
        rows = tables.read(TABLE, columns=("filename", "file_attributes"))
    except TableMissingError:
        return {}
    labels: dict[str, dict[str, str]] = {}
    for row in rows:
        # A file has a row for each region; where they differ, the first one counts, as in the authors' counts.
        if row["filename"] not in labels:
            labels[row["filename"]] = _attributes(row["file_attributes"], row["filename"])
    return labels


def _attributes(cell: str, name: str) -> dict[str, str]:
    try:
        facts = json.loads(cell or "{}")
    except ValueError as error:
        raise SourceError(f"kidneyus: {TABLE}: file_attributes of {name} is not JSON ({error})") from error
    transplant = _TRANSPLANT.search(str(facts.get("Comments", "")))
    found = {
        "view": str(facts.get("View", "")).lower(),
        "quality": str(facts.get("Quality", "")).lower(),
        "kidney": "transplant" if transplant else "native",
    }
    return {name: value for name, value in found.items() if value}


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Labels `view` (longitudinal, transverse, other), `quality` and `kidney` (native, transplant).

    Raises:
        SourceError: the table is there but lacks a column or is not as expected.
    """
    return {"labels": _labels(tables).get(path.rsplit("/", 1)[-1], {})}
