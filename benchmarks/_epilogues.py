"""What quack's products do with their results here: GELU and its derivative, each of a few instructions.

Needs `quack-kernels`, which compiles these functions into its kernels; they are called once for each number.
"""

from __future__ import annotations

import cutlass.cute as cute
from quack.epilogue.frontend import gemm_epilogue
from quack.epilogue.ops import RowVecLoad, RowVecReduce


def gaussian(x):
    """The standard normal's distribution function at x, and exp(-x²/2), as usfmae.model.one_pass reckons them."""
    bell = cute.math.exp2(x * x * -0.7213475204444817, fastmath=True)
    t = cute.math.rcp(cute.math.abs(x) * 0.23164189 + 1.0, approx=True, ftz=True)
    tail = (((t * 0.530702714 - 0.726576013) * t + 0.710706870) * t - 0.142248368) * t + 0.127414796
    return cute.math.copysign(0.5 - tail * (t * bell), x) + 0.5, bell


@gemm_epilogue(outputs=("active",), ops={"bias": RowVecLoad("bias")})
def biased_gelu(acc, bias):
    """D: product + bias; active: GELU of it."""
    x = acc + bias
    below, _ = gaussian(x)
    return {"D": x, "active": x * below}


@gemm_epilogue(reduces={"dbias": RowVecReduce("dbias")})
def gelu_derivative(acc, c):
    """D: product * GELU'(c); dbias: its column sums, tile by tile."""
    below, bell = gaussian(c)
    dx = acc * (c * bell * 0.3989422804014327 + below)
    return {"D": dx, "dbias": dx}
