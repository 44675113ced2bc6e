"""How a build scales: one and two workers, local and on Ray, measured; what larger corpora would cost, worked out.

    python benchmarks/scale_build.py [--files 1024] [--repeats 2] [--pictures 16000]

MEASURED: a build of JPEG files of 958 x 534 (real ultrasound where it lies beside the checkout), cleaned to
`sector`, near-copies dropped; time by the clock without the start of the cluster, the fastest of N runs taken in turn.
Then what each stage costs for a picture: processor seconds and bytes of every task, memory of a worker, and memory of
the process that leads the build, over made-up rows with random fingerprints, since that process only sees rows.

MODEL: those constants times the number of pictures. The search is not linear, so its cost comes from its own plan for
that many hashes, scaled to what was measured (SIMULATED: no hash is compared). Hours are processor time over so many
CPUs; the network, queues and stragglers are not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks._corpus import SOURCE, pictures
from openus.catalogue import Catalogue
from openus.dedup.near import Chunk, Place
from openus.dedup.prints import INDEX_HASHES, RADIUS, VIEWS
from openus.dedup.search import _cost, choose_plan
from openus.dedup.slabs import BYTES_A_HASH
from openus.engine.local import LocalEngine, run_tasks
from openus.engine.ray import MEMORY, RayEngine
from openus.manifest import DedupSettings
from openus.stages.build import BuildOptions, build
from openus.stages.dedup import judge
from openus.storage.depot import Depot

GOALS = {"local_two_over_one": 1.6, "ray_two_over_one": 1.6, "ray_over_local": 0.8}
SIZES = {"3.7x10^5": 370_000, "10^7": 10**7, "10^9": 10**9}
CPUS = {"3.7x10^5": 8, "10^7": 64, "10^9": 1024}
LEADER = 256 << 30  # bytes of memory that a machine for the leading process may be expected to have
CHUNK, SHARD = 256, 256 << 20
CORPUS = """
schema: 1
name: scale
seed: 1
sources: [bench]
clean: {level: sector, size: 256}
dedup: {near: drop}
pack: {shard_bytes: 8388608}
"""


def prepare(folder: Path, count: int) -> Catalogue:
    """`count` JPEG files in `folder`/files, and manifests of them."""
    (folder / "files").mkdir()
    for number, grey in enumerate(pictures(count, 534)):
        wide = cv2.resize(grey, (958, 534), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "files" / f"p{number:05d}.jpg"), wide, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for kind, name, text in (("sources", "bench", SOURCE), ("corpora", "scale", CORPUS)):
        (folder / "manifests" / kind).mkdir(parents=True)
        (folder / "manifests" / kind / f"{name}.yaml").write_text(text)
    return Catalogue(folder / "manifests")


class Meter(LocalEngine):
    """The local engine in this process, with the processor time of each kind of task."""

    def __init__(self, depot: Depot) -> None:
        super().__init__(0, depot)
        self.seconds: dict[str, float] = defaultdict(float)

    def run(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], *more: Any, **named: Any
    ) -> Iterator[Any]:
        for task in tasks:
            began = time.process_time()
            answer = function(task)
            self.seconds[function.__name__] += time.process_time() - began
            yield task, answer

    def spread(self, function: Callable[..., Any], shared: Any, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            began = time.process_time()
            answer = function(shared, task, 1)
            self.seconds[function.__name__] += time.process_time() - began
            yield answer


class Scale(LocalEngine):
    """One worker process, with the most memory that a task in it took."""

    def __init__(self, depot: Depot) -> None:
        super().__init__(1, depot)
        self.peak = 0

    def run(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], *more: Any, **named: Any
    ) -> Iterator[Any]:
        for task, (answer, peak) in run_tasks(partial(_weighed, function), tasks, 1):
            self.peak = max(self.peak, peak)
            yield task, answer


def _weighed(function: Callable[[Any], Any], task: Any) -> tuple[Any, int]:
    return function(task), peak_memory()


def peak_memory() -> int:
    """Bytes that this process held at most. (`getrusage` would count what it inherited over its start.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def races(folder: Path, catalogue: Catalogue, repeats: int) -> dict[str, float]:
    """Seconds of the fastest build with each engine and number of workers, and of starting a cluster."""
    corpus, number = catalogue.corpus("scale"), 0
    best: dict[str, float] = {}

    def timed(name: str, engine: Any, out: Path) -> None:
        options = BuildOptions(folder / "cache", local={"bench": folder / "files"}, workers=2)
        began = time.perf_counter()
        build(out, corpus, catalogue, options, engine=engine)
        best[name] = min(best.get(name, 1e9), time.perf_counter() - began)

    for _ in range(repeats):
        for workers in (1, 2):
            number += 1
            out = folder / f"local-{number}"
            timed(f"local, {workers}", LocalEngine(workers, Depot(out)), out)
            out = folder / f"ray-{number}"
            began = time.perf_counter()
            with RayEngine(workers, Depot(out), address="local") as engine:
                start = time.perf_counter() - began
                best["start of Ray"] = min(best.get("start of Ray", 1e9), start)
                timed(f"ray, {workers}", engine, out)
    return best


def constants(folder: Path, catalogue: Catalogue, files: int) -> dict[str, float]:
    """Processor seconds and bytes for a picture of each kind of task, and bytes of memory of a worker."""
    out = folder / "metered"
    engine = Meter(Depot(out))
    options = BuildOptions(folder / "cache", local={"bench": folder / "files"})
    began = time.process_time()
    result = build(out, catalogue.corpus("scale"), catalogue, options, engine=engine)
    whole = time.process_time() - began
    kept = sum(part["samples"] for part in result.summary["sets"].values())
    seconds = engine.seconds
    found = {
        "decode": seconds["run_chunk"] / files,
        "fingerprint": seconds["print_chunk"] / files,
        "compare": seconds["compare_batch"] / files,
        "pack": seconds["write_again"] / kept,
        "lead": (whole - sum(seconds.values())) / files,
    }
    for name, pattern in {
        "samples": ".work/sources/*/*.bin", "rows": ".work/sources/*/*.parquet", "prints": ".work/sources/*/*.prints",
        "shards": "*/*.tar", "manifests": "manifest/pretrain-*.parquet", "plans": ".work/pack/*.arrow",
    }.items():  # fmt: skip
        found[f"{name} bytes"] = sum(path.stat().st_size for path in out.glob(pattern)) / files
    found["input bytes"] = sum(path.stat().st_size for path in (folder / "files").iterdir()) / files
    out = folder / "weighed"
    scale = Scale(Depot(out))
    build(out, catalogue.corpus("scale"), catalogue, options, engine=scale)
    return found | {"worker memory": scale.peak}


def lead(pictures: int) -> None:
    """In a process of its own: the decision over so many pictures; prints processor seconds and peak memory."""
    rng = np.random.default_rng(0)
    before = peak_memory()
    with tempfile.TemporaryDirectory() as scratch:
        folder, chunks = Path(scratch), []
        for at in range(0, pictures, CHUNK):
            count = min(CHUNK, pictures - at)
            prints = rng.integers(0, 256, (count, VIEWS + INDEX_HASHES, 32), np.uint8)
            (folder / f"{at}.prints").write_bytes(b"{}".ljust(64) + prints.tobytes())
            keys = tuple(f"bench_{number:020d}" for number in range(at, at + count))
            places = tuple(Place(folder / f"{at}.bin", number, 1) for number in range(count))
            chunks.append(Chunk(f"bench/{at}", folder / f"{at}.prints", keys, ("",) * count, places, keys))
        names = [key for chunk in chunks for key in chunk.keys]
        words = {"set": "pretrain", "source": "bench", "clip": "", "patient": "", "index": 0}
        sizes = {"source_width": 958, "source_height": 534}
        facts = pd.DataFrame(
            {"key": names, "member": names, "pixel_sha256": names, "phash": "0" * 64} | words | sizes
        )
        engine = Meter(Depot(folder))
        began = time.process_time()
        judge(facts, chunks, DedupSettings(near="drop"), folder / "pairs.parquet", engine, lambda *_: None)
        whole = time.process_time() - began
    search = engine.seconds["search_slab"]
    print(json.dumps({"search": search, "lead": whole - search, "memory": peak_memory() - before}))


def leading(pictures: int) -> dict[str, float]:
    """`lead` for a quarter of the pictures and for all; what each further picture costs."""
    found = []
    for count in (pictures // 4, pictures):
        words = [sys.executable, "-m", "benchmarks.scale_build", "--lead", str(count)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
        found.append(json.loads(done.stdout))
    more = pictures - pictures // 4
    return {
        "memory": max(0.0, found[1]["memory"] - found[0]["memory"]) / more,
        "seconds": (found[1]["lead"] - found[0]["lead"]) / more,
        "factor": found[1]["search"] / search(pictures)[2],
        "search": found[1]["search"],
    }


def search(pictures: int) -> tuple[int, int, float]:
    """Tasks of the search on a cluster (a slab of queries against a block of the index each), sorts in each task, and
    what the search's own model says of the seconds of all."""
    most = MEMORY // BYTES_A_HASH
    index, queries = pictures * INDEX_HASHES, pictures * (VIEWS + INDEX_HASHES)
    block, slab = min(index, most), min(queries, most // 4 if index > most else 1 << 20)
    tasks = -(-index // block) * -(-queries // slab)
    plan = choose_plan(slab, block, RADIUS, written_out=True)  # as `search_slab` does
    return tasks, plan.parts * len(plan.joins()), tasks * _cost(plan, slab, block, written_out=True) / 1e9


def model(each: dict[str, float], leader: dict[str, float]) -> list[dict[str, Any]]:
    """A row for every stage of every size."""
    rows = []
    for name, count in SIZES.items():
        chunks = -(-count // CHUNK)
        shards = -(-int(count * each["shards bytes"]) // SHARD)
        tasks, joins, took = search(count)
        index = min(count * INDEX_HASHES * BYTES_A_HASH, MEMORY)
        stages = (
            ("decode, clean", count * each["decode"], chunks, each["samples bytes"] + each["rows bytes"], 0),
            ("fingerprint", count * each["fingerprint"], chunks, each["prints bytes"], 0),
            ("search", took * leader["factor"], tasks, 0, index),
            ("compare", count * each["compare"], -(-count // 6400), 0, 0),
            ("pack", count * each["pack"], shards, each["shards bytes"] + each["manifests bytes"], 0),
        )
        for stage, seconds, number, size, shared in stages:
            rows.append(
                {
                    "pictures": name, "stage": stage, "cpus": CPUS[name], "cpu_hours": seconds / 3600,
                    "hours": seconds / 3600 / CPUS[name], "tasks": number, "disk": count * size,
                    "memory": each["worker memory"] + shared, "joins": joins,
                }
            )  # fmt: skip
        seconds = count * (each["lead"] + leader["seconds"])
        rows.append(
            {
                "pictures": name, "stage": "lead (one process)", "cpus": 1, "cpu_hours": seconds / 3600,
                "hours": seconds / 3600, "tasks": 1, "disk": count * each["plans bytes"],
                "memory": count * leader["memory"], "joins": 0,
            }
        )  # fmt: skip
    return rows


def show(
    seconds: dict[str, float], each: dict[str, float], leader: dict[str, float], rows: list[dict[str, Any]]
) -> None:
    """The tables."""
    console = Console(width=130)
    table = Table("MEASURED", "seconds", box=None)
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.1f}")
    console.print(table)
    table = Table("MEASURED, a picture", "", box=None)
    for name in ("decode", "fingerprint", "compare", "pack", "lead"):
        table.add_row(f"{name}, processor", f"{each[name] * 1e3:.2f} ms")
    for name in ("input", "samples", "rows", "prints", "plans", "shards", "manifests"):
        table.add_row(name, f"{each[f'{name} bytes'] / 1e3:.2f} kB")
    table.add_row("leading process, memory", f"{leader['memory'] / 1e3:.2f} kB")
    table.add_row("a worker, memory at most", f"{each['worker memory'] / 2**20:.0f} MiB")
    table.add_row("search of the made-up pictures over its own model", f"{leader['factor']:.2f}")
    console.print(table)
    table = Table(
        "MODEL", "stage", "CPUs", "CPU hours", "hours", "tasks", "disk GB", "memory GB", "buckets", box=None
    )
    for row in rows:
        simulated = " (SIMULATED)" if row["stage"] == "search" else ""
        over = " (too much)" if row["memory"] > LEADER else ""
        table.add_row(
            row["pictures"], row["stage"] + simulated, f"{row['cpus']:,}", f"{row['cpu_hours']:,.1f}",
            f"{row['hours']:,.2f}", f"{row['tasks']:,}", f"{row['disk'] / 1e9:,.1f}",
            f"{row['memory'] / 1e9:,.1f}{over}", f"{row['joins']}" if row["stage"] == "search" else "",
        )  # fmt: skip
    console.print(table)
    console.print(
        "memory: of one task and what it shares with its machine; buckets: sorts of the index in each task"
    )


def main() -> None:
    """Measure, work out, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=16000, help="made-up ones, for the leading process")
    parser.add_argument("--lead", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.lead:
        lead(given.lead)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        catalogue = prepare(folder, given.files)
        seconds = races(folder, catalogue, given.repeats)
        each = constants(folder, catalogue, given.files)
    leader = leading(given.pictures)
    rows = model(each, leader)
    show(seconds, each, leader, rows)
    ratios = {
        "local_two_over_one": round(seconds["local, 1"] / seconds["local, 2"], 2),
        "ray_two_over_one": round(seconds["ray, 1"] / seconds["ray, 2"], 2),
        "ray_over_local": round(seconds["local, 2"] / seconds["ray, 2"], 2),
    }
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    holds = all(ratios[name] >= GOALS[name] for name in GOALS)
    answer = {"name": "scale_build", "machine": machine, "ratios": ratios, "goals": GOALS, "holds": holds}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
