"""`openus audit` and `openus build --clean`, run as a user runs them."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest

from openus.commands.audit import _ATTRIBUTES, _PATHS, _choose
from openus.shards.foreign import index_shards
from openus.shards.verify import verify
from tests.helpers import toys
from tests.helpers.corpus import make_corpus
from tests.helpers.scanner import screen

SOURCE = """
schema: 1
slug: screens
name: SCREENS
title: Simulated screens
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
images: ["*.png"]
labels: {patient-name: {value: "x"}}
"""
CORPUS = """
schema: 1
name: screens
sources: [screens]
clean: {level: none, size: native}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests and four screens of a scanner, one with a date in its name."""
    root = tmp_path_factory.mktemp("audit")
    write_home(root, ("a", "b", "c", "scan_20210314"))
    return root


def write_home(root: Path, names: Sequence[str]) -> None:
    for folder, name, text in (("sources", "screens", SOURCE), ("corpora", "screens", CORPUS)):
        (root / "manifests" / folder).mkdir(parents=True)
        (root / "manifests" / folder / f"{name}.yaml").write_text(text)
    (root / "pictures").mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(root / "pictures" / f"{name}.png"), screen("linear", number).pixels)


def build(home: Path, out: Path, *more: str) -> Any:
    return toys.run(
        [sys.executable, "-m", "openus.cli", "build", str(out), "--corpus", "screens", "--workers", "0",
         "--manifests", str(home / "manifests"), "--local", f"screens={home / 'pictures'}", "--quiet", *more]
    )  # fmt: skip


def test_cleaning_is_what_the_audit_no_longer_finds(home: Path, tmp_path: Path) -> None:
    left = {}
    for level in ("none", "full"):
        out = tmp_path / level
        done = build(home, out, "--clean", "none", "--clean", f"screens={level}")
        assert done.returncode == 0, done.stderr
        told = toys.run([sys.executable, "-m", "openus.cli", "audit", str(out), "--json"])
        assert told.returncode == 0, told.stderr
        found = json.loads(told.stdout)
        assert json.loads((out / "corpus.json").read_text())["audit"] == found
        assert found["searched"] == found["samples"] == found["sources"]["screens"]["searched"] == 4
        assert found["counts"]["paths-date"] == 1 and found["paths"][0]["member"] == "scan_20210314.png"
        assert found["counts"]["attributes-label patient-name"] == 4
        assert (out / "audit.png").exists() == bool(found["text"])
        assert verify(out).problems == []
        left[level] = sum(len(entry["boxes"]) for entry in found["text"])
    assert left["none"] >= 20 and left["full"] <= 2
    rows = pq.read_table(tmp_path / "full" / "manifest" / "pretrain-000000.parquet").to_pylist()
    assert all(row["text_boxes"] >= 1 and "sector-linear" in row["flags"] for row in rows)
    assert all(row["sector"][2] < row["source_width"] for row in rows)


def test_shards_of_others_are_looked_at_where_they_lie(home: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "theirs.tar", "w") as tar:
        for path in sorted((home / "pictures").rglob("*.png")):
            tar.add(path, path.name)
    index_shards(str(tmp_path / "theirs.tar"), tmp_path / "index")
    told = toys.run([sys.executable, "-m", "openus.cli", "audit", str(tmp_path / "index"), "--json"])
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["searched"] == found["samples"] == found["sources"]["foreign"]["text"] == 4
    (tmp_path / "theirs.tar").unlink()
    told = toys.run([sys.executable, "-m", "openus.cli", "audit", str(tmp_path / "index")])
    assert told.returncode == 1 and "give its place anew with 'openus index'" in told.stderr


def test_a_large_source_of_long_clips_hides_no_small_one() -> None:
    rows = [{"source": "cine", "clip": f"clip-{n // 500}"} for n in range(10_000)]
    rows += [{"source": "stills", "clip": ""} for _ in range(30)]
    chosen = _choose(rows, 40, seed=1)
    assert len(set(chosen)) == 40
    assert sum(rows[i]["source"] == "stills" for i in chosen) == 20
    assert len({rows[i]["clip"] for i in chosen if rows[i]["source"] == "cine"}) == 20
    assert _choose(rows, 40, seed=1) == chosen != _choose(rows, 40, seed=2)
    assert sorted(_choose(rows[:5], 40, seed=0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("text", ["most", "screens=", "=full", "screens=most"])
def test_a_wrong_level_is_wrong_use(home: Path, tmp_path: Path, text: str) -> None:
    done = build(home, tmp_path / "x", "--clean", text)
    assert done.returncode == 2 and "expected none, sector or full" in done.stderr


def test_nothing_to_find(tmp_path: Path) -> None:
    out = make_corpus(tmp_path / "corpus", {"pretrain": 6})
    told = toys.run([sys.executable, "-m", "openus.cli", "audit", str(out), "--json"])
    found = json.loads(told.stdout)
    assert (found["text"], found["paths"], found["counts"]) == ([], [], {}) and not (
        out / "audit.png"
    ).exists()


@pytest.mark.parametrize(
    ("path", "why"),
    [("a/2021-03-14/x.png", "date"), ("x/MRN_1.png", "word-for-identity"), ("Silva^Maria.dcm", "name"),
     ("send/a.b@clinic.org.png", "e-mail"), ("Images/bus_0001-l.png", ""), ("frames/000012345678.png", "")],
)  # fmt: skip
def test_paths_that_say_too_much(path: str, why: str) -> None:
    assert [name for name, pattern in _PATHS.items() if pattern.search(path)] == ([why] if why else [])
    assert _ATTRIBUTES.search("PatientBirthDate") and not _ATTRIBUTES.search("pathology")
