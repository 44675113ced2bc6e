"""How many images a GPU can take at once: tried, not guessed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from openus.errors import OpenUSError


def largest_that_fits(local: int, trial: Callable[[int], None]) -> int:
    """The largest of local, local/2, local/4, … (rounded up) for which `trial` does not run out of memory.

    Raises `OpenUSError` when not even one image fits.
    """
    size = local
    while True:
        try:
            trial(size)
            return size
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise OpenUSError(
                    "not even one image fits into the GPU's memory; use training.checkpointing=true, "
                    "training.shard=true over several GPUs, or a smaller model"
                ) from error
        torch.cuda.empty_cache()
        size = -(-size // 2)
