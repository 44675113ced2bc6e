"""Segmentation: a class for each pixel, from the masks that travel with a benchmark set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openus.errors import OpenUSError
from usfmae.tasks.models import Network
from usfmae.tasks.scores import means_with_intervals
from usfmae.tasks.segment_metrics import Structure, average_precision, overlap, structures
from usfmae.tasks.segmenter import dress
from usfmae.tasks.splits import Split
from usfmae.tasks.task import Batches, Ints, Outcome, Run, Task

_SHEET = 12  # images of the test part that are kept for the picture


class SegmentationObjective:
    """Cross-entropy plus soft Dice over the foreground (Milletari et al. 2016), equal parts."""

    monitor = "dice"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits float [B, 1 + C, S, S] and masks uint8 [B, S, S]."""
        wanted = targets.long()
        soft = F.softmax(outputs, 1)[:, 1:]
        truth = F.one_hot(wanted, self.classes + 1).movedim(-1, 1)[:, 1:].to(soft.dtype)
        both, total = (soft * truth).sum((0, 2, 3)), (soft + truth).sum((0, 2, 3))
        dice = (2 * both + 1) / (total + 1)
        return F.cross_entropy(outputs, wanted) + 1 - dice.mean()

    def score(self, batches: Batches) -> dict[str, float]:
        losses, dices = [], []
        for outputs, targets in batches:
            losses.append(float(self.loss(outputs, targets)))
            decisions = outputs.argmax(1).to(torch.uint8).cpu().numpy()
            pairs = zip(targets.cpu().numpy(), decisions, strict=True)
            dices += [overlap(truth, decision, self.classes)[0].mean() for truth, decision in pairs]
        return {"dice": float(np.mean(dices)), "loss": -float(np.mean(losses))}


class SegmentationTask(Task):
    """Foreground classes 1..C and background 0 for each pixel of the square input."""

    kind = "segmentation"
    main = "dice"

    @property
    def outputs(self) -> int:
        return 0  # no classifier: the dense head is put on by `dress`

    @property
    def maps(self) -> int:
        return len(self.data.classes)

    def check(self, split: Split, train: Ints) -> list[str]:
        if not self.data.targets[train].any():
            raise OpenUSError(
                f"benchmark '{self.data.benchmark.name}', {split.name}: all masks of the training part are empty; "
                "check the masks of the source, then rebuild the corpus"
            )
        empty = int((~self.data.targets[split.test].any((1, 2))).sum())
        return [f"{empty} test images hold no structure; they score 1 where none is found"] if empty else []

    def dress(self, network: Network) -> Network:
        return dress(network, self.maps, self.recipe.size)

    def objective(self, train: Ints, val: Ints) -> SegmentationObjective:
        return SegmentationObjective(self.maps)

    def evaluate(self, run: Run, split: Split) -> Outcome:
        columns, sheet = {}, []
        truths: list[list[Structure]] = [[] for _ in self.data.classes]
        found: list[list[Structure]] = [[] for _ in self.data.classes]
        for part in ("val", "test"):
            dices, ious, number = [], [], 0
            rows = getattr(split, part)
            for outputs, targets in run(part):
                soft = F.softmax(outputs.double(), -3)
                shares = (soft.mean(0) if soft.ndim == 5 else soft).cpu().numpy()
                for truth, maps in zip(targets.cpu().numpy(), shares, strict=True):
                    decision = maps.argmax(0).astype(np.uint8)
                    dice, iou = overlap(truth, decision, self.maps)
                    dices.append(dice)
                    ious.append(iou)
                    if part == "test":
                        for c in range(self.maps):
                            truths[c] += structures(number, truth, c + 1)
                            found[c] += structures(number, decision, c + 1, maps[c + 1])
                        sheet.append((int(rows[number]), truth, decision, float(dice.mean())))
                        number += 1
            columns[part] = self._columns(np.array(dices), np.array(ious))
        listed, leaked = self.leaks(split)
        result = self._report(columns["test"], self.groups(split.test), truths, found, leaked) | {
            "leaks": listed
        }
        result["sheet"] = _choose(sheet)
        return Outcome(result, columns)

    def _columns(self, dices: NDArray[np.float64], ious: NDArray[np.float64]) -> dict[str, Any]:
        columns: dict[str, Any] = {"dice": dices.mean(1), "iou": ious.mean(1)}
        if self.maps > 1:
            columns |= {f"dice_{name}": dices[:, c] for c, name in enumerate(self.data.classes)}
        return columns

    def _report(
        self, columns: dict[str, Any], groups: Ints, truths: list[list[Structure]], found: list[list[Structure]],
        leaked: NDArray[np.bool_],
    ) -> dict[str, Any]:  # fmt: skip
        each = {name: np.asarray(values, np.float64) for name, values in columns.items()}
        metrics = means_with_intervals(each, groups, self.recipe.resamples)
        tables = [average_precision(t, f) for t, f in zip(truths, found, strict=True)]
        for name, thresholds in (("map", None), ("map_50", (0.5,))):
            values = [table[at] for table in tables for at in (thresholds or tuple(table))]
            known = [value for value in values if np.isfinite(value)]
            mean = float(np.mean(known)) if known else None
            metrics[name] = {"value": mean, "low": None, "high": None}
        result: dict[str, Any] = {
            "n": len(groups), "groups": len(np.unique(groups)), "metrics": metrics, "notes": [],
            "evaluated_at": self.recipe.size,
        }  # fmt: skip
        if leaked.any() and not leaked.all():
            kept = {name: values[~leaked] for name, values in each.items()}
            result["without_leaks"] = {
                "metrics": means_with_intervals(kept, groups[~leaked], self.recipe.resamples)
            }
        return result

    def pool(self, tables: list[dict[str, list[Any]]]) -> dict[str, Any]:
        names = [name for name in tables[0] if name.startswith(("dice", "iou"))]
        each = {name: np.concatenate([table[name] for table in tables]) for name in names}
        groups = np.concatenate([table["group"] for table in tables])
        metrics = means_with_intervals(each, groups, self.recipe.resamples)
        return {"n": len(groups), "groups": len(np.unique(groups)), "metrics": metrics, "notes": []}

    def draw(self, folder: Path, result: dict[str, Any], title: str) -> None:
        from usfmae.tasks.plots import masks_png

        sheet = result.pop("sheet", None)
        if sheet:
            masks_png(folder / "masks.png", [(self.data.images[i, 0], *rest) for i, *rest in sheet], title)

    def facts(self) -> dict[str, Any]:
        return {"kind": "segmenter"}


def _choose(sheet: list[tuple[int, Any, Any, float]]) -> list[tuple[int, Any, Any, float]]:
    """Images over the whole range of scores, worst first: a picture of the best alone would mislead."""
    ordered = sorted(sheet, key=lambda entry: entry[3])
    places = np.unique(np.linspace(0, len(ordered) - 1, min(_SHEET, len(ordered))).round().astype(int))
    return [ordered[i] for i in places]
