"""The tensors that a run is: weights and moments, by name, wherever and however they lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from usfmae.model.layouts import WeightsError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter


def live_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights as ``model.NAME`` and moments as ``exp_avg.NAME`` …: the tensors themselves, not copies.

    Before the first step the moments are made, as zeros. Sharded ones are DTensors.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for part in MOMENTS:
            tensors[f"{part}.{name}"] = state[part]
    return tensors


@torch.no_grad()
def fill(live: Mapping[str, Tensor], stored: Mapping[str, Tensor], name: str) -> None:
    """Copy whole stored tensors into the live ones; every name must be there. Raises `WeightsError`."""
    missing, left = sorted(set(live) - set(stored)), sorted(set(stored) - set(live))
    if missing or left:
        wrong = f"without {missing[0]}" if missing else f"with an unexpected {left[0]}"
        raise WeightsError(
            f"{name}: a training state {wrong}; it belongs to another model, begin with another --out"
        )
    for key, target in live.items():
        value = stored[key].to(target.device)
        if isinstance(target, DTensor):
            value = distribute_tensor(value, target.device_mesh, target.placements)
        target.copy_(value)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, gathered where they were sharded; all processes must call this."""
    gathered = ((k, v.full_tensor() if isinstance(v, DTensor) else v) for k, v in tensors.items())
    return {k: v.detach().to("cpu", copy=True) for k, v in gathered}
