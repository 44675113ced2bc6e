"""The benchmarks run from end to end at a small size; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def last_line(repo: Path, *arguments: str) -> dict[str, object]:
    run = subprocess.run([sys.executable, *arguments], cwd=repo, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.long
def test_the_loader_benchmark_ends_with_its_line(repo: Path) -> None:
    only = ["--only", "webdataset", "decode_only", "ours_uint8", "ours_cached"]
    line = last_line(
        repo, "benchmarks/loader.py", "--rounds", "1", "--images", "512", "--pictures", "128", *only
    )
    assert {"name", "machine", "ratios", "goals", "holds"} <= line.keys() and line["name"] == "loader"


@pytest.mark.long
def test_the_scale_benchmark_ends_with_its_line(repo: Path) -> None:
    line = last_line(repo, "benchmarks/scale.py", "--samples", "1000000", "--images", "128", "--rounds", "1")
    assert {"name", "machine", "ratios", "goals", "holds"} <= line.keys() and line["name"] == "scale"
