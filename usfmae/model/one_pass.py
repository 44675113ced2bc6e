"""Layer norm and GELU whose backward pass goes over its numbers once, as Triton kernels.

Between the matrix products of a block there is little arithmetic and much to read: the gradients of a norm, of the
residual beside it, of its weights and of the biases around it each want the same rows, and a compiler reads them
again for each. Here one kernel makes all of them: a program walks over rows, writes their gradients and keeps the
column sums on the chip; the sums of all programs are added in a fixed order, so that the same inputs give the same
bits. Biases are added here instead of in the products, because that is where their gradients pass by.

Numbers are read in the tensors' type and reckoned in float32. The forward pass of the norm is plain PyTorch, which a
compiler fuses with what stands before it.
"""

# Kernels are Triton's language in Python's clothes: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

MAX_DIM = 2048  # numbers of a row that a program keeps on the chip


class Walk(NamedTuple):
    """How a kernel goes over rows: rows and columns (0: all) at a time, warps, programs a multiprocessor (0: as many as
    there are blocks), steps that are being loaded or worked on at a time. The fastest of those tried on an H200."""

    rows: int
    columns: int
    warps: int
    programs: int
    ahead: int


GELU, GELU_FORWARD = Walk(4, 512, 4, 4, 3), Walk(4, 512, 4, 0, 1)


def norm_walk(dim: int) -> Walk:
    """Over rows of so many numbers."""
    return Walk(2, 0, 2 if dim <= 512 else 4, 4, 4)


def fits(x: Tensor) -> bool:
    """Whether these kernels take rows like those of x [.., D]: on a Hopper GPU, or interpreted."""
    return 0 < x.shape[-1] <= MAX_DIM and (INTERPRETED or _measured(x.device))


