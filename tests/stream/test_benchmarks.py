"""The benchmarks run from end to end at a small size; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale


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


@pytest.mark.long
def test_the_nvjpeg_benchmark_ends_with_its_line(repo: Path) -> None:
    line = last_line(repo, "-m", "benchmarks.nvjpeg", "--pictures", "128", "--workers", "1")
    assert {"name", "machine", "ratios", "goals", "holds"} <= line.keys() and line["name"] == "nvjpeg"


@pytest.mark.parametrize(("world", "lanes"), [(1, 16), (4, 16), (6, 4), (8, 8), (12, 30)])
def test_the_bytes_of_the_scale_benchmark_are_those_the_plan_reads(
    monkeypatch: pytest.MonkeyPatch, world: int, lanes: int
) -> None:
    monkeypatch.setattr(scale, "SHARD", 10)
    plan = scale.block_plan(300, lanes)
    rows, _ = plan.draw(2, np.arange(300))
    for ranks in (range(1), range(world // 2, world)):
        touched = {int(row) // 10 for rank in ranks for row in rows[rank::world]}
        assert scale.bytes_read(plan, world, ranks) == len(touched) * 10 * scale.SAMPLE_BYTES
