"""Attention over few tokens: PyTorch's fused kernels and ours, forward and backward, on the autoencoder's own shapes.

    python benchmarks/attention.py [--seconds 25]

First every shape is checked on fresh random input against attention in float64, PyTorch's fused kernels beside ours.
Then each contestant starts from the output of the fused projection and ends at its gradient, in bfloat16: medians of
CUDA events, with work queued before, so that the launching costs nothing. Last, while time is left, other tiles for
our kernels. Without a GPU the kernels run at toy size in Triton's interpreter, in float16, to show that they are
right; times would mean nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._steps import machine

GOALS = {"step": 1.5, "worst_error": 1e-2}  # best of PyTorch over ours in a ViT-B step; relative, bfloat16
ROUNDS = 12


class Case(NamedTuple):
    """A shape; m is 0 where all t tokens ask. `layers`: how many of them a training step of ViT-B has."""

    name: str
    batch: int
    t: int
    m: int
    heads: int
    d: int
    layers: int


CASES = [
    Case("encoder, ViT-B", 512, 50, 0, 12, 64, 12),
    Case("decoder", 512, 197, 0, 16, 32, 7),
    Case("decoder, last layer", 512, 197, 147, 16, 32, 1),
    Case("cross decoder", 512, 50, 49, 16, 32, 0),
    Case("encoder, ViT-L", 256, 50, 0, 16, 64, 0),
    Case("whole image, ViT-B", 128, 197, 0, 12, 64, 0),
]


class Inputs(NamedTuple):
    """As the projections leave them, and a gradient of the output [B,M,H,d]."""

    q: Tensor | None
    source: Tensor
    dout: Tensor

    def leaves(self) -> list[Tensor]:
        return [x for x in (self.q, self.source) if x is not None]


Attend = Callable[[Tensor | None, Tensor], Tensor]


def draw(case: Case, batch: int, device: str) -> Inputs:
    """Normal numbers, bfloat16 on a GPU, float16 elsewhere."""
    kind = torch.bfloat16 if device == "cuda" else torch.float16

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, case.heads, case.d, device=device, dtype=kind)

    q = normal(case.m).requires_grad_() if case.m else None
    return Inputs(q, normal(case.t, 2 if case.m else 3).requires_grad_(), normal(case.m or case.t))


def split(q: Tensor | None, source: Tensor) -> list[Tensor]:
    """Queries, keys and values, [B,H,.,d]."""
    return [x.transpose(1, 2) for x in (*([] if q is None else [q]), *source.unbind(2))]


def plain(q: Tensor | None, source: Tensor) -> Tensor:
    """Two products and a softmax."""
    queries, k, v = split(q, source)
    mixed: Tensor = ((queries @ k.mT * queries.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)
    return mixed.contiguous()


def fused(backend: SDPBackend | None = None) -> Attend:
    """PyTorch's `scaled_dot_product_attention`, by one of its kernels or by its own choice."""

    def attend(q: Tensor | None, source: Tensor) -> Tensor:
        if backend is None:
            out = torch.nn.functional.scaled_dot_product_attention(*split(q, source))
        else:
            with sdpa_kernel(backend):
                out = torch.nn.functional.scaled_dot_product_attention(*split(q, source))
        return out.transpose(1, 2).contiguous()

    return attend


def errors(attend: Attend, inputs: Inputs) -> list[float]:
    """Relative errors of the output and each gradient, by norm, against float64."""
    found = []
    for function, kind in ((attend, inputs.source.dtype), (plain, torch.float64)):
        leaves = [x.detach().to(kind).requires_grad_() for x in inputs.leaves()]
        out = function(leaves[0] if inputs.q is not None else None, leaves[-1])
        found.append([out, *torch.autograd.grad(out, leaves, inputs.dout.to(kind))])
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)]


def check(cases: list[Case], batch: int, device: str, ours: Attend) -> dict[str, float]:
    """Print the errors of both sides; returns the worst of ours by case."""
    print(f"{'relative error of out and gradients':<38}{'ours':<30}PyTorch")
    worst = {}
    for case in cases:
        inputs = draw(case, batch, device)
        mine, theirs = errors(ours, inputs), errors(fused(), inputs)
        worst[case.name] = max(mine)
        print(f"{case.name:<38}{show(mine):<30}{show(theirs)}")
    return worst


def show(numbers: list[float]) -> str:
    return " ".join(f"{number:.1e}" for number in numbers)


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


def both_ways(attend: Attend, inputs: Inputs) -> tuple[float, float] | None:
    """Milliseconds of the forward pass, and of both; None where the kernel does not take the shape."""
    try:
        forward = milliseconds(lambda: attend(inputs.q, inputs.source))
        whole = milliseconds(
            lambda: torch.autograd.grad(attend(inputs.q, inputs.source), inputs.leaves(), inputs.dout)
        )
    except RuntimeError:
        return None
    return forward, whole


def race(cases: list[Case], contestants: dict[str, Attend]) -> dict[str, dict[str, tuple[float, float]]]:
    """Time everyone on every shape; prints a row for each."""
    print("\nms forward / forward and backward".ljust(35) + "".join(f"{name:>17}" for name in contestants))
    times: dict[str, dict[str, tuple[float, float]]] = {}
    for case in cases:
        inputs, row = draw(case, case.batch, "cuda"), f"{case.name:<34}"
        times[case.name] = {}
        for name, attend in contestants.items():
            found = both_ways(attend, inputs)
            if found is not None:
                times[case.name][name] = found
            row += f"{'-':>17}" if found is None else f"{found[0]:>9.3f} /{found[1]:>6.3f}"
        print(row, flush=True)
    return times


