"""Uniform random masking at a fixed ratio (He et al., arXiv 2111.06377): the reference."""

from __future__ import annotations

from torch import Tensor

from usfmae.model.draws import uniform
from usfmae.model.mae import MAEConfig
from usfmae.model.masking.hiding import Hiding


def random(images: Tensor, config: MAEConfig, seeds: Tensor, batch: int) -> Hiding:
    """Every set of `config.num_keep` patches is equally likely to stay visible, for each image by itself."""
    return Hiding(uniform(seeds, config.num_patches, purpose=1), config.num_keep)
