"""The page of `openus dedup`: pairs of pictures taken for one, side by side, the least sure first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd

from openus.dedup.near import Place
from openus.report.pictures import data_uri, shrink
from openus.report.write import template

_SHOWN = 240
_SIDE = 220


def render(title: str, counts: Mapping[str, Any], table: pd.DataFrame, places: Mapping[str, Place]) -> bytes:
    """One self-contained page from the joins of `openus.commands.copies.joins` and where the bytes of each key lie."""
    unsure = table.sort_values(["kind", "score"], ascending=[False, True], kind="stable")
    pairs = [_pair(row, places) for row in unsure.head(_SHOWN).to_dict("records")]
    names, matrix = _matrix(table)
    view = {
        "title": title,
        "counts": counts,
        "pairs": pairs,
        "more": len(table) - len(pairs),
        "histogram": _histogram(table),
        "names": names,
        "matrix": matrix,
    }
    return template("copies.html").render(view).encode()


def _pair(row: Mapping[Any, Any], places: Mapping[str, Place]) -> dict[str, Any]:
    return {
        "kind": row["kind"],
        "score": float(row["score"]),
        "distance": int(row["distance"]),
        "sides": [
            {
                "name": row[f"name_{side}"],
                "decision": row[f"decision_{side}"],
                "uri": _picture(places.get(row[side]), row[f"window_{side}"]),
            }
            for side in ("a", "b")
        ],
    }


def _picture(place: Place | None, window: np.ndarray) -> str:
    """The picture with the frame of the window that was compared; "" where its bytes cannot be read."""
    try:
        pixels = shrink(place.pixels(), _SIDE) if place is not None else None
    except (OSError, ValueError):
        pixels = None
    if pixels is None:
        return ""
    height, width = pixels.shape
    top, bottom, left, right = (float(value) for value in window)
    if (top, bottom, left, right) != (0.0, 1.0, 0.0, 1.0):
        pixels = np.ascontiguousarray(pixels)
        corners = (
            (round(left * width), round(top * height)),
            (round(right * width) - 1, round(bottom * height) - 1),
        )
        cv2.rectangle(pixels, *corners, (255,), 1)
    return data_uri(pixels)


def _histogram(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Near copies by score."""
    scores = table[table["kind"] == "near"]["score"].to_numpy(float)
    counts, edges = np.histogram(scores, np.linspace(0.5, 1.0, 11))
    labels = [f"{low:.2f}-{high:.2f}" for low, high in pairwise(edges)]
    return [(label, int(count)) for label, count in zip(labels, counts, strict=True) if scores.size and count]


def _matrix(table: pd.DataFrame) -> tuple[list[str], list[list[int]]]:
    """Pairs by source; nothing where all are of one source."""
    counts = Counter(zip(table["source_b"], table["source_a"], strict=True))
    names = sorted({name for pair in counts for name in pair})
    if len(names) < 2:
        return [], []
    return names, [[counts[row, column] for column in names] for row in names]
