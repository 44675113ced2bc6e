"""JPEGs decoded on a GPU (nvJPEG) beside this machine's cores: speed, agreement, and what `--decode auto` would choose.

    python -m benchmarks.nvjpeg [--pictures 1024] [--workers N] [--device auto]

The same pictures, read, checked, decoded, cut and resized: by the loader with worker processes, and with the GPU
decoding in a thread of the main process. In turns, five rounds; ratios are medians over rounds, by the clock (the GPU's
time is no core's). Without a GPU torchvision's CPU decoder takes the GPU's way, to show that it works. Under a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._corpus import make
from benchmarks.loader import machine
from usfmae.stream.index import open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.trial import choose
from usfmae.train.distributed import pick_device

SIZE, BATCH, ROUNDS = 224, 128, 5
GOALS = {"mean_difference": 1.0}  # grey levels of 255; the faster path is a choice, not a goal


def rate(batches: Iterator[Batch], steps: int, device: torch.device) -> float:
    """Images a second over `steps` batches, brought to the device."""
    next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        next(batches).images.to(device, non_blocking=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps * BATCH / (time.perf_counter() - began)


def compare(pictures: int, workers: int, device: torch.device) -> dict[str, float]:
    """Measure both, print a table; returns the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        print(make(Path(folder), pictures))
        index = open_index(folder)
        settings = {"batch_size": BATCH, "size": SIZE, "seed": 0}
        cpu = Loader(index, workers=workers, pin=device.type == "cuda", **settings)
        gpu = Loader(index, device=device, **settings)
        first = next(iter(Loader(index, **settings))).images.int()
        apart = (
            (first - next(iter(Loader(index, device=device, **settings))).images.cpu().int()).abs().float()
        )
        choice = choose(cpu, device)
        sides = {"cpu": iter(cpu), "gpu": iter(gpu)}
        rates: dict[str, list[float]] = {"cpu": [], "gpu": []}
        for number in range(ROUNDS):
            for name in ("cpu", "gpu") if number % 2 == 0 else ("gpu", "cpu"):
                rates[name].append(rate(sides[name], max(2, pictures // BATCH), device))
        for batches in sides.values():
            batches.close()  # type: ignore[attr-defined]
    ratio = statistics.median(b / a for a, b in zip(rates["cpu"], rates["gpu"], strict=True))
    print(f"{workers} workers{statistics.median(rates['cpu']):>22,.0f} images/s")
    print(f"{device}, one thread{statistics.median(rates['gpu']):>16,.0f} images/s ({ratio:.2f} x)")
    print(f"pixels differ by {apart.mean():.3f} of 255 on average, {apart.max():.0f} at most")
    print(choice)
    return {
        "gpu_over_workers": round(ratio, 2), "mean_difference": round(apart.mean().item(), 3),
        "greatest_difference": apart.max().item(), "chosen_gpu": float(choice.device is not None),
    }  # fmt: skip


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    name = machine() + (f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ", no GPU")
    ratios = compare(options.pictures, options.workers, device)
    line = {
        "name": "nvjpeg", "machine": name, "workers": options.workers, "ratios": ratios, "goals": GOALS,
        "holds": device.type == "cuda" and ratios["mean_difference"] <= GOALS["mean_difference"],
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
