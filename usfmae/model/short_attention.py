"""Attention over at most 256 tokens, forward and backward, by CUDA kernels made for short sequences.

An autoencoder's sequences are short: 50 visible tokens in the encoder, 197 in the decoder. Kernels made for long ones
waste most of their tiles there. Ours (`short_attention.cu`) keep a whole head of an image on the chip, and each warp
works alone. The same inputs give the same bits. Queries, keys and values are read where the projection left them, and
their gradients are written straight into one tensor of its shape.

Scores and softmax are float32; products take the inputs' type and add up in float32, as in PyTorch's fused kernels.
The backward pass makes the scores anew from their log-sum-exp (Dao et al., arXiv 2205.14135).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from usfmae.model import nvrtc

MAX_TOKENS = 256
HEAD_DIMS = (32, 64)
DTYPES = (torch.bfloat16, torch.float16)
SOURCE = Path(__file__).with_suffix(".cu")


class Cut(NamedTuple):
    """How a block works: its warps, tiles of 16 rows a warp takes at a time, blocks a multiprocessor should hold."""

    warps: int
    tiles: int
    blocks: int


def cuts_of(m: int, t: int, d: int) -> tuple[Cut, Cut]:
    """Of the forward and the backward pass, for M queries over T keys of d numbers: the fastest of those tried.

    Tried on an H200 by `benchmarks/attention.py`; fixed, not tuned at run time.
    """
    if max(m, t) <= 64:
        return Cut(4, 1, 5), Cut(2, 1, 6)
    return Cut(4, 2, 3), Cut(4, 2, 3) if d == 32 else Cut(7, 2, 1)


def fits(q: Tensor | None, source: Tensor) -> bool:
    """Whether these kernels take such tensors (see `attend`) on such a device: a Hopper GPU."""
    m, t, d = (source if q is None else q).shape[1], source.shape[1], source.shape[-1]
    return (
        source.dtype in DTYPES
        and (q is None or q.dtype == source.dtype)
        and d in HEAD_DIMS
        and 0 < t <= MAX_TOKENS
        and 0 < m <= MAX_TOKENS
        and _shared(m, t, d, cuts_of(m, t, d)[1])["backward"] <= room(source.device)
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def room(device: torch.device) -> int:
    """Bytes of shared memory a block may have on a device; 0 where these kernels do not run.

    They would from Ampere on, but have been measured on Hopper only.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        return 0
    most: int = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return most if nvrtc.compiles_for(device) else 0


