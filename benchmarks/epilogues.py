"""GELU inside the products beside it: the MLP of a block with quack's epilogues, against products and kernels apart.

    pip install quack-kernels
    python benchmarks/epilogues.py [--step base large] [--batch 1024]

Between its two products an MLP writes, reads and writes again four times as many numbers as go into it. Here the first
product adds the bias and applies GELU to what it has just computed, and in the backward pass the product with the
second weight multiplies by GELU's derivative and sums the bias's gradient, so that each of those numbers is written or
read once. First both are checked against float64, then every way to tile the products is timed on the shapes of ViT-B
and ViT-L, then (`--step`) whole training steps with and without. A trial: nothing of this is in the package yet.
Without a GPU there is nothing to time; the tests check the gradients with the products in plain PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._kernels import milliseconds, milliseconds_by_kind
from benchmarks._steps import config_of, machine, ours
from usfmae.model import one_pass
from usfmae.model.blocks import Mlp
from usfmae.train.cost import cost_of, peak_flops

GOALS = {"base": 1.03, "large": 1.03}  # of a step's time; less is not worth another dependency


class Tiling(NamedTuple):
    """How quack cuts a product: rows and columns of a tile, whether two groups of warps take turns, the cluster."""

    rows: int
    columns: int
    pingpong: bool
    down: int
    across: int


TILINGS = [
    Tiling(128, 192, True, 2, 1), Tiling(128, 192, True, 1, 2), Tiling(128, 128, True, 2, 1),
    Tiling(128, 160, True, 2, 1), Tiling(256, 128, False, 2, 1), Tiling(256, 128, False, 1, 2),
    Tiling(128, 256, False, 2, 1), Tiling(256, 192, False, 2, 1),
]  # fmt: skip
chosen: dict[tuple[str, int], Tiling] = {}  # by name and width, where one was found to be the best


def tiling_of(name: str, dim: int) -> Tiling:
    return chosen.get((name, dim), TILINGS[0])


class Shape(NamedTuple):
    """The MLP over so many rows, `dim` wide and four times as wide between."""

    name: str
    rows: int
    dim: int


SHAPES = [
    Shape("encoder, ViT-B", 1024 * 50, 768), Shape("decoder", 1024 * 197, 512), Shape("encoder, ViT-L", 512 * 50, 1024),
]  # fmt: skip


@cache
def tiled(tiling: Tiling) -> Any:
    """quack's name for a tiling."""
    from quack.gemm_config import GemmConfig

    return GemmConfig(
        tile_m=tiling.rows, tile_n=tiling.columns, pingpong=tiling.pingpong, cluster_m=tiling.down,
        cluster_n=tiling.across, is_dynamic_persistent=False,
    )  # fmt: skip


@torch.library.custom_op("usfmae::up", mutates_args=())
def up(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x [M,D], weight [H,D], bias float32 [H] -> x @ weight.T + bias and GELU of it, both [M,H]."""
    from benchmarks._epilogues import biased_gelu

    hidden = x.new_empty(len(x), len(weight))
    active = torch.empty_like(hidden)
    config = tiled(tiling_of("gelu", x.shape[1]))
    biased_gelu(x, weight.T, out={"D": hidden, "active": active}, config=config, bias=bias[None])
    return hidden, active


@up.register_kernel("cpu")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    hidden = F.linear(x, weight, bias.to(x.dtype))
    return hidden, F.gelu(hidden)


@up.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    hidden = x.new_empty(len(x), len(weight))
    return hidden, torch.empty_like(hidden)


@torch.library.custom_op("usfmae::down_gradient", mutates_args=())
def down_gradient(dout: Tensor, weight: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """dout [M,D], weight [D,H], hidden [M,H] -> the gradient of hidden [M,H] and its column sums, float32 [H]."""
    from benchmarks._epilogues import gelu_derivative

    dhidden = torch.empty_like(hidden)
    config = tiled(tiling_of("dgelu", dout.shape[1]))
    done = gelu_derivative(dout, weight, hidden, out={"D": dhidden}, config=config)
    return dhidden, done["dbias"].reshape(-1)


@down_gradient.register_kernel("cpu")
def _(dout: Tensor, weight: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    dhidden = torch.ops.aten.gelu_backward(dout @ weight, hidden)
    return dhidden, dhidden.float().sum(0)


@down_gradient.register_fake
def _(dout: Tensor, weight: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), hidden.new_empty(hidden.shape[1], dtype=torch.float32)


class InProducts(torch.autograd.Function):
    """The MLP without its last bias: x [..,D] -> [..,D]; weights [H,D] and [D,H], bias [H], in their own type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, second: Tensor) -> Tensor:
        flat, weight, second = x.reshape(-1, x.shape[-1]), weight.to(x.dtype), second.to(x.dtype)
        hidden, active = up(flat, weight, bias.float())
        ctx.save_for_backward(flat, hidden, active, weight, second)
        return (active @ second.T).view(x.shape)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        flat, hidden, active, weight, second = ctx.saved_tensors
        d = dout.reshape(-1, dout.shape[-1]).contiguous()
        dhidden, dbias = down_gradient(d, second, hidden)
        dx = (dhidden @ weight).view(dout.shape)
        return dx, (dhidden.T @ flat).float(), dbias, (d.T @ active).float()


