"""Short attention against plain attention in float64: its CUDA source compiled, and run by an emulator of warps.

`benchmarks/attention.py` checks the same on a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers import cuda_emulated
from usfmae.model import blocks, nvrtc, short_attention

needs_gpp = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator of warps needs g++")

# (T, M or 0 for self-attention, d): the encoder's and decoder's lengths, whole tiles, odd tails, the last block, cross
SHAPES = [
    (50, 0, 64), (197, 0, 32), (64, 0, 32), (37, 0, 64), (81, 0, 64), (197, 147, 32), (50, 49, 32), (81, 17, 64),
]  # fmt: skip


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "compile_kernels", cuda_emulated.compile_kernels)
    monkeypatch.setattr(short_attention, "room", lambda device: cuda_emulated.ROOM)


def draw(
    t: int, m: int, d: int, kind: torch.dtype, heads: int = 2, batch: int = 1
) -> tuple[Tensor | None, Tensor, Tensor]:
    torch.manual_seed(t + m)
    q = torch.randn(batch, m, heads, d).to(kind) if m else None
    source = torch.randn(batch, t, 2 if m else 3, heads, d).to(kind)
    return q, source, torch.randn(batch, m or t, heads, d).to(kind)


def plain(q: Tensor | None, source: Tensor) -> Tensor:
    queries, k, v = (x.transpose(1, 2) for x in short_attention._parts(q, source))
    return ((queries @ k.mT * queries.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)


def ours(q: Tensor | None, source: Tensor, dout: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """The output, and the gradients of q, source and bias, as far as there are such."""
    leaves = [x.detach().requires_grad_() for x in (q, source, bias) if x is not None]
    rest = leaves if q is None else leaves[1:]
    out = short_attention.attend(None if q is None else leaves[0], *rest)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def exact(q: Tensor | None, source: Tensor, dout: Tensor) -> list[Tensor]:
    leaves = [x.detach().double().requires_grad_() for x in (q, source) if x is not None]
    out = plain(None if q is None else leaves[0], leaves[-1])
    return [out.detach(), *torch.autograd.grad(out, leaves, dout.double())]


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True))


@needs_gpp
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_all_gradients_are_those_of_plain_attention(emulated, shape, kind):
    q, source, dout = draw(*shape, kind)
    heads, d = source.shape[-2:]
    *found, dbias = ours(q, source, dout, torch.zeros(3 * heads * d))
    wanted = exact(q, source, dout)
    assert apart(found, wanted) < (5e-4 if kind == torch.float16 else 4e-3)  # they round at 4.9e-4 and 3.9e-3
    rows = torch.cat([x.sum((0, 1)).reshape(-1, heads * d) for x in wanted[1:]])
    assert torch.allclose(
        rows[1], torch.zeros(()).double(), atol=1e-9
    )  # a softmax sees no shift of its scores
    assert not dbias.view(3, -1)[1].any()
    assert apart([dbias.view(3, -1)[::2]], [rows[::2]]) < (1e-4 if kind == torch.float16 else 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_on_a_gpu(shape):
    if not short_attention.room(torch.device("cuda")):
        pytest.skip("not a GPU that these kernels run on")
    q, source, dout = (None if x is None else x.cuda() for x in draw(*shape, torch.bfloat16, batch=3))
    assert apart(ours(q, source, dout), exact(q, source, dout)) < 4e-3


@needs_gpp
@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("warps", [1, 3, 8])
def test_every_cut_gives_the_same_bits(emulated, warps, tiles):
    q, source, dout = draw(70, 33, 32, torch.float16)
    bias = torch.zeros(3 * 2 * 32)
    usual, cut = short_attention.Cut(4, tiles, 1), short_attention.Cut(warps, tiles, 1)
    first, again = (short_attention.forward(q, source, c) for c in (usual, cut))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    back = [short_attention.backward(q, source, bias, *first, dout, c) for c in (usual, cut)]
    assert all(torch.equal(a, b) for a, b in zip(back[0][:2], back[1][:2], strict=True))
    assert apart([back[1][2]], [back[0][2].double()]) < 1e-6  # its parts are added by warps


@needs_gpp
def test_any_strides(emulated):
    """Batch inside tokens, heads inside numbers, rows that begin anywhere, a gradient that is an expanded row."""
    q, source, dout = draw(50, 21, 32, torch.float16, batch=2)
    turned = q.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    shifted = torch.cat([q.new_zeros(1), q.flatten()])[1:].view(q.shape)
    row = dout[:, :1].expand_as(dout)
    for queries in (q, turned, shifted):
        assert apart(ours(queries, source.mT.contiguous().mT, row), exact(q, source, row)) < 5e-4


@needs_gpp
def test_padding_does_not_overflow_when_all_scores_are_far_below_zero(emulated):
    _, source, dout = draw(37, 0, 32, torch.float16)
    source[:, :, 0], source[:, :, 1] = 8.0, source[:, :, 1] / 16 - 8  # 2**-scores is beyond float32
    assert apart(ours(None, source, dout), exact(None, source, dout)) < 1e-3


@needs_gpp
def test_a_greatest_score_that_comes_late_is_found(emulated):
    _, source, dout = draw(97, 0, 32, torch.float16)
    source[:, :, 1] *= torch.linspace(0, 6, 97)[None, :, None, None]
    assert apart(ours(None, source, dout), exact(None, source, dout)) < 1e-3


@needs_gpp
@pytest.mark.parametrize("asked", [0, 7])
def test_the_operator_is_what_autograd_and_the_compiler_take_it_for(emulated, asked):
    q, source, _ = draw(20, asked, 32, torch.float16)
    args = [x if x is None else x.requires_grad_() for x in (q, source, torch.randn(3 * 2 * 32))]
    torch.library.opcheck(torch.ops.usfmae.short_attention.default, tuple(args))


@needs_gpp
@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_the_autoencoder_compiles_in_one_graph_and_learns_the_same(decoder):
    """Norms and GELU by Triton's interpreter, which a variable turns on: hence a process of its own."""
    script = Path(__file__).with_name("autoencoder_with_kernels.py")
    done = run([str(script), decoder], TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 5e-3  # gradients after float16 autocast


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_the_source_compiles(arch):
    pytest.importorskip("cuda.bindings.nvrtc")
    for (t, m, d), f16 in product([(197, 147, 32), (50, 50, 64)], [0, 1]):
        constants = {"M": m, "T": t, "D": d, "H": 4, "BIASED": 1, "WARPS": 4, "TILES": 1, "BLOCKS": 1}
        before = f"#define F16 {f16}\n" + "".join(f"constexpr int {k} = {v};\n" for k, v in constants.items())
        assert len(nvrtc.binary(short_attention.SOURCE, before, arch)) > 10_000


def test_what_does_not_compile_says_where():
    pytest.importorskip("cuda.bindings.nvrtc")
    with pytest.raises(
        RuntimeError, match=r'short_attention.cu does not compile for sm_90.*"WARPS" is undefined'
    ):
        nvrtc.binary(short_attention.SOURCE, "#define F16 0\n", "sm_90")


def run(args: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), **env}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=env)


