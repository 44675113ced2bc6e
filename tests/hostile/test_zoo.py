"""Over five hundred malformed files through the real build: each has its row and reason, and nothing else happens."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.decode.test_image import encode, speckle
from tests.helpers import toys
from tests.hostile import zoo

SEED = 20260
LIMIT_MIB = 1536
_SOURCE = """
schema: 1
slug: {slug}
name: {slug}
title: Hostile
anatomy: liver
kind: image
licence: {{name: CC0-1.0, redistribution: pixels}}
routes: [{{host: manual, access: request, url: "https://example.org/{slug}", steps: ["Ask"]}}]
images: ["**/*"]
"""
# Runs a command and tells the largest resident memory, in KiB, that it or a process below it had.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def cage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo, each file of it in place, with folders around it in which nothing may appear."""
    cage = tmp_path_factory.mktemp("zoo")
    for name in ("outside", "home", "temporary", "here", "scratch", "files", "archives", "manifests/sources"):
        (cage / name).mkdir(parents=True)
    (cage / "outside" / "secret.png").write_bytes(encode(speckle(seed=99), "PNG"))
    for name, data in zoo.files(SEED, cage / "scratch", cage / "outside" / "unpickled"):
        (cage / "files" / name).write_bytes(data)
    (cage / "files" / "good.png").write_bytes(encode(speckle(seed=77), "PNG"))
    slugs = ["zoo-files"]
    for number, (name, data) in enumerate(zoo.archives(SEED, cage / "outside")):
        slugs.append(f"zoo-{number:03}")
        place = cage / "archives" / slugs[-1]
        place.mkdir()
        (place / name).write_bytes(data)
    for slug in slugs:
        (cage / "manifests" / "sources" / f"{slug}.yaml").write_text(_SOURCE.format(slug=slug))
    (cage / "manifests" / "corpora").mkdir()
    corpus = {"schema": 1, "name": "zoo", "sources": slugs, "clean": {"size": 32}, "dedup": {"near": "off"}}
    (cage / "manifests" / "corpora" / "zoo.yaml").write_text(json.dumps(corpus))
    return cage


@pytest.fixture(scope="module")
def built(cage: Path) -> dict[str, Any]:
    """What the build said, and all that stood around it before and after."""
    before = standing(cage)
    local = ["--local", f"zoo-files={cage / 'files'}"]
    for place in sorted((cage / "archives").iterdir()):
        local += ["--local", f"{place.name}={next(place.iterdir())}"]
    words = [
        sys.executable, "-c", _MEASURE, sys.executable, "-m", "openus.cli", "build", str(cage / "out"),
        "--corpus", "zoo", "--manifests", str(cage / "manifests"), "--cache", str(cage / "cache"),
        "--workers", "1", "--timeout", "60", *local,
    ]  # fmt: skip
    here = Path.cwd()
    os.chdir(cage / "here")
    try:
        done = toys.run(words, HOME=str(cage / "home"), TMPDIR=str(cage / "temporary"), PYTHONPATH=str(here))
    finally:
        os.chdir(here)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        "peak": int(done.stderr.splitlines()[-1]) / 1024,
        "said": done.stdout + done.stderr,
        "before": before,
        "after": standing(cage),
        "summary": json.loads((cage / "out" / "corpus.json").read_text()),
        "rejected": pq.read_table(cage / "out" / "manifest" / "rejected.parquet").to_pylist(),
    }


def standing(cage: Path) -> set[str]:
    """Everything in the cage but the corpus and the cache."""
    found = {path.relative_to(cage).as_posix() for path in cage.rglob("*")}
    return {name for name in found if name.split("/")[0] not in ("out", "cache")}


def kept(cage: Path) -> list[dict[str, Any]]:
    return [row for path in cage.glob("out/manifest/pretrain-0*") for row in pq.read_table(path).to_pylist()]


def test_it_is_a_zoo(cage: Path) -> None:
    names = [path.name for path in (cage / "files").iterdir()] + [
        p.name for p in (cage / "archives").glob("*/*")
    ]
    assert len(names) >= 500
    assert len({name.rsplit(".", 1)[-1] for name in names}) >= 25


