"""GIST514-DB: class, official fold and polygons from the authors' COCO files.

Five pairs of files hold the five official splits; the five ``val`` parts divide the set, so they give both the
class and the fold of every image. Classes go by the name in the file, because its numbering decides nothing.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openus.errors import SourceError
from openus.select.tables import Tables

FOLDS = 5
CLASSES = {"lmym": "leiomyoma", "gist": "gist"}


@dataclass(frozen=True)
class _Case:
    """What the files say of one image. `polygons`: flat lists x0, y0, x1, y1, … in pixels."""

    fold: str
    tumour: str
    location: str
    width: int
    height: int
    polygons: tuple[tuple[float, ...], ...]


@functools.lru_cache(maxsize=1)
def _cases(tables: Tables) -> dict[str, _Case]:
    cases: dict[str, _Case] = {}
    for number in range(FOLDS):
        name = f"val_anno_crop_split_{number}.json"
        for file_name, case in _read(tables, name, f"fold{number}"):
            if file_name in cases:
                raise SourceError(
                    f"gist514-db: {file_name} is in the val parts of {cases[file_name].fold} and {case.fold}; "
                    "the five official splits should divide the set"
                )
            cases[file_name] = case
    return cases


def _read(tables: Tables, name: str, fold: str) -> list[tuple[str, _Case]]:
    # Other sizes of the pictures may lie beside the cropped ones, with files of the same names.
    selector = f"usd514_jpeg_roi/annotations/{name}"
    try:
        path = tables.find(selector)
    except SourceError:
        selector = f"annotations/{name}"
        path = tables.find(selector)
    try:
        return _parse(json.loads(tables.text(selector)), fold)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"gist514-db: {path} is not COCO as expected ({type(error).__name__}: {error}); "
            "it needs images, annotations and categories named lmym and GIST"
        ) from error


def _parse(coco: dict[str, Any], fold: str) -> list[tuple[str, _Case]]:
    names = {category["id"]: CLASSES[str(category["name"]).lower()] for category in coco["categories"]}
    marks: dict[Any, list[dict[str, Any]]] = {}
    for mark in coco["annotations"]:
        marks.setdefault(mark["image_id"], []).append(mark)
    found = []
    for image in coco["images"]:
        mine = marks.get(image["id"], [])
        tumours = {names[mark["category_id"]] for mark in mine}
        if len(tumours) != 1:
            raise ValueError(f"{image['file_name']} has {len(tumours)} classes instead of one")
        polygons = tuple(tuple(map(float, polygon)) for mark in mine for polygon in mark["segmentation"])
        location = str(image.get("anatomy_id", ""))
        case = _Case(fold, tumours.pop(), location, int(image["width"]), int(image["height"]), polygons)
        found.append((image["file_name"], case))
    return found


def _case(path: str, tables: Tables) -> _Case:
    name = path.rsplit("/", 1)[-1]
    case = _cases(tables).get(name)
    if case is None:
        raise SourceError(
            f"gist514-db: {path} is in none of the five official val parts "
            f"({len(_cases(tables))} images); is this usd514_jpeg_roi, the cropped set?"
        )
    return case


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Label `tumour` (leiomyoma, gist), the location code as published, and the fold (`fold0` … `fold4`).

    Raises:
        SourceError: a file is missing or not as expected, or the image is in none or two of the folds.
    """
    case = _case(path, tables)
    labels = {"tumour": case.tumour}
    if case.location:
        labels["location"] = case.location
    return {"labels": labels, "split": case.fold}


def mask(path: str, tables: Tables) -> NDArray[np.uint8]:
    """The tumour as drawn by the authors: uint8 [H, W], 255 inside the polygons and 0 elsewhere.

    Raises:
        SourceError: as `annotate`.
    """
    case = _case(path, tables)
    canvas = Image.new("L", (case.width, case.height))
    pen = ImageDraw.Draw(canvas)
    for polygon in case.polygons:
        pen.polygon(polygon, fill=255, outline=255)
    return np.asarray(canvas, dtype=np.uint8)
