"""Optimiser, learning-rate curve and weight average of fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from usfmae.tasks.network.focus import Focus
from usfmae.tasks.recipe import FinetuneRecipe


def make_optimizer(body: nn.Module, recipe: FinetuneRecipe) -> torch.optim.AdamW:
    """AdamW with layer-wise decay of the learning rate (Clark et al. 2020; Bao et al. 2021).

    Biases, norms and what the model itself exempts (positions, tokens) have no weight decay. Each group
    carries ``lr_scale``.
    """
    groups: Any = []
    for part in _parts(body):
        exempt = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()
        if recipe.layer_decay == 1 or (part is not body and not hasattr(part, "no_weight_decay")):
            groups += param_groups_weight_decay(part, recipe.weight_decay, no_weight_decay_list=exempt)
            continue
        groups += param_groups_layer_decay(
            part, recipe.weight_decay, no_weight_decay_list=exempt, layer_decay=recipe.layer_decay
        )
    for group in groups:
        group.pop("use_fallback", None)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in body.parameters())
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)


def _parts(body: nn.Module) -> list[Any]:
    """What is treated as one stack of layers: the whole model, or a backbone and the head put on it."""
    if isinstance(body, Focus):
        return _parts(body.classifier.body)  # its segmenter is frozen
    encoder = getattr(body, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return [body]
    rest = nn.ModuleDict({name: child for name, child in body.named_children() if child is not encoder})
    return [encoder, rest]


def rate(recipe: FinetuneRecipe, epoch: float) -> float:
    """Learning rate at a fractional epoch: linear warm-up, then half a cosine down to `min_lr`."""
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    if epoch < warmup:
        return recipe.lr * epoch / warmup
    share = (epoch - warmup) / max(1e-9, recipe.epochs - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_scale", 1.0)


class Average:
    """Exponential moving average of a model's parameters and float buffers.

    The first steps average over fewer of them (decay (1 + t) / (10 + t)), so that a short run is not held
    back by its random start. `state` has the names of the model's state_dict.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        # A state_dict holds the parameters themselves: gathered once, since that takes long beside a GPU's step.
        own = model.state_dict()
        self.state = {key: value.detach().clone() for key, value in own.items()}
        floating = [key for key, value in own.items() if value.is_floating_point()]
        self._mine, self._own = [self.state[key] for key in floating], [own[key] for key in floating]
        self._counters = [(self.state[key], own[key]) for key in own if key not in set(floating)]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step of the average after one step of the optimiser."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mine, self._own, 1 - decay)
        for mine, own in self._counters:
            mine.copy_(own)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average's weights for a while."""
        with torch.no_grad():
            kept = [own.clone() for own in self._own]
            torch._foreach_copy_(self._own, self._mine)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._own, kept)

    @torch.no_grad()
    def load(self, steps: int, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        self.steps = steps
        for key, value in self.state.items():
            value.copy_(state[key])
