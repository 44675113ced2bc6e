"""Segmentation: a class for each pixel, from the masks that travel with a benchmark set."""

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
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.segmenter import dress
from usfmae.tasks.report.plots import masks_png
from usfmae.tasks.scores.compare import Answers, Columns
from usfmae.tasks.scores.segmentation import average_precision, match, over_classes, overlap, structures
from usfmae.tasks.task import Batches, Ints, Outcome, Run, Task

_SHEET = 12  # images of the test part that are kept for the picture


class SegmentationObjective:
    """Cross-entropy plus soft Dice over the foreground (Milletari et al. 2016), equal parts."""

    def __init__(self, classes: int, monitor: str = "") -> None:
        self.classes = classes
        self.monitor = monitor or "dice"

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
            dices += [over_classes(overlap(truth, decision, self.classes)[0]) for truth, decision in pairs]
        return {"dice": float(np.mean(dices)), "loss": -float(np.mean(losses))}


class SegmentationTask(Task):
    """Foreground classes 1..C and background 0 for each pixel of the square input."""

    kind = "segmentation"
    shown = ("dice", "iou", "map", "map_50")

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
        return SegmentationObjective(self.maps, self.recipe.monitor)

    def evaluate(self, run: Run, split: Split) -> Outcome:
        columns: dict[str, dict[str, Any]] = {}
        sheet = []
        for part in ("val", "test"):
            rows = getattr(split, part)
            each: list[dict[str, Any]] = []
            for outputs, targets in run(part):
                soft = F.softmax(outputs.double(), -3)
                shares = (soft.mean(0) if soft.ndim == 5 else soft).cpu().numpy()
                for truth, maps in zip(targets.cpu().numpy(), shares, strict=True):
                    decision = maps.argmax(0).astype(np.uint8)
                    if part == "test":
                        dice = over_classes(overlap(truth, decision, self.maps)[0])
                        sheet.append((int(rows[len(each)]), truth, decision, dice))
                    each.append(self._scores_of(truth, decision, maps))
            columns[part] = {name: [one[name] for one in each] for name in each[0]}
        listed, leaked = self.leaks(split)
        groups = self.groups(split.test)
        whole = self.answers({"key": self.keys(split.test), "group": groups.tolist()} | columns["test"])
        result = self.pool([whole]) | {"leaks": listed, "evaluated_at": self.recipe.size}
        if leaked.any() and not leaked.all():
            result["without_leaks"] = self.pool([whole.take(np.flatnonzero(~leaked))])
        result["sheet"] = _choose(sheet)
        return Outcome(result, columns)

    def _scores_of(
        self, truth: NDArray[np.uint8], decision: NDArray[np.uint8], maps: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Overlap of one image, and for each class its structures: how many, and what was found of them."""
        dice, iou = overlap(truth, decision, self.maps)
        one: dict[str, Any] = {"dice": over_classes(dice), "iou": over_classes(iou)}
        for c, name in enumerate(self.data.classes):
            if self.maps > 1:
                one[f"dice_{name}"] = float(dice[c])
            there = structures(0, truth, c + 1)
            scores, hits = match(there, structures(0, decision, c + 1, maps[c + 1]))
            one |= {f"structures_{name}": len(there), f"scores_{name}": scores, f"hits_{name}": hits}
        return one

    def answers(self, columns: Mapping[str, Sequence[Any]]) -> Answers:
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in columns.items():
            if name.startswith(("scores_", "hits_")):
                arrays[name] = _lists(values)
            elif name.startswith(("dice", "iou", "structures_")):
                arrays[name] = np.asarray(values)
        return Answers(list(columns["key"]), np.array(columns["group"], np.int64), arrays, self._over)

    def _over(self, W: NDArray[np.float64], columns: Columns) -> dict[str, NDArray[np.float64]]:
        scores = {name: _mean(W, columns[name]) for name in columns if name.startswith(("dice", "iou"))}
        tables = [
            average_precision(
                W, columns[f"structures_{name}"], columns[f"scores_{name}"].tolist(), columns[f"hits_{name}"].tolist()
            )
            for name in self.data.classes
        ]  # fmt: skip
        stacked = np.stack(tables)  # [C, B, T]; a class that a draw does not hold is left out of its mean
        known = np.isfinite(stacked[:, :, 0])
        count = known.sum(0)
        for name, value in (("map", stacked.mean(2)), ("map_50", stacked[:, :, 0])):
            sums = np.where(known, value, 0.0).sum(0)
            scores[name] = np.divide(sums, count, out=np.full(len(W), np.nan), where=count > 0)
        return scores

    def draw(self, folder: Path, result: dict[str, Any], title: str) -> None:
        sheet = result.pop("sheet", None)
        if sheet:
            masks_png(folder / "masks.png", [(self.data.images[i, 0], *rest) for i, *rest in sheet], title)

    def facts(self) -> dict[str, Any]:
        return {"kind": "segmenter"}


def _mean(W: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean under sample weights [B, N] of the values [N] that are known; NaN where a draw holds none."""
    known = np.isfinite(values)
    total = W[:, known].sum(1)
    out: NDArray[np.float64] = np.full(len(W), np.nan)
    np.divide(W[:, known] @ values[known], total, out=out, where=total > 0)
    return out


def _lists(values: Sequence[Any]) -> NDArray[Any]:
    """Lists of any lengths as an array of objects [N]."""
    out = np.empty(len(values), object)
    out[:] = [list(value) for value in values]
    return out


def _choose(sheet: list[tuple[int, Any, Any, float]]) -> list[tuple[int, Any, Any, float]]:
    """Images over the whole range of scores, worst first: a picture of the best alone would mislead."""
    ordered = sorted(sheet, key=lambda entry: entry[3])
    places = np.unique(np.linspace(0, len(ordered) - 1, min(_SHEET, len(ordered))).round().astype(int))
    return [ordered[i] for i in places]
