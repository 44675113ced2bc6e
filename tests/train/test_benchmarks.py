"""The benchmarks of training run from end to end at toy size; their figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks._kernels import kind_of


def run(repo: Path, *command: str) -> tuple[str, dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert {"name", "machine", "ratios", "goals", "holds"} <= set(line) and isinstance(line["holds"], bool)
    return done.stdout, line


def test_gpu_benchmark_at_toy_size(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out, line = run(
        repo, "benchmarks/gpu.py", "--tiny", "--device", "cpu", "--out", str(tmp_path / "gpu.json")
    )
    assert [r["who"] for r in line["results"]] == ["full", "cross", "peer", "reference"]
    assert all(r["images_per_second"] > 0 for r in line["results"])
    assert line["loader"]["images_per_second"] > 0 and 0 <= line["ratios"]["data_wait"] < 1
    assert "TFLOP/s" in out and json.loads((tmp_path / "gpu.json").read_text()) == line


def test_kernels_are_told_apart_by_their_names() -> None:
    found = {
        "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT": "products",
        "void cublasLt::splitKreduce_kernel<32, 16, int>": "products",
        "backward": "attention",
        "pytorch_flash::flash_fwd_kernel": "attention",
        "_norm_backward": "norms",
        "triton_per_fused__to_copy_add_native_layer_norm_native_layer_norm_backward_view_23": "norms",
        "triton_poi_fused_gelu_gelu_backward_view_20": "GELU",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::FusedOptimizer>": "optimiser",
        "triton_red_fused_sum_view_24": "sums",
        "Memset (Device)": "other",
    }
    assert {name: kind_of(name) for name in found} == found


@pytest.mark.long
def test_step_benchmark_at_toy_size_shows_the_same_loss_first(repo: Path) -> None:
    pytest.importorskip("transformers")
    out, line = run(
        repo,
        "benchmarks/pretrain_step.py",
        "--size",
        "tiny",
        "--batch",
        "2",
        "--rounds",
        "2",
        "--device",
        "cpu",
    )
    assert line["same_loss"] < 1e-5 and set(line["ratios"]) == {"bf16", "fp32"}
    assert all(value > 0 for part in line["ratios"].values() for value in part.values())
    assert out.index("the losses differ by") < out.index("transformers")