@torch.compiler.assume_constant_result
def _measured(device: torch.device) -> bool:
    """Whether a device is of the kind on which these kernels were seen to pay."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


# --- layer norm ------------------------------------------------------------------------------------------------------


@triton.jit
def _norm_backward(
    DSKIP, DY, X, BEFORE, WEIGHT, MEAN, RSTD, DX, SUMS, rows,
    D: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr, BIASED: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """dx of B rows at a time; column sums of dy * normalised, dy and, if BIASED, dx and dskip."""
    pid, columns = tl.program_id(0), tl.arange(0, WIDE)
    inside = columns < D
    weight = tl.load(WEIGHT + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    dweight = tl.zeros([B, WIDE], tl.float32)
    dbias = tl.zeros([B, WIDE], tl.float32)
    if BIASED:
        before = tl.load(BEFORE + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        dbefore = tl.zeros([B, WIDE], tl.float32)
        dafter = tl.zeros([B, WIDE], tl.float32)
    for start in tl.range(pid * B, rows, tl.num_programs(0) * B, num_stages=AHEAD):
        row = start + tl.arange(0, B)
        at = row.to(tl.int64)[:, None] * D + columns[None, :]
        real = (row < rows)[:, None] & inside[None, :]
        x = tl.load(X + at, mask=real, other=0.0).to(tl.float32)
        dy = tl.load(DY + at, mask=real, other=0.0).to(tl.float32)
        dskip = tl.load(DSKIP + at, mask=real, other=0.0).to(tl.float32)
        mean = tl.load(MEAN + row, mask=row < rows, other=0.0)[:, None]
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)[:, None]
        if BIASED:
            x += before
        normal = (x - mean) * rstd
        scaled = dy * weight
        along = tl.sum(scaled * normal, 1)[:, None] / D
        dx = (scaled - normal * along - tl.sum(scaled, 1)[:, None] / D) * rstd + dskip
        tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=real)
        dweight += dy * normal
        dbias += dy
        if BIASED:
            dbefore += dx
            dafter += dskip
    sums = SUMS + pid * ((4 if BIASED else 2) * D) + columns
    tl.store(sums, tl.sum(dweight, 0), mask=inside)
    tl.store(sums + D, tl.sum(dbias, 0), mask=inside)
    if BIASED:
        tl.store(sums + 2 * D, tl.sum(dbefore, 0), mask=inside)
        tl.store(sums + 3 * D, tl.sum(dafter, 0), mask=inside)


@triton.jit
def _down(PARTS, OUT, parts, width, C: tl.constexpr, B: tl.constexpr):
    """The sums of C columns of float32 [parts, width], B rows at a time."""
    columns = tl.program_id(0) * C + tl.arange(0, C)
    total = tl.zeros([B, C], tl.float32)
    for start in range(0, parts, B):
        row = start + tl.arange(0, B)
        real = (row < parts)[:, None] & (columns < width)[None, :]
        total += tl.load(PARTS + row[:, None] * width + columns[None, :], mask=real, other=0.0)
    tl.store(OUT + columns, tl.sum(total, 0), mask=columns < width)


def _summed(parts: Tensor) -> Tensor:
    """float32 [P, N, D] -> [N, D], always added in the same order."""
    out, width = parts.new_empty(parts.shape[1:]), parts[0].numel()
    with torch.cuda.device_of(parts):
        _down[(triton.cdiv(width, 32),)](parts, out, len(parts), width, C=32, B=64, num_warps=4)
    return out


# TRITON_INTERPRET=1: any device, very slowly.
INTERPRETED = not isinstance(_norm_backward, triton.JITFunction)


def norm_backward(
    dskip: Tensor, dy: Tensor, x: Tensor, before: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor,
    walk: Walk | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of x [..,D], and float32 sums [2 or 4, D]: of weight and bias, then, with `before`, of both biases."""
    dim = x.shape[-1]
    walk = walk or norm_walk(dim)
    dskip, dy, x = dskip.contiguous(), dy.contiguous(), x.contiguous()
    rows, dx = x.numel() // dim, torch.empty_like(x)
    programs = min(triton.cdiv(rows, walk.rows), _multiprocessors(x.device) * walk.programs)
    sums = x.new_empty(programs, 2 if before is None else 4, dim, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _norm_backward[(programs,)](
            dskip, dy, x, weight if before is None else before, weight, mean, rstd, dx, sums, rows,
            D=dim, WIDE=triton.next_power_of_2(dim), B=walk.rows, BIASED=before is not None, AHEAD=walk.ahead,
            num_warps=walk.warps,
        )  # fmt: skip
    return dx, _summed(sums)


@torch.library.custom_op(
    "usfmae::norm_backward",
    mutates_args=(),
    schema="(Tensor dskip, Tensor dy, Tensor x, Tensor? before, Tensor weight, Tensor mean, Tensor rstd)"
    " -> (Tensor, Tensor)",
)
def _norm_gradients(
    dskip: Tensor, dy: Tensor, x: Tensor, before: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    return norm_backward(dskip, dy, x, before, weight, mean, rstd)


@_norm_gradients.register_fake
def _(
    dskip: Tensor, dy: Tensor, x: Tensor, before: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    sums = x.new_empty(2 if before is None else 4, x.shape[-1], dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.contiguous_format), sums


class _NormBeside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, before: Tensor | None, after: Tensor | None, weight: Tensor, bias: Tensor,
        eps: float, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        h = x.float() if before is None else x.float() + before
        var, mean = torch.var_mean(h, dim=-1, correction=0, keepdim=True)
        rstd = (var + eps).rsqrt()
        y = ((h - mean) * rstd * weight + bias).to(dtype)
        ctx.save_for_backward(x, before, weight, mean, rstd)
        return x.view_as(x) if after is None else (h + after).to(x.dtype), y

    @staticmethod
    def backward(ctx: Any, dskip: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, before, weight, mean, rstd = ctx.saved_tensors
        dx, sums = _norm_gradients(dskip, dy, x, before, weight, mean, rstd)
        sums = sums.to(weight.dtype)
        beside = (None, None) if before is None else (sums[2], sums[3])
        return dx, *beside, sums[0], sums[1], None, None


def norm_beside(
    x: Tensor, norm: nn.LayerNorm, before: Tensor | None = None, after: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x + before + after, and norm(x + before): what goes on beside a norm, and what comes out of it.

    x: float [..,D]; before, after: biases [D], both or none. The second result has autocast's type, if that is on.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    skip, y = _NormBeside.apply(x, before, after, norm.weight, norm.bias, norm.eps, dtype)
    return skip, y


# --- GELU ------------------------------------------------------------------------------------------------------------


@triton.jit
def _gaussian(x):
    """The standard normal's distribution function at x, and exp(-x²/2).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: within 7.5e-8, less than float32 rounds.
    """
    bell = tl.exp2(x * x * -0.7213475204444817)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(x))
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.710706870 + t * (-0.726576013 + t * 0.530702714))))
    tail *= bell
    return tl.where(x >= 0, 1.0 - tail, tail), bell


@triton.jit
def _gelu_forward(X, BIAS, OUT, rows, D: tl.constexpr, C: tl.constexpr, B: tl.constexpr):
    """A block of B rows and C columns."""
    row, columns = tl.program_id(0) * B + tl.arange(0, B), tl.program_id(1) * C + tl.arange(0, C)
    inside = columns < D
    at = row.to(tl.int64)[:, None] * D + columns[None, :]
    real = (row < rows)[:, None] & inside[None, :]
    x = tl.load(X + at, mask=real, other=0.0).to(tl.float32)
    x += tl.load(BIAS + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    below, _ = _gaussian(x)
    tl.store(OUT + at, (x * below).to(OUT.dtype.element_ty), mask=real)


@triton.jit
def _gelu_backward(
    DOUT, X, BIAS, DX, SUMS, rows, D: tl.constexpr, C: tl.constexpr, B: tl.constexpr, AHEAD: tl.constexpr
):
    """dx of blocks of B rows and C columns, and the column sums of dx."""
    columns = tl.program_id(0) * C + tl.arange(0, C)
    inside = columns < D
    bias = tl.load(BIAS + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros([B, C], tl.float32)
    for start in tl.range(tl.program_id(1) * B, rows, tl.num_programs(1) * B, num_stages=AHEAD):
        row = start + tl.arange(0, B)
        at = row.to(tl.int64)[:, None] * D + columns[None, :]
        real = (row < rows)[:, None] & inside[None, :]
        x = tl.load(X + at, mask=real, other=0.0).to(tl.float32) + bias
        dout = tl.load(DOUT + at, mask=real, other=0.0).to(tl.float32)
        below, bell = _gaussian(x)
        dx = dout * (below + x * bell * 0.3989422804014327)
        tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=real)
        total += dx
    tl.store(SUMS + tl.program_id(1) * D + columns, tl.sum(total, 0), mask=inside)


def gelu_backward(dout: Tensor, x: Tensor, bias: Tensor, walk: Walk | None = None) -> tuple[Tensor, Tensor]:
    """Gradients of x [..,D] and, float32, of bias [D]."""
    walk, dim = walk or GELU, x.shape[-1]
    dout, x = dout.contiguous(), x.contiguous()
    rows, dx, blocks = x.numel() // dim, torch.empty_like(x), triton.cdiv(dim, walk.columns)
    most = max(1, _multiprocessors(x.device) * walk.programs // blocks)
    strips = min(triton.cdiv(rows, walk.rows), most)
    sums = x.new_empty(strips, 1, dim, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _gelu_backward[(blocks, strips)](
            dout, x, bias, dx, sums, rows, D=dim, C=walk.columns, B=walk.rows, AHEAD=walk.ahead,
            num_warps=walk.warps,
        )  # fmt: skip
    return dx, _summed(sums)[0]


def gelu_forward(x: Tensor, bias: Tensor, walk: Walk | None = None) -> Tensor:
    """`gelu` without autograd."""
    walk, dim, x = walk or GELU_FORWARD, x.shape[-1], x.contiguous()
    rows, out = x.numel() // dim, torch.empty_like(x)
    with torch.cuda.device_of(x):
        _gelu_forward[(triton.cdiv(rows, walk.rows), triton.cdiv(dim, walk.columns))](
            x, bias, out, rows, D=dim, C=walk.columns, B=walk.rows, num_warps=walk.warps
        )
    return out


@torch.library.custom_op("usfmae::gelu", mutates_args=())
def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel, arXiv 1606.08415) of x + bias: [..,D], [D] -> [..,D]."""
    return gelu_forward(x, bias)


@torch.library.custom_op("usfmae::gelu_backward", mutates_args=())
def _gelu_gradients(dout: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return gelu_backward(dout, x, bias)


@gelu.register_fake
def _(x: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_gelu_gradients.register_fake
def _(dout: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, x.new_empty(x.shape[-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor]:
    x, bias = ctx.saved_tensors
    dx, dbias = _gelu_gradients(dout, x, bias)
    return dx, dbias.to(bias.dtype)


gelu.register_autograd(_differentiate, setup_context=_keep)