def ratios(times: dict[str, dict[str, tuple[float, float]]]) -> dict[str, float]:
    """How much longer PyTorch's best takes than ours, forward and backward, by shape and over a ViT-B step."""
    best = {
        case: min(found[1] for name, found in row.items() if name != "ours") for case, row in times.items()
    }
    ours = {case: row["ours"][1] for case, row in times.items()}
    step = [sum(case.layers * side[case.name] for case in CASES) for side in (best, ours)]
    print(
        f"\nin a step of ViT-B, batch 512: {step[0]:.2f} ms with the best of PyTorch, {step[1]:.2f} ms with ours"
    )
    return {
        **{case: round(best[case] / ours[case], 2) for case in ours}, "step": round(step[0] / step[1], 2),
    }  # fmt: skip


def candidates(short: Any, case: Case) -> list[Any]:
    """Other tiles worth a try, the built-in ones first."""
    m = case.m or case.t
    cuts = [short.tiles(m, case.t, case.d)]
    if m <= 64:
        tries = [(64, 4, 64, 64, 8), (64, 8, 64, 64, 4), (32, 4, 32, 64, 4)]
    elif case.d == 32:
        tries = [(128, 8, 256, 64, 8), (64, 8, 64, 32, 4), (64, 4, 128, 64, 8), (64, 4, 256, 64, 16)]
    else:
        tries = [(128, 8, 256, 32, 8), (64, 8, 256, 64, 16)]
    return cuts + [cut for cut in (short.Tiles(*values) for values in tries) if cut not in cuts]


def prepare(short: Any, cuts: list[tuple[Case, Any]]) -> list[tuple[Case, Any]]:
    """Compile kernels side by side, on one small batch; returns those that the device takes."""

    def one(job: tuple[Case, Any]) -> bool:
        try:
            q, source, dout = draw(job[0], 1, "cuda")
            with torch.no_grad():
                out, lse = short.forward(q, source, job[1])
                short.backward(q, source, out, lse, dout, job[1])
        except Exception as error:  # a compiler's refusal has no one class; what is left out is said
            reason = str(error).strip().partition("\n")[0][:120]
            print(f"left out: {job[0].name}, {tuple(job[1])}: {type(error).__name__}: {reason}")
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [job for job, good in zip(cuts, pool.map(one, cuts), strict=True) if good]


def sweep(short: Any, deadline: float) -> None:
    """Print what other tiles give, shape by shape, while time is left."""
    print(f"\nms forward, backward of the kernels alone, by {short.Tiles._fields}")
    for case in CASES[:3] + CASES[5:]:
        if time.monotonic() > deadline - 4:
            print(f"{case.name}: no time left")
            continue
        inputs = draw(case, case.batch, "cuda")
        for _, cut in prepare(short, [(case, cut) for cut in candidates(short, case)]):
            there, back = kernels(short, inputs, cut)
            print(f"{case.name:<22}{tuple(cut)!s:<22}{there:>8.3f}{back:>8.3f}", flush=True)


@torch.no_grad()
def kernels(short: Any, inputs: Inputs, cut: Any) -> tuple[float, float]:
    """Milliseconds of our forward and our backward kernel, cut so."""
    q, source, dout = inputs
    out, lse = short.forward(q, source, cut)
    return (
        milliseconds(lambda: short.forward(q, source, cut)),
        milliseconds(lambda: short.backward(q, source, out, lse, dout, cut)),
    )


def main() -> None:
    """Check, race, sweep, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="when the trying of other tiles ends")
    deadline = time.monotonic() + parser.parse_args().seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
    from usfmae.model import short_attention as short

    torch.manual_seed(0)
    found: dict[str, float] = {}
    if device == "cpu":
        toys = [case._replace(heads=2) for case in CASES]
        worst = check(toys, 1, device, short.attend)
        print(
            "no GPU: Triton's interpreter has shown that the kernels are right; how fast they are needs a Hopper GPU"
        )
    else:
        prepare(short, [(CASES[0], short.tiles(50, 50, 64))])  # alone: it also wakes the driver
        prepare(short, [(case, short.tiles(case.m or case.t, case.t, case.d)) for case in CASES[1:]])
        worst = check(CASES, 4, device, short.attend)
        contestants = {
            "ours": short.attend,
            "flash": fused(SDPBackend.FLASH_ATTENTION), "cudnn": fused(SDPBackend.CUDNN_ATTENTION),
            "efficient": fused(SDPBackend.EFFICIENT_ATTENTION), "products": plain,
        }  # fmt: skip
        found = ratios(race(CASES, contestants))
        sweep(short, deadline)
    name = machine(torch.device(device))
    found["worst_error"] = max(worst.values())
    right = found["worst_error"] <= GOALS["worst_error"]
    print(json.dumps({
        "name": "attention", "machine": name, "ratios": found, "goals": GOALS,
        "holds": right and found.get("step", 0.0) >= GOALS["step"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
