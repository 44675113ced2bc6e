"""Attention over at most 256 tokens, forward and backward, as two Triton kernels.

An autoencoder's sequences are short: 50 visible tokens in the encoder, 197 in the decoder. Kernels made for long ones
waste most of their tiles there. Here a program owns one head of one image and keeps what it needs of it on the chip:
the forward pass holds whole rows of the score matrix, so that there is no running softmax; the backward pass goes
once over the keys with all queries at hand, so that nothing is computed twice and nothing is added atomically. The
same inputs give the same bits. Queries, keys and values are read where the projection left them, and their gradients
are written straight into one tensor of its shape.

Scores and softmax are float32; products take the inputs' type and add up in float32, as in PyTorch's fused kernels.
The scores are recomputed from their log-sum-exp (Dao et al., arXiv 2205.14135).
"""

# Kernels are Triton's language in Python's clothes: their arguments have no Python types, their tuples no unpacking.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_TOKENS = 256
HEAD_DIMS = (32, 64)
DTYPES = (torch.bfloat16, torch.float16)
HOPPER = (
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
)  # what the tiles are made for
TUPLES = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)  # the kernels carry some


class Tiles(NamedTuple):
    """How a shape is cut: queries a block and warps (forward), queries, keys and warps (backward)."""

    queries: int
    warps: int
    back_queries: int
    back_keys: int
    back_warps: int


CHOSEN: dict[tuple[int, int, int], Tiles] = {}  # by (M, T, d), where measuring beat the rule below


def tiles(m: int, t: int, d: int) -> Tiles:
    """The cut for M queries over T keys of d numbers. Fixed, not tuned at run time: other tiles give other bits."""
    if (m, t, d) in CHOSEN:
        return CHOSEN[m, t, d]
    if (
        d == 32 or m <= 64
    ):  # four warps: several programs share a multiprocessor and hide each other's waiting
        return Tiles(64, 4, 64, 64, 4)
    return Tiles(64, 4, max(64, triton.next_power_of_2(m)), 64, 8)


def fits(q: Tensor | None, source: Tensor) -> bool:
    """Whether these kernels take such tensors (see `attend`) on such a device: Hopper, or Triton's interpreter."""
    m = source.shape[1] if q is None else q.shape[1]
    return (
        (INTERPRETED or (HOPPER and TUPLES and source.is_cuda))
        and source.dtype in DTYPES
        and (q is None or q.dtype == source.dtype)
        and source.shape[-1] in HEAD_DIMS
        and 0 < source.shape[1] <= MAX_TOKENS
        and 0 < m <= MAX_TOKENS
    )


def attend(q: Tensor | None, source: Tensor) -> Tensor:
    """Scaled dot-product attention -> [B,M,H,d], contiguous; bfloat16 or float16.

    Self-attention: q is None and source [B,T,3,H,d] holds queries, keys and values (M is T). Otherwise q [B,M,H,d]
    asks and source [B,T,2,H,d] holds keys and values. Any strides; differentiable once. ValueError if not `fits`.
    """
    if not fits(q, source):
        asked = "" if q is None else f" asked by {list(q.shape)} of {q.dtype}"
        raise ValueError(
            f"no short attention for {list(source.shape)} of {source.dtype} on {source.device}{asked}: it takes up to "
            f"{MAX_TOKENS} tokens, heads of {HEAD_DIMS}, bfloat16 or float16, on a Hopper GPU; use ATTENTION = 'sdpa'"
        )
    out: Tensor = _attention(q, source)[0]
    return out


# --- kernels: one program for each head of each image ---------------------------------------------------------------
# Rows beyond the last token are read as zeros and not written. Scores are taken times log2(e), for exp2.


