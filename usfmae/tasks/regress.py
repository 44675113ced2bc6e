"""Regression: one number for each image (or clip), such as an ejection fraction."""

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
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.report.plots import agreement_png
from usfmae.tasks.scores.compare import Answers
from usfmae.tasks.scores.regression import regression_over, regression_scores
from usfmae.tasks.task import Batches, Ints, Outcome, Run, Task, clip_numbers


class RegressionObjective:
    """Smooth absolute error (Huber) of the standardised value; scale: mean and deviation of the training part."""

    def __init__(self, scale: tuple[float, float], recipe: FinetuneRecipe) -> None:
        self.scale = scale
        self.monitor = recipe.monitor or "mae"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs float [B, 1], standardised; targets float [B] in the label's unit."""
        mean, deviation = self.scale
        return F.smooth_l1_loss(outputs[:, 0], (targets - mean) / deviation)

    def score(self, batches: Batches) -> dict[str, float]:
        """``mae`` and ``loss`` with their signs turned, so that higher is better."""
        outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        values = outputs[:, 0] * self.scale[1] + self.scale[0]
        return {"mae": -float((values - targets).abs().mean()), "loss": -float(self.loss(outputs, targets))}


class RegressionTask(Task):
    """One value for each image; frames of a clip are averaged for the clip's."""

    kind = "regression"
    shown = ("mae", "rmse", "r2", "pearson")

    @property
    def outputs(self) -> int:
        return 1

    def scale(self, train: Ints) -> tuple[float, float]:
        """Mean and deviation of the training values, in the label's unit."""
        values = self.data.targets[train].astype(np.float64)
        return float(values.mean()), float(values.std())

    def check(self, split: Split, train: Ints) -> list[str]:
        if self.scale(train)[1] < 1e-9:
            raise OpenUSError(
                f"benchmark '{self.data.benchmark.name}', {split.name}: all values of the training part are "
                f"{self.scale(train)[0]:g}; nothing can be learned from it: use another protocol or fold"
            )
        return []

    def objective(self, train: Ints, val: Ints) -> RegressionObjective:
        self._scale = self.scale(train)
        return RegressionObjective(self._scale, self.recipe)

    def evaluate(self, run: Run, split: Split) -> Outcome:
        mean, deviation = self._scale
        columns = {}
        for part in ("val", "test"):
            values = []
            for outputs, _ in run(part):
                both = outputs.mean(0) if outputs.ndim == 3 else outputs
                values.append(both[:, 0].double().cpu().numpy() * deviation + mean)
            rows = getattr(split, part)
            columns[part] = {
                "truth": self.data.targets[rows].astype(np.float64),
                "value": np.concatenate(values),
            }
        listed, leaked = self.leaks(split)
        test = columns["test"]
        result = self._report(test["truth"], test["value"], split.test, leaked) | {"leaks": listed}
        return Outcome(result, columns)

    def _report(
        self, truth: NDArray[np.float64], value: NDArray[np.float64], rows: Ints, leaked: NDArray[np.bool_]
    ) -> dict[str, Any]:
        groups, clips = self.groups(rows), self.clips(rows)
        result = self._scored(truth, value, groups) | {"pairs": [truth.tolist(), value.tolist()]}
        if leaked.any() and not leaked.all():
            result["without_leaks"] = self._scored(truth[~leaked], value[~leaked], groups[~leaked])
        if any(clips):
            ids, first = clip_numbers(clips)
            count = np.bincount(ids)
            means = [np.bincount(ids, values) / count for values in (truth, value)]
            result["per_clip"] = self._scored(means[0], means[1], groups[first])
        return result

    def _scored(self, truth: NDArray[np.float64], value: NDArray[np.float64], groups: Ints) -> dict[str, Any]:
        metrics = regression_scores([(truth, value, groups)], self.recipe.resamples)
        return {"n": len(truth), "groups": len(np.unique(groups)), "metrics": metrics, "notes": []}

    def answers(self, columns: Mapping[str, Sequence[Any]]) -> Answers:
        pair = {name: np.array(columns[name], np.float64) for name in ("truth", "value")}
        return Answers(
            columns["key"], np.array(columns["group"], np.int64), pair,
            lambda W, c: regression_over(W, c["truth"], c["value"]),
        )  # fmt: skip

    def pool(self, folds: Sequence[Answers]) -> dict[str, Any]:
        pairs = [
            np.concatenate([fold.columns[name] for fold in folds]).tolist() for name in ("truth", "value")
        ]
        return super().pool(folds) | {"pairs": pairs}

    def draw(self, folder: Path, result: dict[str, Any], title: str) -> None:
        truth, value = result.pop("pairs")
        agreement_png(
            folder / "agreement.png", np.array(truth), np.array(value), self.data.benchmark.label, title
        )

    def facts(self) -> dict[str, Any]:
        return {"kind": "regressor", "scale": list(self._scale)}
