"""What differs between tasks: targets, loss, validation scores, and what is reported of a test part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usfmae.tasks.data.labelled import LabelledSet
from usfmae.tasks.data.splits import Split, leaked_rows, leaks, leaks_json
from usfmae.tasks.network.base import Network
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.scores.compare import Answers, mean_scores
from usfmae.tasks.training.loop import Objective

Ints = NDArray[np.int64]
Batches = Iterator[tuple[Tensor, Tensor]]
Run = Callable[[str], Batches]
"""Outputs and targets of the part "val" or "test", in order; outputs [2, B, ...] under test-time mirroring."""


@dataclass
class Outcome:
    """What a finished run is worth."""

    result: dict[str, Any]
    """Scores as in metrics.json: ``metrics`` (name to value, low, high), ``n``, ``groups``, ``notes``, …"""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Columns of predictions.parquet besides key, part, clip and group, for the parts val and test."""


class Task(ABC):
    """One kind of task on one labelled set."""

    kind: ClassVar[str]
    shown: ClassVar[tuple[str, ...]]
    """Scores of a table of models, the one they are compared by first."""

    def __init__(self, data: LabelledSet, recipe: FinetuneRecipe) -> None:
        self.data, self.recipe = data, recipe

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers (or maps) the network gives for an image."""

    @abstractmethod
    def check(self, split: Split, train: Ints) -> list[str]:
        """Notes for the report; OpenUSError where nothing can be learned from `train`."""

    def targets(self, rows: Ints) -> Tensor:
        """Targets of some samples, as the loss takes them."""
        return torch.from_numpy(self.data.targets[rows])

    def dress(self, network: Network) -> Network:
        """The network with what the task adds to it; most add nothing."""
        return network

    @abstractmethod
    def objective(self, train: Ints, val: Ints) -> Objective:
        """Loss and validation score of a run."""

    @abstractmethod
    def evaluate(self, run: Run, split: Split) -> Outcome:
        """Score validation and test part of a trained network."""

    @abstractmethod
    def answers(self, columns: Mapping[str, Sequence[Any]]) -> Answers:
        """Columns of predictions.parquet of a test part, as what scores and comparisons are computed from."""

    def pool(self, folds: Sequence[Answers]) -> dict[str, Any]:
        """Scores of the test parts of several folds together: means over the folds."""
        groups = np.concatenate([fold.groups for fold in folds])
        metrics = mean_scores([folds], self.recipe.resamples)
        return {"n": len(groups), "groups": len(np.unique(groups)), "metrics": metrics, "notes": []}

    def draw(self, folder: Path, result: dict[str, Any], title: str) -> None:
        """Pictures of a result besides the learning curves."""
        return

    def facts(self) -> dict[str, Any]:
        """What config.json must hold for prediction besides the network."""
        return {}

    # What all tasks ask of the data:

    def groups(self, rows: Ints) -> Ints:
        """What the bootstrap draws."""
        return self.data.groups()[rows]

    def keys(self, rows: Ints) -> list[str]:
        """Key of each sample in the corpus."""
        return [self.data.identity.key[i] for i in rows.tolist()]

    def clips(self, rows: Ints) -> list[str]:
        """Clip of each sample, "" where it is of none."""
        return [self.data.identity.clip[i] for i in rows.tolist()]

    def leaks(self, split: Split) -> tuple[list[dict[str, Any]], NDArray[np.bool_]]:
        """The leaks of a split as metrics.json has them, and which test samples they touch: bool [N]."""
        found = leaks(split, self.data.identity)
        return leaks_json(found), np.isin(split.test, leaked_rows(found))


def clip_numbers(clips: list[str]) -> tuple[Ints, Ints]:
    """Number the clips, samples of no clip each on their own: ids int64 [N], first sample of each id [G]."""
    names = [clip or f"\0{i}" for i, clip in enumerate(clips)]
    _, first, ids = np.unique(names, return_index=True, return_inverse=True)
    return ids.astype(np.int64), first.astype(np.int64)
