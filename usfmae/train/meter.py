"""Losses between two lines of the log, kept on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from usfmae.train.distributed import World


class Meter:
    """Collects the loss and gradient norm of every step and the loss of every source.

    Reading a number from a GPU waits for it, so numbers stay there until `collect`. The state is part of the
    checkpoint: a resumed run writes the same lines as one never stopped.
    """

    def __init__(self, sources: Sequence[str], world: World) -> None:
        self.sources, self.world = list(sources), world
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.by_source = torch.zeros(2, len(self.sources), dtype=torch.float64)  # sums, counts
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, loss: Tensor, norm: Tensor, per_sample: Tensor, sources: Tensor) -> None:
        """One step: loss [], gradient norm [], loss of each image [b] and the number of its source int64 [b]."""
        self._pending.append((loss.detach(), norm.detach(), per_sample.detach(), sources))

    def collect(self) -> list[tuple[float, float]]:
        """Bring everything here, averaged over the processes; returns loss and norm of the steps since last time."""
        if not self._pending:
            return []
        loss = self.world.mean(torch.stack([p[0] for p in self._pending]).float()).tolist()
        norm = torch.stack([p[1] for p in self._pending]).double().cpu().tolist()  # the same on all of them
        each = torch.cat([p[2] for p in self._pending]).double().cpu()
        source = torch.cat([p[3] for p in self._pending]).cpu()
        local = torch.zeros_like(self.by_source)
        local[0].index_add_(0, source, each)
        local[1].index_add_(0, source, torch.ones_like(each))
        self.by_source += self.world.sum(local)
        self.losses += loss
        self.norms += norm
        self._pending.clear()
        return list(zip(loss, norm, strict=True))

    def discard(self) -> None:
        """Forget what was not yet read: the steps that a return to a checkpoint undoes."""
        self._pending.clear()
        self.reset()

    def summary(self) -> dict[str, Any]:
        """Means since the last `reset`; sources that had no image are left out."""
        sums, counts = self.by_source.tolist()
        means = {s: total / n for s, total, n in zip(self.sources, sums, counts, strict=True) if n}
        return {
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "grad_norm": sum(self.norms) / max(1, len(self.norms)),
            "loss_by_source": {name: round(value, 6) for name, value in means.items()},
        }

    def reset(self) -> None:
        self.losses, self.norms = [], []
        self.by_source.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "norms": self.norms, "by_source": self.by_source.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.norms = list(state["losses"]), list(state["norms"])
        self.by_source.copy_(state["by_source"])
