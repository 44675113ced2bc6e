"""How fast a training step is, beside transformers' ViTMAE: same size, batch, images, precision, machine.

    python benchmarks/pretrain_step.py [--size base] [--batch 16] [--rounds 5] [--precisions bf16,fp32] [--compile]

Contestants take turns, one step each a round; a ratio is the median over rounds of two steps of the same round, so
that a change in the machine's other load strikes both. The peer at its best uses SDPA and fused AdamW (and
torch.compile with --compile, where the faster of its two forms counts); "reference" is the plain form: unfused
attention, plain AdamW, autocast. Before anything is timed, ours and the peer are shown to give the same loss for the
same weights, images and mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._steps import Contestant, config_of, machine, ours, peer, same_loss
from usfmae.train.cost import cost_of
from usfmae.train.distributed import pick_device

GOALS = {
    "cpu": {"full": 1.15, "cross": 1.7},
    "cuda": {"full_over_reference": 2.0},
}
Times = dict[str, list[tuple[float, float]]]


def contestants(size: str, device: torch.device, compiled: bool) -> list[Contestant]:
    """Ours with both decoders, the peer at its best and in plain form; compiled ones as well where asked for."""
    full, cross = config_of(size), config_of(size, decoder="cross", predict_ratio=1 / 3)
    made = [
        ours("ours, full decoder", full, device, False),
        ours("ours, cross decoder", cross, device, False),
        peer("transformers", full, device, False, best=True),
        peer("reference form", full, device, False, best=False),
    ]
    if compiled:
        made += [
            ours("ours, full decoder, compiled", full, device, True),
            ours("ours, cross decoder, compiled", cross, device, True),
            peer("transformers, compiled", full, device, True, best=True),
        ]
    return made


def measure(entrants: list[Contestant], images: torch.Tensor, bf16: bool, rounds: int, steps: int) -> Times:
    """Steps in turns; the first of each, which compiles and allocates, is not counted."""
    times: Times = {entrant.name: [] for entrant in entrants}
    for entrant in entrants:
        entrant.time(images, bf16)
    for _ in range(rounds):
        for entrant in entrants:
            times[entrant.name].append(entrant.time(images, bf16, steps))
    return times


def ratio(times: Times, over: str, under: str, busy: bool = False) -> float:
    """How many times faster `over` is: the median over rounds."""
    pairs = zip(times[over], times[under], strict=True)
    return statistics.median(b[busy] / a[busy] for a, b in pairs)


def ratios_of(times: Times) -> dict[str, float]:
    """Our best form against the peer's best form, by the clock and by processor time."""

    def best(*names: str) -> str:
        return min((n for n in names if n in times), key=lambda n: statistics.median(t[0] for t in times[n]))

    full = best("ours, full decoder", "ours, full decoder, compiled")
    cross = best("ours, cross decoder", "ours, cross decoder, compiled")
    other = best("transformers", "transformers, compiled")
    found = {
        "full": ratio(times, full, other), "cross": ratio(times, cross, other),
        "full_by_cpu_time": ratio(times, full, other, True), "cross_by_cpu_time": ratio(times, cross, other, True),
        "full_over_reference": ratio(times, full, "reference form"),
        "cross_over_reference": ratio(times, cross, "reference form"),
    }  # fmt: skip
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--precisions", default="bf16,fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well (minutes on a CPU)")
    options = parser.parse_args()

    device = pick_device(options.device)
    torch.manual_seed(0)
    config = config_of(options.size)
    apart = same_loss(config, device)
    print(f"{machine(device)}; ViT {options.size}, batch {options.batch}")
    print(f"same weights, images and mask: the losses differ by {apart:.1e} of their value\n")
    entrants = contestants(options.size, device, options.compile)
    images = torch.randn(options.batch, 3, config.img_size, config.img_size, device=device)
    flops = {
        False: cost_of(config).training,
        True: cost_of(config_of(options.size, decoder="cross", predict_ratio=1 / 3)).training,
    }

    results: dict[str, dict[str, float]] = {}
    for precision in options.precisions.split(","):
        times = measure(entrants, images, precision == "bf16", options.rounds, options.steps)
        print(f"{precision:<34}{'s a step':>10}{'images/s':>10}{'GFLOP/s':>10}")
        for name, values in times.items():
            seconds = statistics.median(t[0] for t in values)
            work = flops["cross" in name] * options.batch / seconds / 1e9 if "ours" in name else float("nan")
            shown = f"{work:>10,.0f}" if "ours" in name else f"{'':>10}"
            print(f"  {name:<32}{seconds:>10.3f}{options.batch / seconds:>10.2f}{shown}")
        results[precision] = ratios_of(times)
        print("  " + ", ".join(f"{name} {value:.2f}x" for name, value in results[precision].items()) + "\n")

    goals = GOALS[device.type]
    judged = results.get("bf16") or next(iter(results.values()))  # the precision of the recipes
    holds = apart < 1e-5 and all(judged[name] >= goal for name, goal in goals.items())
    line = {
        "name": "pretrain_step", "machine": machine(device), "size": options.size, "batch": options.batch,
        "same_loss": apart, "ratios": results, "goals": {"bf16": goals}, "holds": holds,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