def in_products(mlp: Mlp, x: Tensor) -> Tensor:
    """In the place of `Mlp.unbiased`."""
    out: Tensor = InProducts.apply(x, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight)
    return out


def draw(shape: Shape, device: str = "cuda") -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, second weight, gradient of the output; bfloat16 but for the bias."""

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, device=device) * scale).bfloat16()

    m, d = shape.rows, shape.dim
    bias = torch.randn(4 * d, device=device) * 0.1
    return normal(m, d), normal(4 * d, d, scale=d**-0.5), bias, normal(d, 4 * d, scale=d**-0.5), normal(m, d)


def errors(shape: Shape, device: str = "cuda") -> list[float]:
    """Relative errors by norm against float64: of the output, and of the gradients of input, weights and bias."""
    *leaves, dout = draw(shape, device)
    found = []
    for kind in (None, torch.float64):
        x, w, b, v = (leaf.detach().to(kind or leaf.dtype).requires_grad_() for leaf in leaves)
        out = InProducts.apply(x, w, b, v) if kind is None else F.linear(F.gelu(F.linear(x, w, b)), v)
        found.append([out, *torch.autograd.grad(out, (x, w, b, v), dout.to(out.dtype))])
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)]


def race(shape: Shape) -> None:
    """Print milliseconds of product and kernel apart, and of both at once in every tiling; keep the best one."""
    x, w, b, v, dout = draw(shape)
    hidden, dactive = F.linear(x, w), dout @ v
    for name, product, kernel, both in (
        ("gelu", lambda: F.linear(x, w), lambda: one_pass.gelu_forward(hidden, b), lambda: up(x, w, b)),
        ("dgelu", lambda: dout @ v, lambda: one_pass.gelu_backward(dactive, hidden, b),
         lambda: down_gradient(dout, v, hidden)),
    ):  # fmt: skip
        apart = milliseconds(product), milliseconds(kernel)
        print(
            f"{shape.name:<16}{name:<7}apart {apart[0]:.3f} + {apart[1]:.3f} = {sum(apart):.3f} ms; at once, by tiling:"
        )
        best = float("inf")
        for tiling in TILINGS:
            before, chosen[name, shape.dim] = tiling_of(name, shape.dim), tiling
            try:
                took = milliseconds(both)
            except Exception as error:  # whatever a compiler of kernels says; told, and the next one is tried
                took = float("inf")
                print(f"    {type(error).__name__}: {str(error)[:90]}")
            print(f"    {tuple(tiling)!s:<32}{took:.3f}", flush=True)
            if took >= best:
                chosen[name, shape.dim] = before
            best = min(best, took)


def step(size: str, batch: int, together: bool) -> float:
    """Seconds of a compiled training step, as benchmarks/gpu.py measures its row `kernels`."""
    device, apart = torch.device("cuda"), Mlp.unbiased
    Mlp.unbiased = in_products if together else apart  # type: ignore[method-assign]
    try:
        config = config_of(size)
        entrant = ours(size, config, device, True, narrow=True)
        images = torch.randn(batch, config.in_chans, config.img_size, config.img_size, device=device)
        for _ in range(3):
            entrant.time(images, True)
        seconds, _ = entrant.time(images, True, 20)
        kinds = milliseconds_by_kind(lambda: entrant.step(images, True))
    finally:
        Mlp.unbiased = apart  # type: ignore[method-assign]
        torch.compiler.reset()
    peak = peak_flops(device)
    share = "-" if peak is None else f"{cost_of(config).training * batch / seconds / peak:.2%}"
    print(f"{size}, batch {batch}, {'together' if together else 'apart':<9} {1e3 * seconds:.2f} ms, "
          f"{batch / seconds:,.0f} images/s, MFU {share}; {kinds}", flush=True)  # fmt: skip
    return seconds


def main() -> None:
    """Check, race, measure steps, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", nargs="*", default=[], choices=("small", "base", "large"))
    parser.add_argument("--batch", type=int, default=1024, help="of ViT-S and ViT-B; half of it for ViT-L")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: there is nothing to time")
    torch.manual_seed(0)
    found: dict[str, float] = {}
    for shape in SHAPES:
        found[f"error, {shape.name}"] = max(errors(shape._replace(rows=4096)))
        print(f"{shape.name}: worst relative error {found[f'error, {shape.name}']:.1e}")
        race(shape)
    for size in options.step:
        batch = options.batch // (2 if size == "large" else 1)
        found[size] = round(step(size, batch, False) / step(size, batch, True), 4)
    print(json.dumps({
        "name": "epilogues", "machine": machine(torch.device("cuda")), "ratios": found, "goals": GOALS,
        "holds": all(found.get(size, 0.0) >= goal for size, goal in GOALS.items()),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