def test_every_file_is_kept_or_has_its_row_and_reason(cage: Path, built: dict[str, Any]) -> None:
    seen = {row["member"] for row in built["rejected"] if row["source"] == "zoo-files"}
    seen |= {row["member"] for row in kept(cage) if row["source"] == "zoo-files"}
    assert {path.name for path in (cage / "files").iterdir()} - seen == set()
    for row in built["rejected"]:
        assert row["reason"] and (row["detail"] or row["stage"] == "dedup")
        assert "\n" not in row["detail"]
    reasons = Counter(row["reason"] for row in built["rejected"] if row["source"] == "zoo-files")
    assert not {"defect", "crashed", "timeout"} & reasons.keys(), [
        row for row in built["rejected"] if row["reason"] in ("defect", "crashed", "timeout")
    ]
    assert {
        "truncated",
        "corrupt",
        "too-large",
        "unsupported",
        "not-an-image",
        "empty-file",
    } <= reasons.keys()


def test_what_must_not_pass_does_not(built: dict[str, Any]) -> None:
    reasons = {row["member"]: row["reason"] for row in built["rejected"] if row["index"] == -1}
    for name in (
        "header-65535x65535.png", "header-65500x65500.jpg", "bomb.nii.gz", "bomb.mha", "bomb.nrrd", "bomb.mat",
        "bomb.h5", "bomb.npz",
    ):  # fmt: skip
        assert reasons[name] == "too-large", name
    for name in ("payload.npy", "payload.npz", "payload.pt", "meta-5.mha", "fields-2.nrrd", "fields-8.nrrd"):
        assert reasons[name] == "unsupported", name
    for name in ("payload.pkl", "legacy.pt"):
        assert reasons[name] == "not-an-image", name


def test_every_archive_is_accounted_for(cage: Path, built: dict[str, Any]) -> None:
    summary = built["summary"]
    for place in (cage / "archives").iterdir():
        (archive,) = place.iterdir()
        if place.name in summary["missing"]:
            reason = summary["missing"][place.name]["reason"]
            assert archive.name in reason or "it is empty" in reason
            assert "\n" not in reason
        else:
            members = summary["sources"][place.name]["members"]
            assert members["found"] == members["selected"] + members["excluded"]
    refused = {
        next((cage / "archives" / slug).iterdir()).name: entry["reason"]
        for slug, entry in summary["missing"].items()
    }
    for name, words in (
        ("name-0.zip", "climbs out"), ("name-1.tar", "absolute"), ("link-sym.tar", "link"),
        ("link-device.tar", "device"), ("symlink.zip", "symbolic link"), ("twice.zip", "this name"),
        ("encrypted.zip", "encrypted"), ("deep.zip", "nested"), ("overlap.zip", "overlapping"),
        ("page.zip", "web page"), ("empty.zip", "empty"),
    ):  # fmt: skip
        assert words in refused[name], (name, refused.get(name))


def test_memory_stays_within_bounds(built: dict[str, Any]) -> None:
    assert built["peak"] < LIMIT_MIB, f"{built['peak']:.0f} MiB"


def test_nothing_is_written_outside(cage: Path, built: dict[str, Any]) -> None:
    assert built["after"] == built["before"]
    assert not list(cage.parent.rglob("*escaped*"))


def test_nothing_of_the_libraries_reaches_the_terminal(built: dict[str, Any]) -> None:
    assert "Traceback" not in built["said"]
    noise = [line for line in built["said"].splitlines() if "warning" in line.lower()]
    assert not noise, noise[:5]


def test_the_corpus_is_sound(cage: Path, built: dict[str, Any]) -> None:
    done = toys.run(
        [sys.executable, "-m", "openus.cli", "verify", str(cage / "out"), "--deep", "--workers", "0"]
    )
    assert done.returncode == 0, done.stdout


def test_the_same_seed_makes_the_same_zoo(cage: Path) -> None:
    again = dict(zoo.archives(SEED, cage / "outside"))
    stored = {path.name: path.read_bytes() for path in (cage / "archives").glob("*/*")}
    timeless = {
        name for name in again if not name.endswith((".zip", ".gz", ".7z"))
    }  # those hold the time of day
    assert len(timeless) > 30 and all(again[name] == stored[name] for name in timeless)
