"""How the plan scales: 1 to 4,096 ranks and up to 10^9 samples simulated, one and two loader processes measured.

    python benchmarks/scale.py [--samples 1000000000] [--images 2000] [--rounds 3]

SIMULATED: the real plan, partition and cursor are run for chosen ranks of an imagined job; nothing is read. Shards hold
10,000 samples of 25 kB. "GB/rank" and "GB/node" are what one rank, and a node of 8 with one cache, fetch in an epoch
under the order in blocks, counted over whole shards; "1/nodes" is an even share of the set, which would be perfect.

MEASURED: this machine, one loader as one rank, and two loaders at once as the two ranks of one job.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._corpus import make  # noqa: E402
from benchmarks.loader import machine  # noqa: E402
from usfmae.stream.plan import Cells, Plan, Share  # noqa: E402

SHARD, SAMPLE_BYTES, BATCH, NODE = 10_000, 25_000, 64, 8
GOALS = {"cost_of_1e9_over_1e6": 3.0, "imbalance": 0.0, "two_ranks_over_one_per_cpu": 0.8}


def block_plan(samples: int, lanes: int) -> Plan:
    """The order in blocks over shards of SHARD samples."""
    count = np.full(-(-samples // SHARD), SHARD, np.int64)
    count[-1] -= count.sum() - samples
    zero = np.zeros_like(count)
    return Plan(
        Cells(np.cumsum(count) - count, count, np.arange(len(count)), zero), 1, min(lanes, len(count)), SHARD
    )


def cost(plan: Plan, world: int) -> float:
    """Microseconds of the main process for each sample of a rank's step; the layout of the epoch made before."""
    share = Share(plan.count, BATCH, world, world // 2)
    plan.draw(0, np.arange(1))
    times = []
    for step in range(12):
        start = time.process_time()
        positions, _ = share.positions(step * share.step_size)
        plan.draw(0, positions)
        times.append(time.process_time() - start)
    return min(times) / BATCH * 1e6


def bytes_read(plan: Plan, world: int, ranks: range) -> int:
    """Bytes of the whole shards that these ranks of a job touch together in an epoch.

    A lane is a run of the epoch's line of shards, and rank r of w takes the positions r, r + w, ...: it is in the lanes
    that leave the same rest by gcd(lanes, w). So the shards are known without drawing a sample.
    """
    rests = {rank % math.gcd(plan.lanes, world) for rank in ranks}
    length, longer = divmod(plan.count, plan.lanes)
    touched: set[int] = set()
    for lane in range(plan.lanes):
        if lane % math.gcd(plan.lanes, world) in rests:
            first = lane * length + min(lane, longer)
            touched.update(range(first // SHARD, (first + length + (lane < longer) - 1) // SHARD + 1))
    return len(touched) * SHARD * SAMPLE_BYTES


def imbalance(count: int, world: int) -> int:
    """Greatest difference in steps, and in samples that are not padding, between ranks of the job."""
    ranks = sorted({0, 1, world // 3, world // 2, world - 1} & set(range(world)))
    steps, whole = [], []
    for rank in ranks:
        share = Share(count, BATCH, world, rank)
        steps.append(share.steps())
        padded = share.positions((share.steps() - 1) * share.step_size)[1]
        whole.append(share.steps() * BATCH - padded)
    # The last step deals what is left in turns, one at a time.
    return max(steps) - min(steps) + max(0, max(whole) - min(whole) - 1)


def simulate(most: int) -> dict[str, float]:
    """Print the simulated table; returns its ratios."""
    print("SIMULATED (nothing is read)")
    heads = (
        "samples",
        "ranks",
        "steps",
        "padding",
        "global us",
        "blocks us",
        "MB",
        "lanes",
        "GB/rank",
        "GB/node",
        "1/nodes",
    )
    print("".join(f"{head:>15}" if head == "samples" else f"{head:>11}" for head in heads))
    worst, costs = 0, {}
    for samples in (n for n in (10**6, 10**7, 10**8, 10**9) if n <= most):
        for world in (1, 8, 64, 512, 4096):
            lanes = max(16, world)
            plain, blocks = Plan(Cells.whole(samples), 1), block_plan(samples, lanes)
            share = Share(samples, BATCH, world)
            pad = share.steps() * share.step_size - samples
            costs[samples, world] = cost(plain, world)
            worst = max(worst, imbalance(samples, world))
            memory = (
                sum(part.nbytes for part in (blocks.cells.start, blocks.cells.count, blocks.cells.shard))
                / 1e6
            )
            nodes = -(-world // NODE)
            node = range(nodes // 2 * NODE, min((nodes // 2 + 1) * NODE, world))
            read = [
                bytes_read(blocks, world, ranks) / 1e9 for ranks in (range(world // 2, world // 2 + 1), node)
            ]
            cells = [
                f"{samples:,}", f"{world:,}", f"{share.steps():,}", f"{pad / samples:.2%}",
                f"{costs[samples, world]:.1f}", f"{cost(blocks, world):.1f}", f"{memory:.1f}", f"{blocks.lanes:,}",
                f"{read[0]:,.1f}", f"{read[1]:,.1f}", f"{samples * SAMPLE_BYTES / 1e9 / nodes:,.1f}",
            ]  # fmt: skip
            print("".join(f"{cell:>15}" if i == 0 else f"{cell:>11}" for i, cell in enumerate(cells)))
    print(f"(us: main process, for each sample; peak memory here {_peak():.0f} MB)")
    ends = [
        min(value for (n, _), value in costs.items() if n == samples) for samples in (10**6, max(costs)[0])
    ]
    return {
        f"cost_of_1e{len(str(max(costs)[0])) - 1}_over_1e6": round(ends[1] / ends[0], 2),
        "imbalance": worst,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


RANK = """
import json, sys, time, resource
sys.path.insert(0, sys.argv[1])
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader
rank, world, images = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
loader = Loader(open_index(sys.argv[2]), batch_size=64, size=224, seed=0, rank=rank, world=world, workers=0)
batches = iter(loader)
next(batches)
print("ready", flush=True)
for line in sys.stdin:
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < images:
        done += len(next(batches).images)
    print(json.dumps([done / (time.perf_counter() - start), done / (time.process_time() - cpu)]), flush=True)
"""


def measure(images: int, rounds: int) -> dict[str, float]:
    """One rank alone and two at once, in turns; returns the ratios of two to one."""
    clock, per_cpu = [], []
    with tempfile.TemporaryDirectory() as scratch:
        print(f"\nMEASURED: {make(Path(scratch), 1500)}")
        jobs = {
            world: [
                subprocess.Popen(
                    [sys.executable, "-c", RANK, str(ROOT), scratch, str(rank), str(world), str(images)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
                for rank in range(world)
            ]
            for world in (1, 2)
        }  # fmt: skip
        try:
            for ranks in jobs.values():
                for rank in ranks:
                    assert rank.stdout is not None and rank.stdout.readline() == "ready\n"
            for number in range(rounds):
                found = {world: _ask(jobs[world]) for world in ((1, 2) if number % 2 == 0 else (2, 1))}
                clock.append(sum(rate for rate, _ in found[2]) / found[1][0][0])
                per_cpu.append(statistics.mean(rate for _, rate in found[2]) / found[1][0][1])
                one, two = found[1][0], found[2]
                together, each = sum(rate for rate, _ in two), statistics.mean(rate for _, rate in two)
                print(
                    f"one rank {one[0]:,.0f} images/s ({one[1]:,.0f} a CPU second), "
                    f"two ranks {together:,.0f} ({each:,.0f} a CPU second each)"
                )
        finally:
            for rank in [rank for ranks in jobs.values() for rank in ranks]:
                rank.communicate()
    return {
        "two_ranks_over_one_per_cpu": round(statistics.median(per_cpu), 2),
        "two_ranks_over_one_by_clock": round(statistics.median(clock), 2),
    }


def _ask(ranks: list[subprocess.Popen[str]]) -> list[list[float]]:
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("\n")
        rank.stdin.flush()
    return [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout is not None]


def main() -> None:
    """Simulate, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--images", type=int, default=2000, help="of each rank in one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios = simulate(options.samples) | measure(options.images, options.rounds)
    checks = [
        ratios.get("cost_of_1e9_over_1e6", math.inf) <= GOALS["cost_of_1e9_over_1e6"],
        ratios["imbalance"] <= GOALS["imbalance"],
        ratios["two_ranks_over_one_per_cpu"] >= GOALS["two_ranks_over_one_per_cpu"],
    ]
    print(
        json.dumps(
            {"name": "scale", "machine": machine(), "ratios": ratios, "goals": GOALS, "holds": all(checks)}
        )
    )


if __name__ == "__main__":
    main()
