"""What leaks inside a held-out set's own official split: said in `corpus.json`, never repaired.

Official splits and labels are kept as published, so that scores compare with other people's. Whoever reads a
score must know, though, where one patient or one picture lies on both sides of the split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    split: str
    patient: str
    labels: Mapping[str, str]


def official_leaks(rows: pa.Table) -> list[str]:
    """Notes on one held-out set, whose kept `rows` have the columns of the row schema.

    Told are: pictures that belong to one duplicate cluster and lie in different official splits, or carry
    different values of a label; patients whose pictures lie in different official splits.
    """
    clusters: dict[str, list[_Sample]] = defaultdict(list)
    patients: dict[str, list[_Sample]] = defaultdict(list)
    columns = (rows[name].to_pylist() for name in ("member", "split", "patient", "labels", "cluster"))
    for member, split, patient, labels, cluster in zip(*columns, strict=True):
        sample = _Sample(member, split, patient, dict(labels))
        clusters[cluster].append(sample)
        if patient:
            patients[patient].append(sample)
    notes = _across(clusters.values(), "groups of duplicate pictures") + _across(
        patients.values(), "patients"
    )
    return notes + _conflicts(clusters.values())


def _across(groups: Iterable[list[_Sample]], what: str) -> list[str]:
    torn = [group for group in groups if len({sample.split for sample in group} - {""}) > 1]
    if not torn:
        return []
    count = sum(len(group) for group in torn)
    first = {sample.split: sample.name for sample in reversed(torn[0]) if sample.split}
    example = " and ".join(f"{name} ({split})" for split, name in sorted(first.items())[:2])
    return [
        f"official split: {len(torn)} {what} ({count} pictures) lie in more than one part, for example {example}; "
        "kept as published"
    ]


def _conflicts(clusters: Iterable[list[_Sample]]) -> list[str]:
    found: dict[str, list[list[_Sample]]] = defaultdict(list)
    for group in clusters:
        for name in {name for sample in group for name in sample.labels}:
            if len({sample.labels.get(name, "") for sample in group} - {""}) > 1:
                found[name].append(group)
    notes = []
    for name, groups in sorted(found.items()):
        values = {s.labels[name]: s.name for s in reversed(groups[0]) if s.labels.get(name)}
        example = " and ".join(f"{member} ({value})" for value, member in sorted(values.items())[:2])
        notes.append(
            f"label {name}: {len(groups)} groups of duplicate pictures carry different values, for example "
            f"{example}; kept as published"
        )
    return notes
