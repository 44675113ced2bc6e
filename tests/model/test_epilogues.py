"""The trial of `benchmarks/epilogues.py`, with its products in plain PyTorch: that its gradients are the MLP's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from usfmae.model.blocks import Mlp

pytest.importorskip("triton")
from benchmarks import epilogues  # its peer is our Triton kernels


def plain(mlp: Mlp, x: Tensor) -> Tensor:
    return F.linear(F.gelu(mlp.fc1(x)), mlp.fc2.weight)


def gradients(function: object, mlp: Mlp, x: Tensor) -> list[Tensor]:
    out = function(mlp, x)  # type: ignore[operator]
    leaves = (x, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight)
    return [out, *torch.autograd.grad(out.float().square().sum(), leaves)]


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_the_plain_mlp(compiled: bool) -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(24, 96), torch.randn(3, 7, 24, requires_grad=True)
    mine = epilogues.in_products
    if compiled:
        mine = torch.compile(mine, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(mine, mlp, x), gradients(plain, mlp, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_autocast_rounds_as_the_plain_mlp_does() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(24, 96), torch.randn(3, 7, 24, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = gradients(epilogues.in_products, mlp, x), gradients(plain, mlp, x)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a.float() - b.float()).norm() < 1e-2 * b.float().norm()


def test_errors_are_the_rounding_of_the_type() -> None:
    torch.manual_seed(0)
    found = epilogues.errors(epilogues.Shape("small", 256, 32), "cpu")
    assert len(found) == 5 and 1e-4 < max(found) < 1e-2