@triton.jit
def _forward(
    Q, K, V, OUT, LSE, q_b, q_m, q_h, k_b, k_t, k_h, scale,
    H: tl.constexpr, M: tl.constexpr, T: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """Blocks of BM queries look at all T keys, padded to TP."""
    pid = tl.program_id(0)
    b, h = (pid // H).to(tl.int64), pid % H
    dims, keys = tl.arange(0, D)[None, :], tl.arange(0, TP)
    k_at = b * k_b + h * k_h + keys[:, None] * k_t + dims
    k = tl.load(K + k_at, mask=keys[:, None] < T, other=0.0)
    v = tl.load(V + k_at, mask=keys[:, None] < T, other=0.0)
    for start in range(0, M, BM):
        rows = start + tl.arange(0, BM)
        real = rows[:, None] < M
        q = tl.load(Q + b * q_b + h * q_h + rows[:, None] * q_m + dims, mask=real, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        if T < TP:
            scores = tl.where(keys[None, :] < T, scores, float("-inf"))
        top = tl.max(scores, 1)
        p = tl.exp2(scores - top[:, None])
        total = tl.sum(p, 1)
        mixed = tl.dot(p.to(v.dtype), v) / total[:, None]
        out_at = b * (M * H * D) + rows[:, None] * (H * D) + h * D + dims
        tl.store(OUT + out_at, mixed.to(OUT.dtype.element_ty), mask=real)
        tl.store(LSE + pid.to(tl.int64) * M + rows, top + tl.log2(total), mask=rows < M)


@triton.jit
def _queries(
    Q, OUT, DOUT, LSE, q_m, o_m,
    START: tl.constexpr, B: tl.constexpr, HD: tl.constexpr, M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """A block of B queries and what the backward pass needs of it: q, dout, log-sum-exp, sum of out * dout."""
    dims, rows = tl.arange(0, D)[None, :], START + tl.arange(0, B)
    real = rows[:, None] < M
    q = tl.load(Q + rows[:, None] * q_m + dims, mask=real, other=0.0)
    dout = tl.load(DOUT + rows[:, None] * o_m + dims, mask=real, other=0.0)
    out = tl.load(OUT + rows[:, None] * HD + dims, mask=real, other=0.0)
    lse = tl.load(
        LSE + rows, mask=rows < M, other=float("inf")
    )  # a padded row has the probabilities exp2(-inf)
    return q, dout, lse, tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)


@triton.jit
def _keys(
    K, V, DK, DV, k_t, d_t, start, queries, dqs, scale, log_scale,
    B: tl.constexpr, T: tl.constexpr, D: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """A block of B keys against all queries: writes its dk and dv, returns the dqs with its part added."""
    dims, keys = tl.arange(0, D)[None, :], start + tl.arange(0, B)
    inside = keys[:, None] < T
    k = tl.load(K + keys[:, None] * k_t + dims, mask=inside, other=0.0)
    v = tl.load(V + keys[:, None] * k_t + dims, mask=inside, other=0.0)
    dk = tl.zeros([B, D], tl.float32)
    dv = tl.zeros([B, D], tl.float32)
    added = ()
    for i in tl.static_range(len(queries)):
        q, dout, lse, delta = queries[i]
        p = tl.exp2(tl.dot(q, tl.trans(k)) * log_scale - lse[:, None])
        if TAIL:  # a padded key scores 0, whose exp2 overflows where all real scores are far below
            p = tl.where(keys[None, :] < T, p, 0.0)
        dv = tl.dot(tl.trans(p.to(q.dtype)), dout, dv)
        ds = (p * (tl.dot(dout, tl.trans(v)) - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(ds), q, dk)
        added = added + (tl.dot(ds, k, dqs[i]),)
    tl.store(DK + keys[:, None] * d_t + dims, (dk * scale).to(DK.dtype.element_ty), mask=inside)
    tl.store(DV + keys[:, None] * d_t + dims, dv.to(DV.dtype.element_ty), mask=inside)
    return added


@triton.jit
def _backward(
    Q, K, V, OUT, LSE, DOUT, DQ, DK, DV,
    q_b, q_m, q_h, k_b, k_t, k_h, o_b, o_m, o_h, g_b, g_m, g_h, d_b, d_t, d_h, scale, log_scale,
    H: tl.constexpr, M: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, LM: tl.constexpr, BN: tl.constexpr, LN: tl.constexpr,
):  # fmt: skip
    """All queries stay on the chip in blocks of BM (the last of LM); blocks of BN keys (the last of LN) pass by."""
    pid = tl.program_id(0)
    b, h = (pid // H).to(tl.int64), pid % H
    Q, OUT, LSE = Q + b * q_b + h * q_h, OUT + b * (M * H * D) + h * D, LSE + pid.to(tl.int64) * M
    K, V, DOUT = K + b * k_b + h * k_h, V + b * k_b + h * k_h, DOUT + b * o_b + h * o_h
    DQ, DK, DV = DQ + b * g_b + h * g_h, DK + b * d_b + h * d_h, DV + b * d_b + h * d_h
    queries = ()
    dqs = ()
    for i in tl.static_range(M // BM):
        queries = queries + (_queries(Q, OUT, DOUT, LSE, q_m, o_m, i * BM, BM, H * D, M, D),)
        dqs = dqs + (tl.zeros([BM, D], tl.float32),)
    if M % BM:
        queries = queries + (_queries(Q, OUT, DOUT, LSE, q_m, o_m, M // BM * BM, LM, H * D, M, D),)
        dqs = dqs + (tl.zeros([LM, D], tl.float32),)
    for start in range(0, T // BN * BN, BN):
        dqs = _keys(K, V, DK, DV, k_t, d_t, start, queries, dqs, scale, log_scale, BN, T, D, False)
    if T % BN:
        dqs = _keys(K, V, DK, DV, k_t, d_t, T // BN * BN, queries, dqs, scale, log_scale, LN, T, D, True)
    for i in tl.static_range(len(dqs)):
        rows = i * BM + tl.arange(0, dqs[i].shape[0])[:, None]
        at = DQ + rows * g_m + tl.arange(0, D)[None, :]
        tl.store(at, (dqs[i] * scale).to(DQ.dtype.element_ty), mask=rows < M)


INTERPRETED = not isinstance(_forward, triton.JITFunction)  # TRITON_INTERPRET=1: any device, very slowly


# --- the operator, as PyTorch's autograd and compiler see it --------------------------------------------------------

LOG2E = 1.4426950408889634


def _dense(x: Tensor) -> Tensor:
    """As it is, if the numbers of a head lie side by side; a copy otherwise."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _parts(q: Tensor | None, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of queries, keys and values, each [B,.,H,d]; the last two have the same strides."""
    source = _dense(source)
    return (source[:, :, 0] if q is None else _dense(q)), source[:, :, -2], source[:, :, -1]


def _rest(size: int, block: int) -> int:
    """The tile for what is left after whole blocks: the tensor cores' least, or one more block."""
    return 16 if size % block <= 16 else block


def forward(q: Tensor | None, source: Tensor, cut: Tiles | None = None) -> tuple[Tensor, Tensor]:
    """`attend` without autograd, and the log2 of the summed exponentials of each row's scores, float32 [B,H,M]."""
    queries, k, v = _parts(q, source)
    (b, m, h, d), t = queries.shape, k.shape[1]
    out, lse = queries.new_empty(b, m, h, d), queries.new_empty(b, h, m, dtype=torch.float32)
    cut, padded = cut or tiles(m, t, d), max(16, triton.next_power_of_2(t))
    with torch.cuda.device_of(source):
        _forward[(b * h,)](
            queries, k, v, out, lse, *queries.stride()[:3], *k.stride()[:3], d**-0.5 * LOG2E,
            H=h, M=m, T=t, D=d, BM=cut.queries, TP=padded, num_warps=cut.warps, num_stages=2,
        )  # fmt: skip
    return out, lse


def backward(
    q: Tensor | None, source: Tensor, out: Tensor, lse: Tensor, dout: Tensor, cut: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of q (empty where it is None) and source, contiguous; out and lse as `forward` gave them."""
    (queries, k, v), dout = _parts(q, source), _dense(dout)
    (b, m, h, d), t = queries.shape, k.shape[1]
    dq, dsource = source.new_empty(0 if q is None else q.shape), source.new_empty(source.shape)
    into, dk, dv = _parts(None if q is None else dq, dsource)
    cut = cut or tiles(m, t, d)
    with torch.cuda.device_of(source):
        _backward[(b * h,)](
            queries, k, v, out, lse, dout, into, dk, dv,
            *queries.stride()[:3], *k.stride()[:3], *dout.stride()[:3], *into.stride()[:3], *dk.stride()[:3],
            d**-0.5, d**-0.5 * LOG2E, H=h, M=m, T=t, D=d,
            BM=cut.back_queries, LM=_rest(m, cut.back_queries), BN=cut.back_keys, LN=_rest(t, cut.back_keys),
            num_warps=cut.back_warps, num_stages=1,
        )  # fmt: skip
    return dq, dsource


@torch.library.custom_op(
    "usfmae::short_attention", mutates_args=(), schema="(Tensor? q, Tensor source) -> (Tensor, Tensor)"
)
def _attention(q: Tensor | None, source: Tensor) -> tuple[Tensor, Tensor]:
    return forward(q, source)


@torch.library.custom_op(
    "usfmae::short_attention_backward",
    mutates_args=(),
    schema="(Tensor? q, Tensor source, Tensor out, Tensor lse, Tensor dout) -> (Tensor, Tensor)",
)
def _gradients(
    q: Tensor | None, source: Tensor, out: Tensor, lse: Tensor, dout: Tensor
) -> tuple[Tensor, Tensor]:
    return backward(q, source, out, lse, dout)


@_attention.register_fake
def _(q: Tensor | None, source: Tensor) -> tuple[Tensor, Tensor]:
    b, m, h, d = _parts(q, source)[0].shape
    return source.new_empty(b, m, h, d), source.new_empty(b, h, m, dtype=torch.float32)


@_gradients.register_fake
def _(q: Tensor | None, source: Tensor, out: Tensor, lse: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    return source.new_empty(0 if q is None else q.shape), source.new_empty(source.shape)


def _keep(ctx: Any, inputs: tuple[Tensor | None, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor]:
    q, source, out, lse = ctx.saved_tensors
    dq, dsource = _gradients(q, source, out, lse, dout)
    return None if q is None else dq, dsource


_attention.register_autograd(_differentiate, setup_context=_keep)
