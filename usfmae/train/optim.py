"""AdamW, its parameter groups, and the learning rate of every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from usfmae.train.recipe import OptimRecipe


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, object]]:
    """Decayed and undecayed parameters, in the order of the model; names are kept for whoever reads the state.

    As the reference, only matrices (and kernels) are decayed: not biases, norms, or tokens ([1,1,D]).
    """
    groups: dict[bool, dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and not name.endswith(("cls_token", "mask_token", "pos_embed"))
        decayed = decay_all or is_matrix
        group = groups.setdefault(decayed, {"params": [], "weight_decay": weight_decay if decayed else 0.0})
        group["params"].append(parameter)  # type: ignore[attr-defined]
    return [groups[key] for key in sorted(groups, reverse=True)]


def build_optimizer(model: nn.Module, recipe: OptimRecipe, device: torch.device) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter, arXiv 1711.05101) where the device has the kernel."""
    groups = parameter_groups(model, recipe.weight_decay, recipe.decay_all)
    fused = device.type in ("cpu", "cuda")
    lr: float | Tensor = 0.0
    if device.type == "cuda":
        lr = torch.zeros((), device=device)  # a tensor: changing it costs no recompilation and no wait
    return torch.optim.AdamW(groups, lr=lr, betas=recipe.betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate of this step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def learning_rate(step: int, total: int, peak: float, warmup: float, minimum: float) -> float:
    """The rate of step 0, 1, …, total-1: a line up from 0 over the first `warmup` share, then half a cosine.

    Loshchilov and Hutter, "SGDR", arXiv 1608.03983, without restarts. The last step comes close to `minimum`.
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, total - rising)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """The norm of all gradients before clipping, which happens where `limit` is above 0."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
