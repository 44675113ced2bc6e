"""From a batch of grey images to a loss: hide, worsen, paint, compare."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from usfmae.model.mae import MAEConfig, Masked
from usfmae.model.masking import MASKINGS
from usfmae.model.targets import TARGETS
from usfmae.train.recipe import ObjectiveRecipe


class Objective:
    """The recipe's objective for a network of `config`; without state, everything is drawn from the seeds."""

    def __init__(self, recipe: ObjectiveRecipe, config: MAEConfig) -> None:
        self.config = config
        self.worsen = TARGETS[recipe.target]
        self.hide = MASKINGS[recipe.masking]

    @torch.no_grad()
    def arguments(self, images: Tensor, seeds: Tensor, batch: int) -> dict[str, object]:
        """The arguments of `MAE.forward` for images float [B,C,H,W]; seeds: int64 [B], batch: int of the step."""
        # What is hidden is decided on the image as it is: noise in a black frame is no tissue.
        hiding = self.hide(images, self.config, seeds, batch)
        view = images if hiding.seen is None else hiding.seen
        seen = self.worsen(view, seeds)
        return {
            "noise": hiding.noise, "num_keep": hiding.num_keep, "scored": hiding.scored,
            "seen": None if seen is images else seen,
        }  # fmt: skip

    def __call__(self, model: nn.Module, images: Tensor, seeds: Tensor, batch: int) -> Masked:
        result: Masked = model(images, **self.arguments(images, seeds, batch))
        return result