def attend(q: Tensor | None, source: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention -> [B,M,H,d], contiguous; bfloat16 or float16.

    Self-attention: q is None and source [B,T,3,H,d] holds queries, keys and values (M is T). Otherwise q [B,M,H,d]
    asks and source [B,T,2,H,d] holds keys and values. Any strides. bias: [3*H*d], already added to queries, keys and
    values, if its gradient is to be summed here. Differentiable once. ValueError if not `fits`.
    """
    if not fits(q, source):
        asked = "" if q is None else f" asked by {list(q.shape)} of {q.dtype}"
        raise ValueError(
            f"no short attention for {list(source.shape)} of {source.dtype} on {source.device}{asked}: it takes up to "
            f"{MAX_TOKENS} tokens, heads of {HEAD_DIMS}, bfloat16 or float16, on a Hopper GPU; "
            "use KERNELS = 'torch'"
        )
    out: Tensor = _attention(q, source, bias)[0]
    return out


def _shared(m: int, t: int, d: int, cut: Cut) -> dict[str, int]:
    """Bytes of shared memory of a block: padded rows, a tile a warp; the backward pass also keeps float32."""
    queries, keys, row = -(-m // 16) * 16, -(-t // 16) * 16, 2 * (d + 8)
    grouped = -(-m // (16 * cut.tiles)) * 16 * cut.tiles
    after = (
        max(cut.warps, cut.tiles) * 16 * row
    )  # what a last group may read beyond the last array lies there, too
    return {
        "forward": (queries + 2 * keys) * row + after,
        "backward": 2 * (queries + keys) * row + after + 4 * 2 * grouped,
    }


@cache
def kernel(
    name: str,
    m: int,
    t: int,
    d: int,
    h: int,
    dtype: torch.dtype,
    biased: bool,
    cut: Cut,
    device: torch.device,
) -> nvrtc.Kernel:
    """`forward` or `backward` for a shape, compiled once."""
    constants = {"M": m, "T": t, "D": d, "H": h, "BIASED": int(biased)}
    constants |= {"WARPS": cut.warps, "TILES": cut.tiles, "BLOCKS": cut.blocks}
    before = f"#define F16 {int(dtype == torch.float16)}\n" + "".join(
        f"constexpr int {key} = {value};\n" for key, value in constants.items()
    )
    return nvrtc.compile_kernels(SOURCE, before, {name: _shared(m, t, d, cut)[name]}, device)[name]


def _aligned(x: Tensor) -> Tensor:
    """As it is, if the numbers of a head lie side by side and every head begins at 16 bytes; a copy otherwise."""
    good = x.stride(-1) == 1 and all(step % 8 == 0 for step in x.stride()[:-1]) and x.data_ptr() % 16 == 0
    return x if good else x.clone(memory_format=torch.contiguous_format)


def _parts(q: Tensor | None, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of queries, keys and values, each [B,.,H,d]; the last two have the same strides."""
    return (source[:, :, 0] if q is None else q), source[:, :, -2], source[:, :, -1]


def _steps(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def forward(q: Tensor | None, source: Tensor, cut: Cut | None = None) -> tuple[Tensor, Tensor]:
    """`attend` without autograd, and the log2 of the summed exponentials of each row's scores, float32 [B,H,M]."""
    queries, k, v = _parts(None if q is None else _aligned(q), _aligned(source))
    (b, m, h, d), t = queries.shape, k.shape[1]
    out, lse = queries.new_empty(b, m, h, d), queries.new_empty(b, h, m, dtype=torch.float32)
    cut = cut or cuts_of(m, t, d)[0]
    with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
        run = kernel("forward", m, t, d, h, source.dtype, False, cut, source.device)
        run(b * h, 32 * cut.warps, [queries, k, v, out, lse, *_steps(queries, k)])
    return out, lse


def backward(
    q: Tensor | None, source: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor, dout: Tensor,
    cut: Cut | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q and bias (empty where they are None) and of source, contiguous; out and lse of `forward`."""
    (queries, k, v), dout = _parts(None if q is None else _aligned(q), _aligned(source)), _aligned(dout)
    (b, m, h, d), t = queries.shape, k.shape[1]
    dq, dsource, dbias = _gradients_of(q, source, None if bias is None else bias.new_empty(b, 3 * h * d))
    into, dk, dv = _parts(None if q is None else dq, dsource)
    cut = cut or cuts_of(m, t, d)[1]
    with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
        run = kernel("backward", m, t, d, h, source.dtype, bias is not None, cut, source.device)
        tensors = [queries, k, v, out, lse, dout, into, dk, dv, dbias]
        run(b * h, 32 * cut.warps, [*tensors, *_steps(queries, k, dout, into, dk)])
    return dq, dsource, dbias if bias is None else dbias.sum(0)


def _gradients_of(q: Tensor | None, source: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of all three, bias's in float32; empty for what is None."""
    dbias = source.new_empty(0 if bias is None else bias.shape, dtype=torch.float32)
    return source.new_empty(0 if q is None else q.shape), source.new_empty(source.shape), dbias


# --- the operator, as PyTorch's autograd and compiler see it --------------------------------------------------------


@torch.library.custom_op(
    "usfmae::short_attention",
    mutates_args=(),
    schema="(Tensor? q, Tensor source, Tensor? bias) -> (Tensor, Tensor)",
)
def _attention(q: Tensor | None, source: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return forward(q, source)


@torch.library.custom_op(
    "usfmae::short_attention_backward",
    mutates_args=(),
    schema="(Tensor? q, Tensor source, Tensor? bias, Tensor out, Tensor lse, Tensor dout) -> (Tensor, Tensor, Tensor)",
)
def _gradients(
    q: Tensor | None, source: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor, dout: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return backward(q, source, bias, out, lse, dout)


@_attention.register_fake
def _(q: Tensor | None, source: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    b, m, h, d = _parts(q, source)[0].shape
    return source.new_empty(b, m, h, d), source.new_empty(b, h, m, dtype=torch.float32)


@_gradients.register_fake
def _(
    q: Tensor | None, source: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor, dout: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_of(q, source, bias)


def _keep(
    ctx: Any, inputs: tuple[Tensor | None, Tensor, Tensor | None], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
    q, source, bias, out, lse = ctx.saved_tensors
    dq, dsource, dbias = _gradients(q, source, bias, out, lse, dout)
    return None if q is None else dq, dsource, None if bias is None else dbias.to(bias.dtype)


_attention.register_autograd(_differentiate, setup_context=_keep)
