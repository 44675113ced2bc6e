"""EchoCP: diagnoses from a sheet that writes the manoeuvre short or long, and zero as the letter o."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.errors import SourceError
from openus.select.tables import Tables

_SHEET = "echoCP_diagnosis_label.xlsx"
_NAME = re.compile(r"(\d{3})_([rv])_image")


@functools.lru_cache(maxsize=1)
def _levels(tables: Tables) -> dict[tuple[int, str], str]:
    rows = tables.read(_SHEET)
    columns = list(rows[0]) if rows else []
    level = next((name for name in columns if name.lower().startswith("pfo level")), "")
    if not level or not {"Idx", "Action"} <= set(columns):
        raise SourceError(
            f"echocp: {_SHEET} needs the columns Idx, Action and 'PFO level …'; "
            f"it has {', '.join(columns) or 'none'}"
        )
    return {
        (int(row["Idx"]), row["Action"][:1].lower()): row[level].lower().replace("o", "0")
        for row in rows
        if row["Idx"].isdecimal()
    }


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Labels `pfo` (present, absent) and `pfo-level` (0 is none) of a clip, where the sheet has a row.

    Raises:
        SourceError: the sheet or one of its columns is missing.
    """
    found = _NAME.search(path)
    level = _levels(tables).get((int(found[1]), found[2]), "") if found else ""
    if not level:
        return {}
    return {"labels": {"pfo": "absent" if level == "0" else "present", "pfo-level": level}}
