"""Several labels at once, each present or not: signs that may occur together in one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openus.errors import OpenUSError
from usfmae.tasks.data.splits import Split
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.scores.compare import Answers
from usfmae.tasks.scores.multilabel import multilabel_over, multilabel_scores
from usfmae.tasks.task import Batches, Ints, Outcome, Run, Task, clip_numbers

Floats = NDArray[np.float64]


class MultilabelObjective:
    """Binary cross-entropy of each label; the rarer answer weighs more where the recipe balances classes."""

    def __init__(self, targets: NDArray[np.float32], recipe: FinetuneRecipe) -> None:
        self.monitor = recipe.monitor or "auroc_macro"
        share = targets.mean(0).clip(0.01, 0.99)
        ratio = (1 - share) / share
        power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[recipe.class_weights]
        self.weights = torch.tensor(ratio**power, dtype=torch.float32)
        self.smoothing = recipe.label_smoothing

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets (0 or 1), float [B, C]."""
        wanted = targets * (1 - self.smoothing) + self.smoothing / 2
        self.weights = self.weights.to(outputs.device)  # copied once, not at each step
        return F.binary_cross_entropy_with_logits(outputs, wanted, pos_weight=self.weights)

    def score(self, batches: Batches) -> dict[str, float]:
        outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        found = torch.sigmoid(outputs.double()).cpu().numpy()
        names = [str(c) for c in range(found.shape[1])]
        overall, _ = multilabel_scores([(targets.cpu().numpy(), found, np.arange(len(found)))], names, 0)
        scores = {name: score["value"] for name, score in overall.items() if score["value"] is not None}
        return scores | {"loss": -float(self.loss(outputs, targets))}


class MultilabelTask(Task):
    """A probability for each of C labels."""

    kind = "multilabel"
    shown = ("auroc_macro", "average_precision_macro", "f1_macro", "exact_match")

    @property
    def outputs(self) -> int:
        return len(self.data.classes)

    def check(self, split: Split, train: Ints) -> list[str]:
        notes = []
        for part, rows in (("training", train), ("val", split.val), ("test", split.test)):
            shares = self.data.targets[rows].mean(0)
            fixed = [
                f"label '{name}' is {'always' if share else 'never'} present in the {part} part"
                for name, share in zip(self.data.classes, shares, strict=True)
                if share in (0, 1)
            ]
            if part == "training" and len(fixed) == self.outputs:
                raise OpenUSError(
                    f"benchmark '{self.data.benchmark.name}', {split.name}: no label varies in the training part; "
                    "nothing can be learned from it: use another protocol or fold"
                )
            notes += fixed
        return notes

    def objective(self, train: Ints, val: Ints) -> MultilabelObjective:
        objective = MultilabelObjective(self.data.targets[train], self.recipe)
        shares = self.data.targets[val].mean(0)
        if ((shares == 0) | (shares == 1)).all():
            objective.monitor = "loss"
        return objective

    def evaluate(self, run: Run, split: Split) -> Outcome:
        columns = {}
        for part in ("val", "test"):
            found = []
            for outputs, _ in run(part):
                soft = torch.sigmoid(outputs.double())
                found.append((soft.mean(0) if soft.ndim == 3 else soft).cpu().numpy())
            columns[part] = self._columns(getattr(split, part), np.concatenate(found))
        listed, leaked = self.leaks(split)
        truth, found_test = self._read(columns["test"])
        groups, clips = self.groups(split.test), self.clips(split.test)
        result = self._scored(truth, found_test, groups) | {"leaks": listed}
        if leaked.any() and not leaked.all():
            result["without_leaks"] = self._scored(truth[~leaked], found_test[~leaked], groups[~leaked])
        if any(clips):
            ids, first = clip_numbers(clips)
            count = np.bincount(ids)[:, None]
            sums = [np.zeros((len(first), self.outputs)) for _ in range(2)]
            for total, values in zip(sums, (truth, found_test), strict=True):
                np.add.at(total, ids, values)
            result["per_clip"] = self._scored((sums[0] / count).round(), sums[1] / count, groups[first])
        return Outcome(result, columns)

    def _columns(self, rows: Ints, found: Floats) -> dict[str, Any]:
        names = self.data.classes
        columns = {
            f"truth_{name}": self.data.targets[rows, c].astype(np.int8) for c, name in enumerate(names)
        }
        return columns | {f"p_{name}": found[:, c] for c, name in enumerate(names)}

    def _read(self, columns: Mapping[str, Any]) -> tuple[Floats, Floats]:
        both = [
            np.stack([np.asarray(columns[f"{kind}_{name}"], np.float64) for name in self.data.classes], 1)
            for kind in ("truth", "p")
        ]
        return both[0], both[1]

    def _scored(self, truth: Floats, found: Floats, groups: Ints) -> dict[str, Any]:
        return self._report([(truth, found, groups)])

    def _report(self, folds: list[tuple[Floats, Floats, Ints]]) -> dict[str, Any]:
        overall, each = multilabel_scores(folds, self.data.classes, self.recipe.resamples)
        groups = np.concatenate([part for _, _, part in folds])
        return {
            "n": len(groups), "groups": len(np.unique(groups)), "metrics": overall, "per_class": each, "notes": [],
        }  # fmt: skip

    def answers(self, columns: Mapping[str, Sequence[Any]]) -> Answers:
        truth, found = self._read(columns)
        return Answers(
            columns["key"], np.array(columns["group"], np.int64), {"truth": truth, "found": found},
            lambda W, c: multilabel_over(W, c["truth"], c["found"], self.data.classes),
        )  # fmt: skip

    def pool(self, folds: Sequence[Answers]) -> dict[str, Any]:
        return self._report([(fold.columns["truth"], fold.columns["found"], fold.groups) for fold in folds])

    def facts(self) -> dict[str, Any]:
        return {"kind": "multilabel", "present": self.data.benchmark.positive or "present"}
