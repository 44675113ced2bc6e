"""EchoNet-Pediatric: each view has its own ``FileList.csv``, so that one table rule cannot name them both."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.select.tables import Row, Tables

_NAME = re.compile(r"(A4C|PSAX)/Videos/(.+)\.avi$")
_FIELDS = {"EF": "ef", "Sex": "sex", "Age": "age"}


@functools.lru_cache(maxsize=2)
def _rows(tables: Tables, view: str) -> dict[str, Row]:
    rows = tables.read(f"{view}/FileList.csv", columns=("FileName", "Split", *_FIELDS))
    return {row["FileName"].removesuffix(".avi"): row for row in rows}


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Labels `ef` (per cent), `sex`, `age` (years) and the official fold (`fold0` … `fold9`) of a clip.

    Raises:
        SourceError: the list of the view or one of its columns is missing.
    """
    found = _NAME.search(path)
    row = _rows(tables, found[1]).get(found[2]) if found else None
    if row is None:
        return {}
    labels = {label: row[field] for field, label in _FIELDS.items() if row[field]}
    return {"labels": labels, "split": f"fold{row['Split']}" if row["Split"] else ""}
