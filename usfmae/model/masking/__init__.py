"""Ways to hide patches, one small file each.

A masking is a function ``(images, config, seeds, batch) -> Hiding``:

    images  float [B,C,H,W], normalised          config  the network's `MAEConfig`
    seeds   int64 [B], one for each sample       batch   int, the same for the whole step on every process

To add one: write the file, import its function here, and name it in `MASKINGS`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from usfmae.model.mae import MAEConfig
from usfmae.model.masking.block import block
from usfmae.model.masking.drawn import drawn
from usfmae.model.masking.frequency import frequency
from usfmae.model.masking.hiding import Hiding
from usfmae.model.masking.random import random
from usfmae.model.masking.sector import sector

Masking = Callable[[Tensor, MAEConfig, Tensor, int], Hiding]

MASKINGS: dict[str, Masking] = {
    "random": random,
    "drawn": drawn,
    "block": block,
    "sector": sector,
    "frequency": frequency,
}

__all__ = ["MASKINGS", "Hiding", "Masking"]
