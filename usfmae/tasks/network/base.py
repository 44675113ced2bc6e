"""What every network of the tasks is: a body behind one face.

A `Network` takes grey images in 0..1, one channel, and does its own normalisation, so that training and
prediction cannot disagree on it. Its `architecture` is plain JSON, enough to build it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from usfmae.model.weights import WeightsError


class Network(nn.Module):
    """A model that normalises its own input.

    forward: float [B, 1, S, S] in 0..1 (grey) to whatever `body` gives for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, architecture: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.body = body
        self.architecture = dict(architecture)
        if self.architecture["family"] == "timm":
            body.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def normalise(self, grey: Tensor) -> Tensor:
        """Grey [B, 1, S, S] in 0..1 to the body's input [B, C, S, S]."""
        return (grey - self.mean) / self.std

    def forward(self, grey: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(grey))
        return out

    @property
    def input(self) -> dict[str, Any]:
        """Normalisation and channels, as stored in config.json."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


def refuse_nan(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity."""
    # A sum of finite numbers is quick, and finite as a rule; where it is not, every number is looked at.
    bad = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all()
    ]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise WeightsError(
            f"{where}: '{bad[0]}'{more} holds NaN or infinite values; the run that wrote it diverged: "
            "take an earlier checkpoint of it"
        )
