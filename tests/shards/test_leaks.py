"""Leaks inside official splits are told in the notes of the corpus, and nothing is taken out because of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from openus.shards.leaks import official_leaks
from tests.helpers import toys

Row = tuple[str, str, str, str, str]
"""member, split, patient, value of the label kind, cluster"""


def table(*rows: Row) -> pa.Table:
    names = ("member", "split", "patient", "labels", "cluster")
    kind = pa.map_(pa.string(), pa.string())
    columns = [[row[i] for row in rows] for i in range(5)]
    labels = [[("kind", value)] if value else [] for value in columns[3]]
    return pa.table(
        {
            name: pa.array(
                labels if name == "labels" else columns[i], kind if name == "labels" else pa.string()
            )
            for i, name in enumerate(names)
        }
    )


CLEAN: tuple[Row, ...] = (
    ("a.png", "train", "p1", "benign", "a"),
    ("b.png", "train", "p1", "benign", "a"),
    ("c.png", "test", "p2", "malignant", "c"),
    ("d.png", "test", "", "benign", "d"),
    ("e.png", "", "", "", "e"),
)


def test_a_clean_split_has_no_notes() -> None:
    assert official_leaks(table(*CLEAN)) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("x.png", "test", "", "benign", "a"), "1 groups of duplicate pictures (3 pictures)"),
        (("x.png", "test", "p1", "benign", "x"), "1 patients (3 pictures)"),
        (("x.png", "train", "p9", "malignant", "a"), "label kind: 1 groups of duplicate pictures"),
        (("x.png", "train", "", "malignant", "c"), "1 groups of duplicate pictures (2 pictures)"),
    ],
)
def test_each_leak_is_told_with_an_example(row: Row, words: str) -> None:
    (note,) = official_leaks(table(*CLEAN, row))
    first = "c.png" if row[4] == "c" else "a.png"
    assert words in note and "x.png" in note and first in note and "kept as published" in note


def test_unknown_splits_and_labels_are_no_leak() -> None:
    assert official_leaks(table(*CLEAN, ("x.png", "", "p1", "", "a"))) == []


def test_a_build_keeps_the_leak_and_says_so(tmp_path: Path) -> None:
    inputs = {"toy-bench": toys.write_inputs(tmp_path / "in")["toy-bench"]}
    images = inputs["toy-bench"] / "images"
    shutil.copy(images / "b00.png", images / "b15.png")  # fold1 benign case 0, fold4 malignant case 7
    out = tmp_path / "out"
    manifests = toys.write_manifests(tmp_path / "manifests")
    done = toys.run(toys.command(out, manifests, inputs, "--workers", "0", "--source", "toy-bench"))
    assert done.returncode == 0, done.stderr
    source = json.loads((out / "corpus.json").read_text())["sources"]["toy-bench"]
    assert source["frames"]["kept"] == 16, "nothing is repaired"
    split, label = source["notes"]
    assert "1 groups of duplicate pictures" in split and "(fold1)" in split and "(fold4)" in split
    assert label.startswith("label kind") and "(benign)" in label and "(malignant)" in label
    assert "kept as published" in done.stdout, "the closing table tells it too"
