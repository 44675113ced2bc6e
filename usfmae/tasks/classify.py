"""Classification: the loss, the validation scores, and what is reported of a test part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from usfmae.tasks.metrics import by_group, classification, point_estimates
from usfmae.tasks.recipe import FinetuneRecipe

Ints = NDArray[np.int64]


class Classification:
    """One of C classes for each image: weighted cross-entropy or focal loss (Lin et al. 2017).

    targets: int64 [N] of the training part, for the class weights; positive: number of the class that scores
    of a two-class task speak of.
    """

    def __init__(self, targets: Ints, classes: int, recipe: FinetuneRecipe, positive: int) -> None:
        self.monitor = recipe.monitor
        self.positive = positive
        self.gamma = recipe.focal_gamma if recipe.loss == "focal" else 0.0
        self.smoothing = recipe.label_smoothing
        self.weights = class_weights(targets, classes, recipe.class_weights)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits float [B, C] and int64 [B] to the weighted mean loss."""
        weights = self.weights.to(outputs.device)
        if not self.gamma:
            return F.cross_entropy(outputs, targets, weights, label_smoothing=self.smoothing)
        each = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.smoothing)
        sure = F.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
        factor = weights[targets]
        return ((1 - sure) ** self.gamma * each * factor).sum() / factor.sum()

    def score(self, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Scores of the validation part; ``loss`` with its sign turned, so that higher is better."""
        outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        scores = {"loss": -float(self.loss(outputs, targets))}
        probabilities = F.softmax(outputs.double(), 1).cpu().numpy()
        return scores | point_estimates(targets.cpu().numpy(), probabilities, self.positive)


def class_weights(targets: Ints, classes: int, how: str) -> Tensor:
    """Weights float [C] of the loss with mean 1 over the samples; classes absent from training weigh 1."""
    counts = np.bincount(targets, minlength=classes).astype(np.float64)
    if how == "none":
        return torch.ones(classes)
    weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    weights = np.sqrt(weights) if how == "sqrt" else weights
    weights *= counts.sum() / (weights * counts).sum()
    return torch.tensor(np.where(counts > 0, weights, 1.0), dtype=torch.float32)


def probabilities_of(batches: Iterator[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """Class probabilities [N, C] of logits [B, C], or [2, B, C] of an image and its mirror image, averaged."""
    parts = []
    for outputs, _ in batches:
        soft = F.softmax(outputs.double(), -1)
        parts.append((soft.mean(0) if soft.ndim == 3 else soft).cpu().numpy())
    return np.concatenate(parts)


def report(
    targets: Ints,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    *,
    groups: Ints,
    clips: Sequence[str],
    leaked: NDArray[np.bool_],
    positive: str | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Everything said of a test part: scores per image, per clip where there are clips, and without leaks.

    groups: what the bootstrap draws; clips: "" where an image is of no clip; leaked: bool [N].
    """

    def scored(rows: NDArray[Any]) -> dict[str, Any]:
        return classification(
            targets[rows], probabilities[rows], classes, groups=groups[rows], positive=positive,
            resamples=resamples, seed=seed,
        )  # fmt: skip

    result = scored(np.arange(len(targets)))
    if leaked.any() and not leaked.all():
        result["without_leaks"] = scored(~leaked)
    if any(clips):
        names = [clip or f"\0{i}" for i, clip in enumerate(clips)]
        _, first, ids = np.unique(names, return_index=True, return_inverse=True)
        clip_targets, clip_probabilities, order = by_group(targets, probabilities, ids)
        result["per_clip"] = classification(
            clip_targets, clip_probabilities, classes, groups=groups[first[order]], positive=positive,
            resamples=resamples, seed=seed,
        )  # fmt: skip
    return result
