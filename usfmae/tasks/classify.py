"""Classification: one of several classes for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openus.errors import OpenUSError
from usfmae.tasks.data.splits import Split
from usfmae.tasks.network.calibration import Calibration, fit_calibration
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.report.plots import confusion_png
from usfmae.tasks.scores.classification import by_group, classification, point_estimates, weighted_scores
from usfmae.tasks.scores.compare import Answers, Columns, mean_scores
from usfmae.tasks.task import Batches, Ints, Outcome, Run, Task, clip_numbers

Floats = NDArray[np.float64]


class ClassificationObjective:
    """Weighted cross-entropy, or focal loss (Lin et al. 2017).

    targets: int64 [N] of the training part, for the class weights; positive: number of the class that scores
    of a two-class task speak of.
    """

    def __init__(self, targets: Ints, classes: int, recipe: FinetuneRecipe, positive: int) -> None:
        self.monitor = recipe.monitor or "auroc"
        self.positive = positive
        self.gamma = recipe.focal_gamma if recipe.loss == "focal" else 0.0
        self.smoothing = recipe.label_smoothing
        self.weights = class_weights(targets, classes, recipe.class_weights)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits float [B, C] and int64 [B] to the weighted mean loss."""
        self.weights = weights = self.weights.to(outputs.device)  # copied once, not at each step
        if not self.gamma:
            return F.cross_entropy(outputs, targets, weights, label_smoothing=self.smoothing)
        each = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.smoothing)
        sure = F.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
        factor = weights[targets]
        return ((1 - sure) ** self.gamma * each * factor).sum() / factor.sum()

    def score(self, batches: Batches) -> dict[str, float]:
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


def logits_of(batches: Batches) -> tuple[Tensor, Tensor]:
    """All logits float [N, C], or [2, N, C] with mirror images, and all targets int64 [N]."""
    outputs, targets = zip(*batches, strict=True)
    return torch.cat(outputs, dim=outputs[0].ndim - 2), torch.cat(targets)


def probabilities_of(logits: Tensor, calibration: Calibration) -> Floats:
    """Class probabilities float64 [N, C]; those of an image and its mirror image are averaged."""
    soft = F.softmax(calibration.apply(logits.double()), -1)
    return np.asarray((soft.mean(0) if soft.ndim == 3 else soft).cpu().numpy(), np.float64)


def answers_of(
    key: Sequence[str], targets: Ints, probabilities: Floats, groups: Ints, positive: int
) -> Answers:
    """Class numbers int64 [N] and probabilities float64 [N, C] as answers that can be compared."""

    def score(weights: Floats, columns: Columns) -> dict[str, Floats]:
        return weighted_scores(weights, columns["targets"], columns["probabilities"], positive)

    return Answers(key, groups, {"targets": targets, "probabilities": probabilities}, score)


class ClassificationTask(Task):
    """One of C classes for each image."""

    kind = "classification"
    shown = ("f1_weighted", "f1_macro", "auroc", "accuracy")

    _calibration = Calibration()

    @property
    def outputs(self) -> int:
        return len(self.data.classes)

    @property
    def positive(self) -> int:
        name = self.data.benchmark.positive
        return self.data.classes.index(name) if name else self.outputs - 1

    def check(self, split: Split, train: Ints) -> list[str]:
        classes = self.data.classes
        present = {
            part: np.unique(self.data.targets[rows])
            for part, rows in (("training", train), ("val", split.val))
        }
        if len(present["training"]) < 2:
            only = classes[int(present["training"][0])]
            raise OpenUSError(
                f"benchmark '{self.data.benchmark.name}', {split.name}: the training part holds only class "
                f"'{only}' of {', '.join(classes)}; nothing can be learned from it: use another protocol or fold, "
                "or build a corpus with more patients"
            )
        return [
            f"class '{name}' does not occur in the {part} part"
            for part, found in present.items()
            for number, name in enumerate(classes)
            if number not in found
        ]

    def objective(self, train: Ints, val: Ints) -> ClassificationObjective:
        objective = ClassificationObjective(
            self.data.targets[train], self.outputs, self.recipe, self.positive
        )
        if len(np.unique(self.data.targets[val])) < 2:
            objective.monitor = "loss"  # AUROC and F1 of a single class choose nothing
        return objective

    def evaluate(self, run: Run, split: Split) -> Outcome:
        logits = {part: logits_of(run(part)) for part in ("val", "test")}
        self._calibration = fit_calibration(*logits["val"], self.recipe.calibrate)
        probabilities = {
            part: probabilities_of(found, self._calibration) for part, (found, _) in logits.items()
        }
        listed, leaked = self.leaks(split)
        result = self.report(split.test, probabilities["test"], leaked) | {"leaks": listed}
        columns = {
            part: self._columns(getattr(split, part), values) for part, values in probabilities.items()
        }
        return Outcome(result, columns)

    def _columns(self, rows: Ints, probabilities: Floats) -> dict[str, Any]:
        names = self.data.classes
        columns: dict[str, Any] = {
            "truth": [names[int(i)] for i in self.data.targets[rows]],
            "decision": [names[i] for i in probabilities.argmax(1).tolist()],
        }
        return columns | {f"p_{name}": probabilities[:, c] for c, name in enumerate(names)}

    def report(self, rows: Ints, probabilities: Floats, leaked: NDArray[np.bool_]) -> dict[str, Any]:
        """Scores per image, without the samples that `leaked` (bool [N]) marks, and per clip where there are any."""
        targets, groups, clips = self.data.targets[rows], self.groups(rows), self.clips(rows)
        result = self._scored(targets, probabilities, groups)
        if leaked.any() and not leaked.all():
            result["without_leaks"] = self._scored(targets[~leaked], probabilities[~leaked], groups[~leaked])
        if any(clips):
            ids, first = clip_numbers(clips)
            clip_targets, clip_probabilities, order = by_group(targets, probabilities, ids)
            result["per_clip"] = self._scored(clip_targets, clip_probabilities, groups[first[order]])
        return result

    def _scored(self, targets: Ints, probabilities: Floats, groups: Ints) -> dict[str, Any]:
        return classification(
            targets, probabilities, self.data.classes, groups=groups, positive=self.data.benchmark.positive,
            resamples=self.recipe.resamples,
        )  # fmt: skip

    def answers(self, columns: Mapping[str, Sequence[Any]]) -> Answers:
        number = {name: c for c, name in enumerate(self.data.classes)}
        targets = np.array([number[word] for word in columns["truth"]], np.int64)
        probabilities = np.stack([np.asarray(columns[f"p_{name}"]) for name in self.data.classes], 1)
        groups = np.array(columns["group"], np.int64)
        return answers_of(columns["key"], targets, probabilities, groups, self.positive)

    def pool(self, folds: Sequence[Answers]) -> dict[str, Any]:
        """Scores are means over the folds; the confusion counts and the scores of a class are of all together."""
        targets, probabilities = (
            np.concatenate([fold.columns[name] for fold in folds]) for name in ("targets", "probabilities")
        )
        whole = self._scored(targets, probabilities, np.concatenate([fold.groups for fold in folds]))
        return whole | {"metrics": mean_scores([folds], self.recipe.resamples)}

    def draw(self, folder: Path, result: dict[str, Any], title: str) -> None:
        confusion_png(folder / "confusion.png", np.array(result["confusion"]), self.data.classes, title)

    def facts(self) -> dict[str, Any]:
        calibration = self._calibration.to_json()
        return {"kind": "classifier", "positive": self.data.benchmark.positive, "calibration": calibration}
