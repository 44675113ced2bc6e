"""How many images a GPU can take at once: tried, not guessed."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from openus.errors import OpenUSError


def largest_that_fits(
    local: int, trial: Callable[[int], None], least: Callable[[int], int] = lambda number: number
) -> int:
    """The largest of local, local/2, local/4, … (rounded up) for which `trial` does not run out of memory.

    least: the smallest of a number over all processes. They try the same sizes, and what does not fit one of them
    fits none. Raises `OpenUSError` when not even one image fits.
    """
    size = least(local)
    while True:
        full: torch.OutOfMemoryError | None = None
        try:
            trial(size)
        except torch.OutOfMemoryError as error:
            full = error
        if least(int(full is None)):
            return size
        if size == 1:
            raise OpenUSError(
                "not even one image fits into the GPU's memory; use training.checkpointing=true, "
                "training.shard=true over several GPUs, or a smaller model"
            ) from full
        del full  # it holds on to what the trial had in memory
        gc.collect()
        torch.cuda.empty_cache()
        size = -(-size // 2)