def test_what_the_kernels_cannot_take_is_refused_with_a_way_out(monkeypatch):
    source = torch.randn(1, 9, 3, 2, 32).bfloat16()
    for how in ("torch", "auto"):
        monkeypatch.setattr(blocks, "KERNELS", how)
        assert blocks.attend(None, source).shape == (1, 9, 2, 32)
    monkeypatch.setattr(blocks, "KERNELS", "ours")
    with pytest.raises(ValueError, match=r"on cpu.*KERNELS = 'torch'"):
        blocks.attend(None, source)


def test_neither_triton_nor_nvrtc_is_loaded_for_a_cpu():
    script = """
import sys, torch
from usfmae.model import blocks
assert blocks.attend(None, torch.randn(1, 9, 3, 2, 32).bfloat16()).shape == (1, 9, 2, 32)
blocks.Block(64, 2, 4.0)(torch.randn(1, 9, 64))
print([name for name in ("triton", "usfmae.model.nvrtc", "usfmae.model.one_pass") if name in sys.modules])
"""
    done = run(["-c", script])
    assert done.stdout.strip() == "[]", done.stderr


def test_a_bias_whose_gradient_is_left_to_attention_learns_the_same_without_our_kernels():
    torch.manual_seed(0)
    attention, x = blocks.Attention(64, 2), torch.randn(2, 9, 64)
    for last in (None, 5):
        first = torch.autograd.grad(
            (attention(x, last) - attention.proj.bias).square().sum(), attention.qkv.bias
        )
        second = torch.autograd.grad(attention.unbiased(x, last).square().sum(), attention.qkv.bias)
        assert torch.allclose(first[0], second[0], atol=1e-5)
