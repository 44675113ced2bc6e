"""Attention over few tokens: PyTorch's fused kernels and ours, forward and backward, on the autoencoder's own shapes.

    python benchmarks/attention.py [--seconds 25]

First every shape is checked on fresh random input against attention in float64, PyTorch's fused kernels beside ours.
Then each contestant starts from the output of the fused projection and ends at its gradient, in bfloat16: medians of
CUDA events, with work queued before, so that the launching costs nothing. Last, while time is left, other ways to cut
the work of our kernels. Without a GPU there is nothing to time: there the tests run the kernels in an emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._kernels import milliseconds
from benchmarks._steps import machine
from usfmae.model import short_attention as short
from usfmae.model.short_attention import Cut

GOALS = {"step": 1.5, "worst_error": 1e-2}  # best of PyTorch over ours in a ViT-B step; relative, bfloat16


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


def draw(case: Case, batch: int) -> Inputs:
    """Normal numbers in bfloat16."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, case.heads, case.d, device="cuda", dtype=torch.bfloat16)

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


def check(cases: list[Case], batch: int, ours: Attend) -> dict[str, float]:
    """Print the errors of both sides; returns the worst of ours by case."""
    print(f"{'relative error of out and gradients':<38}{'ours':<30}PyTorch")
    worst = {}
    for case in cases:
        inputs = draw(case, batch)
        mine, theirs = errors(ours, inputs), errors(fused(), inputs)
        worst[case.name] = max(mine)
        print(f"{case.name:<38}{show(mine):<30}{show(theirs)}")
    return worst


def show(numbers: list[float]) -> str:
    return " ".join(f"{number:.1e}" for number in numbers)


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
        inputs, row = draw(case, case.batch), f"{case.name:<34}"
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


def candidates(case: Case) -> list[Cut]:
    """Ways to cut the work, the built-in ones among them."""
    if max(case.m, case.t) <= 64:
        tries = [(4, 1, 3), (4, 1, 5), (2, 1, 4), (2, 1, 6), (2, 1, 8), (8, 1, 2)]
    else:
        tries = [(4, 2, 3), (5, 2, 2), (7, 2, 1), (3, 2, 4), (4, 1, 4), (5, 1, 3), (7, 1, 2), (9, 1, 2)]
    return [Cut(*values) for values in tries]


def prepare(case: Case, cuts: list[Cut]) -> list[Cut]:
    """Compile kernels side by side, on one small batch; returns those that the device takes."""

    def one(cut: Cut) -> bool:
        try:
            q, source, dout = draw(case, 1)
            with torch.no_grad():
                out, lse = short.forward(q, source, cut)
                short.backward(q, source, None, out, lse, dout, cut)
        except RuntimeError as error:
            print(f"left out: {case.name}, {tuple(cut)}: {str(error).partition(chr(10))[0][:120]}")
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [cut for cut, good in zip(cuts, pool.map(one, cuts), strict=True) if good]


def sweep(deadline: float) -> None:
    """Print what other cuts give, shape by shape, while time is left."""
    print(f"\nms forward, backward of the kernels alone, by {Cut._fields}")
    for case in CASES[:3] + CASES[5:]:
        if time.monotonic() > deadline - 4:
            print(f"{case.name}: no time left")
            continue
        inputs = draw(case, case.batch)
        for cut in prepare(case, candidates(case)):
            there, back = kernels(inputs, cut)
            mark = "".join(
                f" {name}"
                for name, built in zip(("forward", "backward"), cut_of(case), strict=True)
                if built == cut
            )
            print(f"{case.name:<22}{tuple(cut)!s:<14}{there:>8.3f}{back:>8.3f}{mark}", flush=True)


def cut_of(case: Case) -> tuple[Cut, Cut]:
    """The built-in cuts of the forward and the backward pass."""
    return short.cuts_of(case.m or case.t, case.t, case.d)


@torch.no_grad()
def kernels(inputs: Inputs, cut: Cut) -> tuple[float, float]:
    """Milliseconds of our forward and our backward kernel, cut so."""
    q, source, dout = inputs
    out, lse = short.forward(q, source, cut)
    return (
        milliseconds(lambda: short.forward(q, source, cut)),
        milliseconds(lambda: short.backward(q, source, None, out, lse, dout, cut)),
    )


def main() -> None:
    """Check, race, sweep, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="when the trying of other cuts ends")
    deadline = time.monotonic() + parser.parse_args().seconds
    if not torch.cuda.is_available() or not short.room(torch.device("cuda")):
        raise SystemExit(
            "no Hopper GPU here, which these kernels are for; tests/model runs them in an emulator"
        )
    torch.manual_seed(0)
    worst = check(CASES, 4, short.attend)
    contestants = {
        "ours": short.attend,
        "flash": fused(SDPBackend.FLASH_ATTENTION), "cudnn": fused(SDPBackend.CUDNN_ATTENTION),
        "efficient": fused(SDPBackend.EFFICIENT_ATTENTION), "products": plain,
    }  # fmt: skip
    found = ratios(race(CASES, contestants))
    sweep(deadline)
    found["worst_error"] = max(worst.values())
    right = found["worst_error"] <= GOALS["worst_error"]
    print(json.dumps({
        "name": "attention", "machine": machine(torch.device("cuda")), "ratios": found, "goals": GOALS,
        "holds": right and found["step"] >= GOALS["step"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
