"""STMUS_NDA: the authors' split, told by where their training copy of an image lies.

The copy under ``Segmentation_models/data/MuscleCNN`` has a folder for each part, without those of muscle and condition.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

from openus.select.tables import Tables

_NAME = re.compile(r"(?:BB|GM|TA)/(?:Healthy|Pathological)/Images/([^/]+)\.png$")
PARTS = ("train", "val", "test")


@functools.lru_cache(maxsize=1)
def _splits(tables: Tables) -> dict[str, str]:
    places: dict[str, set[str]] = {}
    for part in PARTS:
        for path in tables.paths(f"MuscleCNN/{part}/*.png"):
            places.setdefault(_stem(path), set()).add(part)
    images = tables.paths("{BB,GM,TA}/{Healthy,Pathological}/Images/*.png")
    owners = Counter(_stem(path) for path in images if "Segmentation_models/" not in path)
    # A name that several images or parts share tells nothing.
    return {stem: min(parts) for stem, parts in places.items() if len(parts) == 1 and owners[stem] == 1}


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png")


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """The split (`train`, `val`, `test`) of the authors' own model, where the name of an image tells it."""
    found = _NAME.search(path)
    return {"split": _splits(tables).get(found[1], "")} if found else {}
