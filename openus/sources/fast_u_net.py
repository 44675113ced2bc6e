"""Fast-U-Net: the official lists name images by paths that do not exist, so they are matched by file name."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.select.tables import Tables

_NAME = re.compile(r"Dataset/(AC|HC)/.*?([^/]+\.png)$")


@functools.lru_cache(maxsize=2)
def _splits(tables: Tables, plane: str) -> dict[str, str]:
    return {
        line.split()[0].rsplit("/", 1)[-1]: split
        for split in ("train", "val")
        for line in tables.text(f"{plane}/{split}.txt").splitlines()
        if line.strip()
    }


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """The official split (`train` or `val`) of an image, by plane and file name.

    Raises:
        SourceError: a list is missing.
    """
    found = _NAME.search(path)
    return {"split": _splits(tables, found[1]).get(found[2], "")} if found else {}
