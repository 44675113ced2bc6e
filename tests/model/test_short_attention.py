"""Short attention against plain attention in float64, run by Triton's interpreter in a process of their own.

In float16: the interpreter has no bfloat16 products. `benchmarks/attention.py` checks those, on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# (T, M or 0 for self-attention, d): the encoder's and decoder's lengths, a whole tile, odd tails, the last block, cross
SHAPES = [
    (50, 0, 64), (197, 0, 32), (64, 0, 32), (37, 0, 64), (197, 0, 64), (197, 147, 32), (50, 49, 32), (81, 17, 64),
]  # fmt: skip

SCRIPT = """
import json, sys
import torch
from usfmae.model import blocks, short_attention as short
from usfmae.model.mae import MAE, MAEConfig

def plain(q, source):
    q, k, v = (x.double().transpose(1, 2) for x in short._parts(q, source))
    return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)

def both(q, source, dout):
    answers = []
    for attend, kind in ((short.attend, source.dtype), (plain, torch.float64)):
        leaves = [x.detach().to(kind).requires_grad_() for x in (q, source) if x is not None]
        out = attend(leaves[0] if q is not None else None, leaves[-1])
        answers.append([out, *torch.autograd.grad(out, leaves, dout.to(out.dtype))])
    return answers

def apart(q, source, dout):
    ours, theirs = both(q, source, dout)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True)]

def draw(t, m, d, kind, heads=3, batch=2):
    q = torch.randn(batch, m, heads, d).to(kind) if m else None
    source = torch.randn(batch, t, 2 if m else 3, heads, d).to(kind)
    return q, source, torch.randn(batch, m or t, heads, d).to(kind)

torch.manual_seed(0)
found = {"errors": {}}
for t, m, d in json.loads(sys.argv[1]):
    found["errors"][f"{t} {m} {d}"] = apart(*draw(t, m, d, torch.float16))

# Strides of every kind: batch inside tokens, heads inside numbers, a gradient that is an expanded row.
q, source, dout = draw(50, 21, 32, torch.float16)
turned = q.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
found["strides"] = apart(turned, source.mT.contiguous().mT, dout[:, :1].expand_as(dout))

# All real scores far below the padding's zero: 2**-scores is beyond float32.
q, source, dout = draw(37, 0, 32, torch.float16)
source[:, :, 0], source[:, :, 1] = 8.0, source[:, :, 1] / 16 - 8
found["far_below"] = apart(None, source, dout)

q, source, dout = draw(70, 33, 32, torch.float16)
first, second = both(q, source, dout)[0], both(q, source, dout)[0]
found["same_bits"] = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

for args in ((None, draw(20, 0, 32, torch.float16)[1], torch.randn(3 * 3 * 32)), (*draw(20, 7, 32, torch.float16)[:2], None)):
    args = tuple(x if x is None else x.requires_grad_() for x in args)
    torch.library.opcheck(torch.ops.usfmae.short_attention.default, args)

# The whole autoencoder, traced in one graph, in both ways.
def step(how, decoder):
    blocks.KERNELS = how
    torch.manual_seed(1)
    model = MAE(MAEConfig(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, decoder=decoder,
                          decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=2))
    images, noise = torch.randn(2, 1, 32, 32), torch.rand(2, 16)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if how == "ours" else model
    with torch.autocast("cpu", torch.float16):
        loss = run(images, noise).loss
    (loss * 1024).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

for decoder in ("full", "cross"):
    ours, theirs = step("ours", decoder), step("torch", decoder)
    found[decoder] = ((ours - theirs).norm() / theirs.norm()).item()
print(json.dumps(found))
"""


def run(script: str, *args: str, interpret: bool = True) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "TRITON_INTERPRET": "1" if interpret else "0"}
    return subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    done = run(SCRIPT, json.dumps(SHAPES))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_all_gradients_are_those_of_plain_attention(found, shape):
    errors = found["errors"]["{} {} {}".format(*shape)]
    assert len(errors) == (3 if shape[1] else 2)  # out, dq, dsource
    assert max(errors) < 5e-4  # float16 rounds at 4.9e-4


def test_any_strides(found):
    assert max(found["strides"]) < 5e-4


def test_padding_does_not_overflow_when_all_scores_are_far_below_zero(found):
    assert max(found["far_below"]) < 1e-3


def test_same_inputs_same_bits(found):
    assert found["same_bits"] is True


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_the_autoencoder_compiles_in_one_graph_and_learns_the_same(found, decoder):
    assert found[decoder] < 5e-3  # gradients after float16 autocast


def test_what_the_kernels_cannot_take_is_refused_with_a_way_out():
    script = """
import torch
from usfmae.model import blocks
source = torch.randn(1, 9, 3, 2, 32).bfloat16()
for blocks.KERNELS in ("torch", "auto"):  # neither touches Triton on a CPU
    assert blocks.attend(None, source).shape == (1, 9, 2, 32)
import sys
assert "triton" not in sys.modules
blocks.KERNELS = "ours"
try:
    blocks.attend(None, source)
except ValueError as error:
    print(error)
"""
    done = run(script, interpret=False)
    assert done.returncode == 0, done.stderr
    assert "on cpu" in done.stdout and "KERNELS = 'torch'" in done.stdout
