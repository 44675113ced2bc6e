"""What a build costs, next to the least that any build could cost.

python benchmarks/build.py [--files N] [--repeats N]

- ceiling: read, decode to grey, resize and encode the same JPEG files with libjpeg-turbo and OpenCV, nothing else;
- none: `openus.build` of them with `--clean none`: hashes, rows, tars, manifests and the report included;
- sector: the same with `--clean sector`.

Files are real ultrasound where it lies beside the checkout, else simulated, stored as JPEG of about 958 x 534. All
run in one process in turn; figures are those of the fastest of N. Two workers are timed on the `none` build.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import simplejpeg
from rich.console import Console
from rich.table import Table

from benchmarks._corpus import pictures
from openus.build import BuildOptions, build
from openus.catalogue import Catalogue
from openus.clean import resize_short_side
from openus.codecs import encode
from openus.manifest import Encoding

GOALS = {"none": 0.7, "sector": 0.5, "two_workers": 1.8}
SOURCE = """
schema: 1
slug: bench
name: bench
title: Pictures to measure with
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
routes: [{host: manual, access: request, url: "https://example.org/bench", steps: ["none"]}]
images: ["*.jpg"]
"""
CORPUS = """
schema: 1
name: NAME
seed: 1
sources: [bench]
clean: {level: LEVEL, size: 256}
"""


def _prepare(folder: Path, count: int) -> Catalogue:
    files = folder / "files"
    files.mkdir()
    for number, grey in enumerate(pictures(count, 534)):
        wide = cv2.resize(grey, (958, 534), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(files / f"p{number:05d}.jpg"), wide, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for kind in ("sources", "corpora"):
        (folder / "manifests" / kind).mkdir(parents=True)
    (folder / "manifests" / "sources" / "bench.yaml").write_text(SOURCE)
    for level in ("none", "sector"):
        text = CORPUS.replace("NAME", f"bench-{level}").replace("LEVEL", level)
        (folder / "manifests" / "corpora" / f"bench-{level}.yaml").write_text(text)
    return Catalogue(folder / "manifests")


def _ceiling(files: list[Path], encoding: Encoding) -> None:
    for path in files:
        grey = simplejpeg.decode_jpeg(path.read_bytes(), colorspace="GRAY")[:, :, 0]
        encode(resize_short_side(grey, 256), encoding)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _measure(folder: Path, catalogue: Catalogue, repeats: int) -> dict[str, float]:
    """Seconds of the fastest run of each, taken in turn."""
    files = sorted((folder / "files").glob("*.jpg"))
    number = 0

    def ours(level: str, workers: int) -> Callable[[], object]:
        def run() -> None:
            nonlocal number
            number += 1
            options = BuildOptions(folder / "cache", local={"bench": folder / "files"}, workers=workers)
            result = build(folder / f"out-{number}", catalogue.corpus(f"bench-{level}"), catalogue, options)
            assert result.summary["sources"]["bench"]["frames"]["decoded"] == len(files)

        return run

    encoding = catalogue.corpus("bench-none").pack.pretrain
    works = {
        "ceiling": lambda: _ceiling(files, encoding),
        "none": ours("none", 0),
        "sector": ours("sector", 0),
        "one worker": ours("none", 1),
        "two workers": ours("none", 2),
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(_timed(work))
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--files", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        catalogue = _prepare(folder, given.files)
        seconds = _measure(folder, catalogue, given.repeats)
    ratios = {
        "none": round(seconds["ceiling"] / seconds["none"], 2),
        "sector": round(seconds["ceiling"] / seconds["sector"], 2),
        "two_workers": round(seconds["one worker"] / seconds["two workers"], 2),
    }
    table = Table("", "seconds", "images/s", box=None)
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.2f}", f"{given.files / taken:,.0f}")
    Console().print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    holds = all(ratios[name] >= GOALS[name] for name in GOALS)
    print(json.dumps({"name": "build", "machine": machine, "ratios": ratios, "goals": GOALS, "holds": holds}))


if __name__ == "__main__":
    main()
