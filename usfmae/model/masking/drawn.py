"""Random masking at a ratio drawn anew for each step (the idea of R2MAE, arXiv 2509.21650)."""

from __future__ import annotations

from torch import Tensor

from usfmae.model.draws import uniform
from usfmae.model.mae import MAEConfig
from usfmae.model.masking.hiding import Hiding

SPREAD = 0.15  # the ratio is drawn from mask_ratio - SPREAD to mask_ratio + SPREAD
LEVELS = 7  # … in so many equal steps: few distinct shapes, so that a compiled model is not compiled forever


def drawn(images: Tensor, config: MAEConfig, seeds: Tensor, batch: int) -> Hiding:
    """One ratio for the whole step, on all processes alike, since the images of a step share their shape."""
    level = batch % LEVELS
    ratio = config.mask_ratio + SPREAD * (2 * level / (LEVELS - 1) - 1)
    n = config.num_patches
    keep = min(n - 1, max(1, int(n * (1 - ratio))))
    return Hiding(uniform(seeds, n, purpose=1), keep)
