"""MMOTU-3D: the authors' split from ``train.txt`` and ``val.txt``, which not every copy has."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.select.tables import TableMissingError, Tables

_NAME = re.compile(r"(?:^|/)(\d+)\.jpe?g$", re.IGNORECASE)


@functools.lru_cache(maxsize=1)
def _splits(tables: Tables) -> dict[str, str]:
    found: dict[str, str] = {}
    for split in ("train", "val"):
        try:
            # MMOTU-2D has lists of the same names in the folder beside this one.
            lines = tables.text(f"OTU_3[dD]/{split}.txt").split()
        except TableMissingError:
            continue
        found |= dict.fromkeys(lines, split)
    return found


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """The official split (`train`, `val`) of an image, where the copy has the lists."""
    found = _NAME.search(path)
    return {"split": _splits(tables).get(found[1], "")} if found else {}
