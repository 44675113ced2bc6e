"""Random numbers that belong to a sample, not to a moment: the same on any rank, worker, batch or device.

A generator's numbers depend on what was drawn before; these are a function of (seed of the sample, purpose,
position), by the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), so that a run that is stopped,
resumed or spread over more processes draws the same masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN, _M1, _M2 = (
    -7046029254386353131,
    -4658895280553007687,
    -7723592293110705685,
)  # as signed 64-bit integers


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right of signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The SplitMix64 finaliser on int64 (products wrap)."""
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def uniform(seeds: Tensor, count: int, purpose: int) -> Tensor:
    """float32 [B,count] in [0, 1) from int64 `seeds` [B]; another purpose gives independent numbers."""
    start = mix(mix(seeds ^ purpose) + _GOLDEN)
    place = torch.arange(1, count + 1, device=seeds.device)
    bits = _shift(mix(start[:, None] + place * _GOLDEN), 40)  # 24 bits: exactly what a float32 holds
    return bits.float() * 2.0**-24


def normal(seeds: Tensor, count: int, purpose: int) -> Tensor:
    """float32 [B,count] of the standard normal distribution (Box-Muller) from int64 `seeds` [B]."""
    u = uniform(seeds, 2 * count, purpose)
    radius = (-2 * torch.log1p(-u[:, :count])).sqrt()
    return radius * torch.cos(2 * torch.pi * u[:, count:])


def batch_seed(seed: int, epoch: int, samples: int) -> int:
    """One number for what a whole batch must agree on, such as a drawn mask ratio: 0 … 2**63 - 1.

    It depends on how many samples of the epoch were seen, not on who saw them.
    """
    state = torch.tensor([seed])
    for part in (epoch, samples):
        state = mix(state * 5 + part + _GOLDEN)
    return int(_shift(state, 1))
