"""Several runs of a model as one result, and two models on the same test samples: intervals and a paired test.

Scores are averaged over folds and seeds, never computed on folds put together: the outputs of two folds come
from two networks, and an AUROC that ranks them against each other says nothing of either. A bootstrap draw
takes patients within each fold, the same ones for all seeds and all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usfmae.tasks.metrics import Floats, Ints, group_weights, in_blocks, over_weights

SCORES = ("f1_weighted", "f1_macro", "auroc", "accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class Predictions:
    """Test predictions of one run.

    key: [N]; targets: int64 [N]; probabilities: float64 [N, C]; groups: int64 [N], what the bootstrap draws.
    """

    key: Sequence[str]
    targets: Ints
    probabilities: Floats
    groups: Ints

    def ordered(self, keys: Sequence[str]) -> Predictions:
        """The same in the order of `keys`; ValueError where the samples are not the same."""
        place = {key: i for i, key in enumerate(self.key)}
        if place.keys() != set(keys):
            raise ValueError("runs can only be compared on the same test samples")
        rows = np.array([place[key] for key in keys], np.int64)
        return Predictions(list(keys), self.targets[rows], self.probabilities[rows], self.groups[rows])


Runs = Sequence[Sequence[Predictions]]
"""Seeds, and in each the folds in order; the n-th fold of every seed holds the same samples."""


def mean_scores(runs: Runs, positive: int, resamples: int = 1000) -> dict[str, dict[str, float | None]]:
    """Each score averaged over folds and seeds, with the 95 % interval over draws of patients."""
    point = _averaged(runs, positive, 0)
    drawn = _averaged(runs, positive, resamples) if resamples else {}
    table: dict[str, dict[str, float | None]] = {}
    for name, (value,) in point.items():
        low, high = _interval(drawn[name]) if resamples else (None, None)
        table[name] = {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}
    return table


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _weights(fold: int, first: Predictions, resamples: int) -> NDArray[np.generic]:
    n = len(first.targets)
    return group_weights(first.groups, n, resamples, fold) if resamples else np.ones((1, n))


def _averaged(runs: Runs, positive: int, resamples: int) -> dict[str, Floats]:
    """Each score over draws (0: the samples as they are), averaged over folds and seeds: float64 [draws]."""
    each = []
    for fold, first in enumerate(runs[0]):
        weights = _weights(fold, first, resamples)
        for seed in runs:
            same = seed[fold].ordered(first.key)
            each.append(over_weights(same.targets, same.probabilities, weights, positive))
    return {name: np.mean([scores[name] for scores in each], 0) for name in each[0]}


@dataclass(frozen=True)
class Difference:
    """How much better model a is than model b: the mean, its 95 % interval, and the chance of as much by luck."""

    value: float
    low: float | None
    high: float | None
    p: float


def paired(a: Runs, b: Runs, positive: int, resamples: int = 1000, seed: int = 0) -> dict[str, Difference]:
    """Compare two models on the same folds and seeds.

    The interval draws patients with replacement, the same for both models. The p-value (two-sided) is that of a
    permutation test: under the null hypothesis the two answers to a patient could be exchanged, so for each
    draw they are, for a random half of the patients. Raises ValueError where the samples differ.
    """
    if [len(folds) for folds in a] != [len(folds) for folds in b]:
        raise ValueError("runs can only be compared on the same folds and seeds")
    points, draws, exchanges = [], [], []
    for fold, first in enumerate(a[0]):
        swaps = _swaps(first.groups, resamples, (seed, fold))
        weights = _weights(fold, first, resamples)
        whole = _weights(fold, first, 0)
        for left, right in zip(a, b, strict=True):
            pair = (left[fold].ordered(first.key), right[fold].ordered(first.key))
            points.append(_difference(pair, whole, positive))
            draws.append(_difference(pair, weights, positive))
            exchanges.append(_exchanged(pair, swaps, positive))
    table = {}
    for name in SCORES:
        value = float(np.mean([point[name] for point in points]))
        low, high = _interval(np.mean([draw[name] for draw in draws], 0))
        as_far = np.abs(np.mean([one[name] for one in exchanges], 0)) >= abs(value) - 1e-12
        table[name] = Difference(value, low, high, (1 + int(as_far.sum())) / (1 + len(as_far)))
    return table


Pair = tuple[Predictions, Predictions]


def _difference(pair: Pair, weights: NDArray[np.generic], positive: int) -> dict[str, Floats]:
    one, two = (over_weights(side.targets, side.probabilities, weights, positive) for side in pair)
    return {name: one[name] - two[name] for name in SCORES}


def _swaps(groups: Ints, resamples: int, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which samples change sides in each draw: bool [resamples, N], whole groups together."""
    ids = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    return np.asarray((rng.random((resamples, int(ids.max()) + 1)) < 0.5)[:, ids])


def _exchanged(pair: Pair, swaps: NDArray[np.bool_], positive: int) -> dict[str, Floats]:
    """Differences after the exchange: the answers of both models stand below each other, and weights of 0 and 1
    pick for each side which of the two it takes."""
    targets = np.concatenate([side.targets for side in pair])
    probabilities = np.concatenate([side.probabilities for side in pair])

    def scores(swapped: Floats) -> dict[str, Floats]:
        one = over_weights(targets, probabilities, np.concatenate([1 - swapped, swapped], 1), positive)
        two = over_weights(targets, probabilities, np.concatenate([swapped, 1 - swapped], 1), positive)
        return {name: one[name] - two[name] for name in SCORES}

    return in_blocks(scores, swaps)
