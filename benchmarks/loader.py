"""How fast the loader feeds, beside webdataset + Pillow + torchvision, litdata, MosaicML streaming and a bare decode.

    python benchmarks/loader.py [--workers 2] [--images 3000] [--rounds 5] [--peers FOLDER]

All read the same JPEG pictures with the same number of workers. They are measured in turns, a few seconds each,
and every ratio is the median over rounds of two measurements taken next to each other, so that a change in the
machine's other load strikes both. Before each measurement the batches decoded ahead are taken away untimed.

The ratios are of images per second of CPU time, all processes of a pipeline counted: on cores of one's own that
is the rate itself, and on a shared machine it does not depend on how the cores were dealt out meanwhile. The
ratios by the clock stand beside them.

`ours_uint8` is what training on a GPU takes: the cropped, resized views, flipped and normalised on the device.
`ours_linear` and `ours` (bicubic like the reference) flip and normalise to float32 on these cores too.

`--peers` is a folder to import litdata and streaming from (`pip install --target FOLDER litdata mosaicml-streaming`),
as their version limits do not go with this project's; they are left out where they cannot be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._corpus import make  # noqa: E402

PEERS = ("webdataset", "litdata", "streaming")
NAMES = (
    "webdataset",
    "litdata",
    "streaming",
    "decode_only",
    "ours",
    "ours_linear",
    "ours_uint8",
    "ours_cached",
)
GOALS = {"webdataset": 9.0, "decode_only": 0.75, "cached": 2.0, "others": 6.0, "memory_mb": 400.0}


@dataclass
class Pipeline:
    """A pipeline in its own process, and what was measured of it, one value a round."""

    name: str
    process: subprocess.Popen[str]
    rate: list[float] = field(default_factory=list)
    per_cpu: list[float] = field(default_factory=list)
    pss: float = 0.0

    def measure(self, images: int) -> None:
        """Take away what is decoded ahead, then time `images`."""
        self._ask(512)
        answer = self._ask(images)
        self.rate.append(images / answer["wall"])
        self.per_cpu.append(images / max(answer["cpu"], 1e-9))
        self.pss = max(self.pss, answer["pss"])

    def _ask(self, images: int) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{images}\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


def start(name: str, corpus: Path, workers: int, scratch: Path, peers: str | None) -> Pipeline | None:
    """Start a pipeline; None (and a line why) where it cannot run here."""
    options = json.dumps({"corpus": str(corpus), "workers": workers, "scratch": str(scratch)})
    path = os.pathsep.join([str(ROOT), *([peers] if peers and name in PEERS[1:] else [])])
    log = (scratch / f"{name}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._pipelines", name, options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:  # peers may print before they are ready
        if line.strip() == "ready":
            return Pipeline(name, process)
    reason = (scratch / f"{name}.log").read_text().strip().splitlines()
    print(f"{name}: left out ({reason[-1] if reason else 'it ended'})")
    return None


def ratio(over: Pipeline, under: Pipeline, by_clock: bool = False) -> float:
    """Median over rounds of one pipeline's rate by another's in the same round."""
    first, second = (over.rate, under.rate) if by_clock else (over.per_cpu, under.per_cpu)
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def machine() -> str:
    """Processor, cores and system in a line."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(found: dict[str, Pipeline]) -> None:
    """Print a line for each pipeline."""
    heads = (
        "images/s",
        "per CPU s",
        "us of CPU",
        "x webdataset",
        "by clock",
        "x decode",
        "by clock",
        "MB/worker",
    )
    print(f"\n{'pipeline':<13}" + "".join(f"{head:>13}" for head in heads))
    for name, pipeline in found.items():
        cpu = statistics.median(pipeline.per_cpu)
        cells = [f"{statistics.median(pipeline.rate):,.0f}", f"{cpu:,.0f}", f"{1e6 / cpu:,.0f}"]
        cells += [
            f"{ratio(pipeline, found[other], by_clock):.2f}" if other in found else "-"
            for other in ("webdataset", "decode_only")
            for by_clock in (False, True)
        ]
        print(f"{name:<13}" + "".join(f"{cell:>13}" for cell in [*cells, f"{pipeline.pss:,.0f}"]))


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--images", type=int, default=3000, help="per measurement; slow pipelines take a quarter"
    )
    parser.add_argument("--pictures", type=int, default=3000, help="in the corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="folder to import litdata and streaming from")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        print(make(corpus, options.pictures))
        found = {}
        try:
            for name in options.only:
                if pipeline := start(name, corpus, options.workers, Path(scratch), options.peers):
                    found[name] = pipeline
            for number in range(options.rounds):
                order = list(found.values())
                for pipeline in order if number % 2 == 0 else order[::-1]:
                    pipeline.measure(options.images // (4 if pipeline.name in PEERS else 1))
        finally:
            for pipeline in found.values():
                pipeline.process.stdin.close()  # type: ignore[union-attr]
                pipeline.process.wait()
    table(found)
    report(found, options.workers)


def report(found: dict[str, Pipeline], workers: int) -> None:
    """The closing JSON line."""
    ratios: dict[str, float] = {}
    for name, over, unders in (
        ("webdataset", "ours_uint8", ["webdataset"]),
        ("decode_only", "ours_uint8", ["decode_only"]),
        ("cached", "ours_cached", ["decode_only"]),
        ("others", "ours_uint8", ["litdata", "streaming"]),
    ):
        known = [found[under] for under in unders if under in found]
        if over in found and known:
            ratios[name] = round(min(ratio(found[over], under) for under in known), 2)
            ratios[f"{name}_by_clock"] = round(min(ratio(found[over], under, True) for under in known), 2)
    ours = [pipeline.pss for name, pipeline in found.items() if name in ("ours", "ours_linear", "ours_uint8")]
    if ours:
        ratios["memory_mb"] = round(max(ours))
    holds = set(GOALS) <= set(ratios) and all(
        ratios[name] <= goal if name == "memory_mb" else ratios[name] >= goal for name, goal in GOALS.items()
    )
    if missing := set(GOALS) - set(ratios):
        print(f"not measured here: {', '.join(sorted(missing))}")
    line = {
        "name": "loader",
        "machine": machine(),
        "workers": workers,
        "ratios": ratios,
        "goals": GOALS,
        "holds": holds,
        "pipelines": {
            name: {
                "images_per_second": round(statistics.median(pipeline.rate)),
                "per_second_of_CPU": round(statistics.median(pipeline.per_cpu)),
                "MB_per_worker": round(pipeline.pss),
            }
            for name, pipeline in found.items()
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
