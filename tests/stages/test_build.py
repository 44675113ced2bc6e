"""The whole build, run as a user runs it, on a toy corpus with every kind of trouble in it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers import toys


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_manifests(tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toys.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, manifests: Path, inputs: dict[str, Path]) -> Path:
    out = tmp_path_factory.mktemp("built") / "corpus"
    done = toys.run(toys.command(out, manifests, inputs, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    return out


def rows(out: Path, pattern: str) -> list[dict[str, Any]]:
    return [
        row for path in sorted((out / "manifest").glob(pattern)) for row in pq.read_table(path).to_pylist()
    ]


def test_every_input_is_kept_or_listed(built: Path) -> None:
    summary = json.loads((built / "corpus.json").read_text())
    assert summary["sources"]["toy-images"]["members"] == {"found": 28, "selected": 28, "excluded": 0}
    assert summary["sources"]["toy-images"]["rejected"] == {
        "dark": 1,
        "duplicate": 1,
        "leak": 1,
        "truncated": 1,
    }
    clips = summary["sources"]["toy-clips"]
    assert clips["frames"] == {"announced": 72, "decoded": 72, "kept": 60, "rejected": 12}
    assert clips["rejected"] == {"dark": 6, "duplicate": 6}
    assert summary["sources"]["toy-bench"]["members"] == {"found": 33, "selected": 16, "excluded": 17}
    assert {name: part["samples"] for name, part in summary["sets"].items()} == {
        "pretrain": 84, "bench": 16, "bench-mask": 16,
    }  # fmt: skip
    rejected = rows(built, "rejected.parquet")
    assert {(r["member"], r["stage"], r["reason"]) for r in rejected if r["source"] == "toy-images"} == {
        ("pictures/black.png", "clean", "dark"),
        ("pictures/broken.png", "decode", "truncated"),
        ("pictures/leaked.png", "dedup", "leak"),
        ("pictures/repeat.png", "dedup", "duplicate"),
    }
    leak = next(r for r in rejected if r["reason"] == "leak")
    assert "toy-bench/images/b00.png" in leak["detail"]


def test_rows_say_what_is_known(built: Path) -> None:
    bench = {row["member"]: row for row in rows(built, "bench-0*.parquet")}
    first = bench["images/b02.png"]
    assert dict(first["labels"]) == {"kind": "malignant"}
    assert (first["split"], first["kind"], first["width"], first["height"]) == ("fold1", "image", 80, 64)
    assert len({row["patient"] for row in bench.values()}) == 8
    clip = [row for row in rows(built, "pretrain-0*.parquet") if row["clip"] == "p0_1.mp4"]
    assert sorted(row["index"] for row in clip) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert {row["kind"] for row in clip} == {"frame"}


def test_order_is_shuffled_over_the_sources(built: Path) -> None:
    shards = sorted((built / "manifest").glob("pretrain-0*.parquet"))
    assert len(shards) > 1
    for path in shards:
        assert {row["source"] for row in pq.read_table(path).to_pylist()} == {"toy-images", "toy-clips"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_do_not_change_a_byte(
    tmp_path: Path, built: Path, manifests: Path, inputs: dict[str, Path], workers: str
) -> None:
    done = toys.run(toys.command(tmp_path / "other", manifests, inputs, "--workers", workers))
    assert done.returncode == 0, done.stderr
    assert toys.digests(tmp_path / "other") == toys.digests(built)


def test_killed_at_three_moments_and_resumed(
    tmp_path: Path, built: Path, manifests: Path, inputs: dict[str, Path]
) -> None:
    out = tmp_path / "killed"
    words = toys.command(out, manifests, inputs, "--workers", "1")
    # Moments told by what is on the disk, so that they are the same on a slow machine.
    for moment in ("sources/toy-images/*.parquet", "sources/toy-clips/*.parquet", "pack/*.json"):
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not list((out / ".work").glob(moment)):
            time.sleep(0.005)
        if process.poll() is None:
            import os

            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert toys.run(words).returncode == 0
    assert toys.digests(out) == toys.digests(built)


def test_a_source_added_later_is_the_only_one_processed(
    tmp_path: Path, manifests: Path, inputs: dict[str, Path]
) -> None:
    out = tmp_path / "grown"
    fewer = {slug: path for slug, path in inputs.items() if slug != "toy-clips"}
    first = toys.run(toys.command(out, manifests, fewer, "--workers", "0"))
    assert first.returncode == 0 and "1 source is missing" in first.stdout
    assert "Ask for toy-clips" in first.stdout
    before = {p: p.stat().st_mtime_ns for p in (out / ".work" / "sources").rglob("*") if p.is_file()}
    assert toys.run(toys.command(out, manifests, inputs, "--workers", "0")).returncode == 0
    after = {p: p.stat().st_mtime_ns for p in (out / ".work" / "sources").rglob("*") if p.is_file()}
    assert before.items() <= after.items()
    assert {p.parent.name for p in after.keys() - before.keys()} == {"toy-clips"}
    whole = tmp_path / "whole"
    assert toys.run(toys.command(whole, manifests, inputs, "--workers", "0")).returncode == 0
    assert toys.digests(out) == toys.digests(whole)


def test_changed_settings_are_noticed(
    tmp_path: Path, built: Path, manifests: Path, inputs: dict[str, Path]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(built, out)
    done = toys.run(
        toys.command(out, manifests, inputs, "--workers", "0", "--size", "32", "--frames", "toy-clips=4,2")
    )
    assert done.returncode == 0, done.stderr
    clip = [row for row in rows(out, "pretrain-0*.parquet") if row["clip"] == "p0_1.mp4"]
    assert {row["height"] for row in clip} == {32} and len(clip) <= 2
    policy = [r for r in rows(out, "rejected.parquet") if r["reason"] == "policy"]
    assert {r["detail"] for r in policy} == {"took 2 of 12 frames"}
    assert toys.run([sys.executable, "-m", "openus.cli", "verify", str(out)]).returncode == 0


def test_a_second_builder_leaves(tmp_path: Path, manifests: Path, inputs: dict[str, Path]) -> None:
    from openus.storage.locks import one_builder

    out = tmp_path / "busy"
    with one_builder(out / ".work"):
        done = toys.run(toys.command(out, manifests, inputs))
    assert done.returncode == 1
    assert "another build is at work here" in done.stderr


def test_strict_fails_but_finishes_the_rest(tmp_path: Path, manifests: Path, inputs: dict[str, Path]) -> None:
    out = tmp_path / "strict"
    done = toys.run(
        toys.command(out, manifests, {"toy-images": inputs["toy-images"]}, "--strict", "--workers", "0")
    )
    assert done.returncode == 1
    assert "--strict: missing sources: toy-clips, toy-bench" in done.stderr
    assert (out / "corpus.json").exists()


def test_json_for_machines(tmp_path: Path, manifests: Path, inputs: dict[str, Path]) -> None:
    only = {"toy-images": inputs["toy-images"]}
    words = toys.command(
        tmp_path / "j", manifests, only, "--json", "--workers", "0", "--source", "toy-images"
    )
    done = toys.run(words)
    assert json.loads(done.stdout)["sources"]["toy-images"]["members"]["found"] == 28
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--source", "toy-imges"], "unknown source 'toy-imges'; did you mean 'toy-images'?"),
        (["--corpus", "toyz"], "unknown corpus 'toyz'; did you mean 'toys'?"),
        (["--local", "toy-images"], "expected SLUG=PATH"),
        (["--local", "toy-images=/no/such/place"], "there is nothing at /no/such/place"),
        (["--local", "stu-hospital=."], "not a source of this build"),
        (["--size", "tiny"], "expected a number of pixels"),
        (["--frames", "toy-clips=x"], "expected STRIDE"),
        (["--manifests", "/no/such/folder"], "no such folder of manifests"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    tmp_path: Path, manifests: Path, more: list[str], words: str
) -> None:
    done = toys.run(toys.command(tmp_path / "x", manifests, {}, *more))
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_nothing_to_pack_is_an_error_that_says_why(tmp_path: Path, manifests: Path) -> None:
    done = toys.run(toys.command(tmp_path / "none", manifests, {}))
    assert done.returncode == 1
    assert "Ask for toy-images" in done.stdout
    assert "no picture was kept" in done.stderr and "3 of 3 sources could not be had" in done.stderr


def test_each_slice_has_the_mask_of_its_own(tmp_path: Path) -> None:
    """Held-out volumes, turned and thinned: picture and mask of a frame are of one slice, and turned alike; class 1
    stays 1, though fractions from 0 to 1 would be stretched in a picture."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toy.yaml").write_text(
        "schema: 1\nslug: toy\nname: Toy\ntitle: Toy\nanatomy: none\nkind: volume\nimages: ['*_image.nii']\n"
        "exclude: ['*_label.nii']\nframes: {stride: 2, axis: z, rotate: 180}\n"
        "masks: {match: '(?P<n>[^/]+)_image\\.nii$', path: '{n}_label.nii'}\n"
        "licence: {name: unknown, redistribution: recipe-only}\n"
    )
    (tmp_path / "toys.yaml").write_text(
        "schema: 1\nname: toys\nsources: [toy]\nheld_out: {toy: toy}\ndedup: {near: 'off'}\nclean: {size: native}\n"
    )
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0).integers(50, 250, (40, 48, 6), np.uint8)
    label = np.zeros((40, 48, 6), np.float32)
    for z in range(6):
        label[: 4 + z, :20, z] = 1  # below and right once it is turned
    for name, values in (("image", noise), ("label", label)):
        (tmp_path / "data" / f"v_{name}.nii").write_bytes(nib.Nifti1Image(values, np.eye(4)).to_bytes())
    out = tmp_path / "out"
    build_it = [
        "build",
        str(out),
        "--corpus",
        str(tmp_path / "toys.yaml"),
        "--manifests",
        str(tmp_path / "mine"),
    ]
    local = ["--local", f"toy={tmp_path / 'data'}", "--workers", "0"]
    done = toys.run([sys.executable, "-m", "openus", *build_it, *local])
    assert done.returncode == 0, done.stderr
    for folder, values in (("toy", noise), ("toy-mask", label)):
        shard = (out / folder / f"{folder}-000000.tar").read_bytes()
        found = pq.read_table(out / "manifest" / f"{folder}-000000.parquet").to_pylist()
        assert sorted(row["index"] for row in found) == [0, 2, 4]
        for row in found:
            png = np.frombuffer(shard[row["offset"] : row["offset"] + row["size"]], np.uint8)
            expected = values[:, :, row["index"]].T[::-1, ::-1]
            np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), expected)
