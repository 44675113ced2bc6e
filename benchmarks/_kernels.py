"""Where a step's time goes on a GPU: kernels by kind, and the clock and power it sustains."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable
from itertools import pairwise

import torch

# The first kind of which a part stands in a kernel's name; inductor's names tell what they fuse.
KINDS = (
    ("products", ("nvjet", "gemm", "cutlass", "splitK", "xmma")),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("norms", ("norm", "var_mean")),
    ("GELU", ("gelu", "erf")),
    ("optimiser", ("multi_tensor", "adam")),
    ("sums", ("reduce_kernel", "red_fused", "_down")),
)
ROUNDS = 12
OURS = {"forward": "attention", "backward": "attention"}  # short_attention.cu, by the whole name


def kind_of(kernel: str) -> str:
    """Of a kernel's name; `other` where none is known."""
    name = kernel.lower()
    return OURS.get(
        kernel, next((kind for kind, parts in KINDS if any(part.lower() in name for part in parts)), "other")
    )


def milliseconds_by_kind(step: Callable[[], object], steps: int = 3) -> dict[str, float]:
    """Of one step, its kernels added up by kind, the longest first. Waiting between kernels is not among them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    total: dict[str, float] = {}
    for event in found.key_averages():
        kind = kind_of(event.key)
        total[kind] = total.get(kind, 0.0) + event.self_device_time_total / 1e3 / steps
    return {kind: round(ms, 2) for kind, ms in sorted(total.items(), key=lambda item: -item[1])}


def clock_and_power(step: Callable[[], object], steps: int) -> dict[str, float]:
    """MHz of the multiprocessors and watts in the midst of many steps, as nvidia-smi says; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    for _ in range(steps):
        step()  # queued: the device is at work while it is asked
    asked = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-i", "0"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    torch.cuda.synchronize()
    try:
        clock, power = (float(word) for word in done.stdout.strip().split(","))
    except ValueError:
        return {}
    return {"sm_mhz": clock, "watts": power}


def milliseconds(work: Callable[[], object]) -> float:
    """Median of several calls on the device, issued while it is still busy with something else."""
    work()
    torch.cuda.synchronize()
    torch.cuda._sleep(30_000_000)  # cycles, some 17 ms: time to launch everything below
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(ROUNDS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(marks))
