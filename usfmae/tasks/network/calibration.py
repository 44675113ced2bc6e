"""Calibration: what a trained classifier says, made to agree with how often it is right on the validation part.

Class weights in the loss shift the outputs towards rare classes, and long training makes them too sure. Both are
mended by one temperature and one offset per class, fitted to the validation part (vector scaling with a shared
scale; Platt 1999, Guo et al. 2017). The ranking of images under two classes, and so the AUROC, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_PRIOR = 1e-2  # pulls towards no change, so that a small or one-sided validation part cannot run away


@dataclass(frozen=True)
class Calibration:
    """Logits are divided by `temperature`, then `offset` (one per class, summing to 0) is added."""

    temperature: float = 1.0
    offset: tuple[float, ...] = ()

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [..., C] to calibrated logits [..., C]."""
        scaled = logits / self.temperature
        return scaled + logits.new_tensor(self.offset) if self.offset else scaled

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {"temperature": self.temperature, "offset": list(self.offset)}

    @classmethod
    def from_json(cls, values: dict[str, Any] | None) -> Calibration:
        """Read back what `to_json` gave; None is no calibration."""
        return cls(values["temperature"], tuple(values["offset"])) if values else cls()


def fit_calibration(
    logits: Tensor, targets: Tensor, how: Literal["none", "temperature", "vector"]
) -> Calibration:
    """Fit on a validation part.

    logits: float [N, C], or [2, N, C] of images and their mirror images, whose probabilities are averaged.
    targets: int64 [N]. A part that holds a single class tells nothing: no calibration.
    """
    if how == "none" or bool((targets == targets[0]).all()):
        return Calibration()
    z = (logits if logits.ndim == 3 else logits[None]).double().cpu()
    y = targets.cpu()
    classes = z.shape[-1]
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(classes, dtype=torch.float64, requires_grad=how == "vector")
    free = [log_t, offset] if how == "vector" else [log_t]
    optimizer = torch.optim.LBFGS(free, lr=0.5, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        soft = F.softmax(z / log_t.exp() + offset - offset.mean(), -1).mean(0)
        loss = F.nll_loss(soft.clamp_min(1e-12).log(), y) + _PRIOR * (log_t**2 + (offset**2).sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    centred = (offset - offset.mean()).detach().tolist() if how == "vector" else []
    return Calibration(float(log_t.detach().exp()), tuple(centred))
