"""CAMUS: facts of a sequence from its ``Info_<view>.cfg``, and the official lists of patients."""

from __future__ import annotations

import functools
import re
from typing import Any

from openus.errors import SourceError
from openus.select.tables import Tables

_NAME = re.compile(r"(patient\d{4})_([24]CH)_")
_FIELDS = {"ImageQuality": "quality", "EF": "ef", "Sex": "sex", "Age": "age"}
_LISTS = {"subgroup_training.txt": "train", "subgroup_validation.txt": "val", "subgroup_testing.txt": "test"}


@functools.lru_cache(maxsize=1)
def _splits(tables: Tables) -> dict[str, str]:
    return {
        patient: split
        for name, split in _LISTS.items()
        for patient in tables.text(name).split()
        if patient.startswith("patient")
    }


def annotate(path: str, tables: Tables) -> dict[str, Any]:
    """Labels `quality`, `ef` (per cent), `sex`, `age` (years) as far as given, and the official split.

    Raises:
        SourceError: the file of facts or a list of patients is missing, or the facts have no image quality.
    """
    found = _NAME.search(path)
    if found is None:
        return {}
    patient, view = found.groups()
    name = f"{patient}/Info_{view}.cfg"
    pairs = (line.split(":", 1) for line in tables.text(name).splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in pairs}
    if "ImageQuality" not in facts:
        raise SourceError(
            f"camus-public: {name} has no line 'ImageQuality' (it has {', '.join(facts) or 'none'}); "
            "the data differ from the release of 2023"
        )
    labels = {label: facts[field] for field, label in _FIELDS.items() if facts.get(field)}
    return {"labels": labels, "split": _splits(tables).get(patient, "")}
