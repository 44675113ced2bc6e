"""A native library that crashes or hangs costs the file it was given, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from openus.engine.watch import Culprits
from tests.engine.crashing import FILES
from tests.helpers import toys

DEADLY = {"c-segfault.png", "d-abort.png", "e-hang.png", "f-killed.png"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data" / "pictures").mkdir(parents=True)
    toys.write_manifests(folder / "manifests")
    for number, name in enumerate(("a", "b", "e", "h")):
        cv2.imwrite(str(folder / "data" / "pictures" / f"{name}.png"), toys.speckle(number))
    for name, data in FILES.items():
        (folder / "data" / "pictures" / name).write_bytes(data)
    return folder


def build(inputs: Path, out: Path, workers: int) -> subprocess.CompletedProcess[str]:
    words = [str(out), str(inputs / "manifests"), str(inputs / "data"), str(workers), "1"]
    return toys.run([sys.executable, "-m", "tests.engine.crashing", *words])


@pytest.fixture(scope="module")
def built(inputs: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = build(inputs, inputs / "out", 2)
    assert done.returncode == 0, done.stderr
    return inputs / "out", done


def test_each_culprit_is_named_and_the_rest_is_kept(
    built: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = built
    rows = pq.read_table(out / "manifest" / "rejected.parquet").to_pylist()
    found = {
        Path(row["member"]).name: (row["stage"], row["reason"]) for row in rows if row["stage"] != "select"
    }
    assert found == {
        "c-segfault.png": ("decode", "crashed"),
        "d-abort.png": ("decode", "crashed"),
        "e-hang.png": ("decode", "timeout"),
        "f-killed.png": ("decode", "crashed"),
        "g-defect.png": ("decode", "defect"),
    }
    kept = {Path(name).name for name in _column(out, "member")}
    assert kept == {"a.png", "b.png", "e.png", "h.png"}
    for name in DEADLY:
        assert f"{name}: a worker process died of it" in done.stderr
    assert "unexpected ZeroDivisionError: a mistake of ours; please report it" in done.stderr
    assert toys.run([sys.executable, "-m", "openus.cli", "verify", str(out)]).returncode == 0
    assert not (out / ".work" / "tmp").exists()
    assert not list((out / ".work" / "sources").rglob("*.culprits*"))


def test_the_same_bytes_with_one_worker(
    tmp_path: Path, inputs: Path, built: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    done = build(inputs, tmp_path / "out", 1)
    assert done.returncode == 0, done.stderr
    assert toys.digests(tmp_path / "out") == toys.digests(built[0])


def test_without_workers_each_crash_costs_a_restart_and_never_the_same_file_twice(
    tmp_path: Path, inputs: Path, built: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    fewer = tmp_path / "inputs"
    shutil.copytree(inputs, fewer, ignore=shutil.ignore_patterns("out", "cache", "d-*", "f-*"))
    codes = [build(fewer, tmp_path / "out", 0).returncode for _ in range(3)]
    assert codes[0] != 0 and codes[1] != 0 and codes[2] == 0
    rows = pq.read_table(tmp_path / "out" / "manifest" / "rejected.parquet").to_pylist()
    assert {row["reason"] for row in rows} == {"crashed", "timeout", "defect"}
    shards = {name: digest for name, digest in toys.digests(built[0]).items() if name.startswith("pretrain/")}
    assert shards and shards.items() <= toys.digests(tmp_path / "out").items()


def test_a_kill_from_outside_blames_nobody(tmp_path: Path) -> None:
    """A build that died of SIGKILL leaves a note too; only a note that tells of a crash counts then."""
    culprits = Culprits(tmp_path / "chunk.culprits")
    culprits.note.write_bytes(b'"a.png"\n')
    assert culprits.blame(dead=False) is None
    culprits.note.write_bytes(b'"a.png"\nFatal Python error: Segmentation fault\n')
    assert culprits.blame(dead=False) == "a.png"
    culprits.note.write_bytes(b'"b.png"\nTimeout (0:00:01)!\n')
    assert culprits.blame(dead=False) == "b.png"
    culprits.note.write_bytes(b'"a.png"\n')
    assert culprits.blame(dead=True) is None  # known already: somebody else is to blame
    assert culprits.known() == {"a.png": "crashed", "b.png": "timeout"}
    culprits.note.write_bytes(b"")
    assert culprits.blame(dead=True) is None


def _column(out: Path, name: str) -> list[str]:
    return [v for path in out.glob("manifest/pretrain-0*") for v in pq.read_table(path)[name].to_pylist()]


def test_summary_counts_what_crashed(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    summary = json.loads((built[0] / "corpus.json").read_text())
    assert summary["sources"]["toy-images"]["rejected"] == {"crashed": 3, "defect": 1, "timeout": 1}
