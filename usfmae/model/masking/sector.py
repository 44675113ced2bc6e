"""Sector-aware masking: the black around the fan teaches nothing, so only tissue is scored.

Ultrasound shows a fan or a box in a black frame. Random masking spends much of the loss on black patches
(the point of PolarMAE, arXiv 2604.15893). Here tissue and background are masked each at the same ratio, so
that every image shows the encoder the same share of its tissue, and background is never scored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from usfmae.model.draws import uniform
from usfmae.model.mae import MAEConfig
from usfmae.model.masking.hiding import Hiding

BRIGHT = (
    10 / 255
)  # a pixel above this is not the black of the frame (compression leaves a little noise there)
SHARE = 0.1  # a patch with this share of bright pixels is tissue


def tissue(images: Tensor, config: MAEConfig) -> Tensor:
    """bool [B,N]: patches with content. An image that is dark all over counts as all tissue."""
    mean = torch.tensor(config.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(config.std, device=images.device).view(1, -1, 1, 1)
    bright = ((images * std + mean).mean(dim=1, keepdim=True) > BRIGHT).float()
    share = torch.nn.functional.avg_pool2d(bright, config.patch_size).flatten(1)
    found = share >= SHARE
    return found | ~found.any(dim=1, keepdim=True)


def sector(images: Tensor, config: MAEConfig, seeds: Tensor, batch: int) -> Hiding:
    """Hide `mask_ratio` of the tissue (to within one patch) and of the rest; score only tissue."""
    inside = tissue(images, config)
    draw = uniform(seeds, config.num_patches, purpose=1)
    noise = torch.zeros_like(draw)
    for group in (inside, ~inside):
        rank = (
            torch.where(group, draw, 2.0).argsort(dim=1).argsort(dim=1)
        )  # the group comes first, in random order
        size = group.sum(dim=1, keepdim=True).clamp(min=1)
        noise = torch.where(
            group, (rank + 0.5) / size, noise
        )  # the same threshold cuts the same share of each
    return Hiding(noise, config.num_keep, scored=inside)
