"""Near-copies in whole builds, run as a user runs them: dropped, named, the same for any workers and any order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest

from tests.helpers import toys

VERIFY = ["-m", "openus.cli", "verify"]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toys.write_manifests(tmp_path_factory.mktemp("manifests"))
    corpus = folder / "corpora" / "toys.yaml"
    corpus.write_text(corpus.read_text().replace("size: 64", "size: 96") + "dedup: {near: drop}\n")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    places = toys.write_inputs(tmp_path_factory.mktemp("inputs"), images=6, clips=2)
    pictures = places["toy-images"] / "pictures"
    small = cv2.resize(toys.speckle(1), (72, 58), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(pictures / "near-small.png"), small)
    cv2.imwrite(str(pictures / "near-jpeg.jpg"), toys.speckle(2), [cv2.IMWRITE_JPEG_QUALITY, 50])
    cv2.imwrite(str(pictures / "near-bench.png"), toys.speckle(5003)[2:94, 4:118])
    # A benchmark picture twice, in two folds and with two labels: told, not repaired.
    shutil.copy(places["toy-bench"] / "images" / "b01.png", places["toy-bench"] / "images" / "b14.png")
    again = [cv2.GaussianBlur(toys.speckle(1000 + j), (0, 0), 0.8) for j in range(6)]
    toys.write_clip(places["toy-clips"] / "p7_9.mp4", again)
    return places


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, manifests: Path, inputs: dict[str, Path]) -> Path:
    out = tmp_path_factory.mktemp("built") / "corpus"
    done = toys.run(toys.command(out, manifests, inputs, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    return out


def table(out: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "manifest" / name).to_pylist()
    return rows


def test_near_copies_go_and_leaks_are_named(built: Path) -> None:
    gone = {r["member"]: r for r in table(built, "rejected.parquet") if r["detail"].startswith("near copy")}
    assert gone["pictures/near-small.png"]["detail"].endswith("of toy-images/pictures/i001.png#0")
    assert gone["pictures/near-jpeg.jpg"]["reason"] == "duplicate"
    leak = gone["pictures/near-bench.png"]
    assert leak["reason"] == "leak" and leak["detail"].endswith("toy-bench/images/b03.png#0")
    assert set(gone) == {
        "pictures/near-small.png", "pictures/near-jpeg.jpg", "pictures/near-bench.png", "p7_9.mp4",
    }  # fmt: skip
    frames = [r for r in table(built, "rejected.parquet") if r["member"] == "p7_9.mp4"]
    assert {r["detail"].rsplit(" ", 1)[-1] for r in frames} == {
        f"toy-clips/p0_0.mp4#{j}" for j in (1, 2, 3, 4, 6)
    }


def test_the_table_of_joins_is_covered_by_verify(built: Path, tmp_path: Path) -> None:
    import sys

    joins = table(built, "duplicates.parquet")
    near = {(r["name_a"], r["name_b"]): r for r in joins if r["kind"] == "near"}
    join = near["toy-bench/images/b03.png#0", "toy-images/pictures/near-bench.png#0"]
    assert (join["decision_a"], join["decision_b"]) == ("kept", "leak")
    assert (join["source_a"], join["source_b"]) == ("toy-bench", "toy-images") and join["score"] >= 0.88
    assert join["window_a"] != [0.0, 1.0, 0.0, 1.0]
    summary = json.loads((built / "corpus.json").read_text())
    assert summary["duplicates"]["rows"] == len(joins)
    assert toys.run([sys.executable, *VERIFY, str(built)]).returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    path = copy / "manifest" / "duplicates.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = toys.run([sys.executable, *VERIFY, str(copy)])
    assert done.returncode == 1 and "duplicates.parquet: not the file" in done.stdout


def test_held_out_copies_are_told_and_kept(built: Path) -> None:
    entry = json.loads((built / "corpus.json").read_text())["sources"]["toy-bench"]
    assert entry["frames"]["kept"] == 16
    assert any("lie in more than one part" in note and "duplicate" in note for note in entry["notes"])
    assert any("carry different values" in note for note in entry["notes"])


@pytest.mark.parametrize("workers", ["2"])
def test_a_source_added_later_gives_the_same_bytes(
    tmp_path: Path, built: Path, manifests: Path, inputs: dict[str, Path], workers: str
) -> None:
    out = tmp_path / "grown"
    fewer = {slug: path for slug, path in inputs.items() if slug != "toy-images"}
    assert toys.run(toys.command(out, manifests, fewer, "--workers", workers)).returncode == 0
    prints = {p: p.stat().st_mtime_ns for p in (out / ".work").rglob("*.prints")}
    done = toys.run(toys.command(out, manifests, inputs, "--workers", workers))
    assert done.returncode == 0, done.stderr
    assert toys.digests(out) == toys.digests(built)
    assert (
        prints
        and prints.items() <= {p: p.stat().st_mtime_ns for p in (out / ".work").rglob("*.prints")}.items()
    )


@pytest.mark.parametrize("mode", ["report", "cine"])
def test_report_drops_leaks_only_and_cine_is_thinned_on_request(
    tmp_path: Path, built: Path, manifests: Path, inputs: dict[str, Path], mode: str
) -> None:
    changed = tmp_path / "manifests"
    shutil.copytree(manifests, changed)
    corpus = changed / "corpora" / "toys.yaml"
    settings = "near: report" if mode == "report" else "near: 'off', cine: {distance: 0, cap: 4}"
    corpus.write_text(corpus.read_text().replace("near: drop", settings))
    out = tmp_path / "corpus"
    shutil.copytree(built, out)
    done = toys.run(toys.command(out, changed, inputs, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    gone = [r for r in table(out, "rejected.parquet") if r["stage"] == "dedup"]
    if mode == "report":
        assert [r["member"] for r in gone if r["detail"].startswith("near")] == ["pictures/near-bench.png"]
        assert {r["decision_b"] for r in table(out, "duplicates.parquet") if r["kind"] == "near"} == {
            "kept",
            "leak",
        }
        return
    thinned = [r for r in gone if r["reason"] == "cine"]
    assert {r["member"] for r in thinned} == {"p0_0.mp4", "p0_1.mp4", "p7_9.mp4"}
    kept = json.loads((out / "corpus.json").read_text())["sources"]["toy-clips"]["frames"]["kept"]
    assert kept == 3 * 4
    assert not [r for r in table(out, "duplicates.parquet") if r["kind"] == "near"]
