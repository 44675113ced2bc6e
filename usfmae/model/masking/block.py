"""Block masking: whole squares of patches are hidden together (larger masked patches, SimMIM, arXiv 2111.09886).

Single hidden patches can be painted from their neighbours; a hidden square asks for structure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from usfmae.model.draws import uniform
from usfmae.model.mae import MAEConfig
from usfmae.model.masking.hiding import Hiding

SIDE = 3  # patches along one side of a square


def block(images: Tensor, config: MAEConfig, seeds: Tensor, batch: int) -> Hiding:
    """A lattice of squares, shifted at random for each image; the squares are hidden in random order.

    Exactly as many patches are hidden as by random masking; only the last square may be hidden in part.
    """
    grid, device = config.grid, images.device
    cells = grid // SIDE + 2  # along one side, counting the cut ones
    place = torch.arange(grid, device=device)
    shift = (uniform(seeds, 2, purpose=2) * SIDE).long()  # [B,2]
    row = (place + shift[:, :1]) // SIDE  # [B,grid]
    column = (place + shift[:, 1:]) // SIDE
    cell = (row[:, :, None] * cells + column[:, None, :]).flatten(1)  # [B,N]
    rank = uniform(seeds, cells * cells, purpose=3).argsort(dim=1).argsort(dim=1)
    within = uniform(seeds, config.num_patches, purpose=1)  # in which order a square's own patches go
    return Hiding(rank.gather(1, cell).float() + within, config.num_keep)
