"""Several runs of a model as one result, and two models on the same test samples: intervals and a paired test.

Scores are averaged over folds and seeds, never computed on folds put together: the outputs of two folds come
from two networks, and an AUROC that ranks them against each other says nothing of either. A bootstrap draw
takes patients within each fold, the same ones for all seeds and all models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usfmae.tasks.scores.bootstrap import Floats, Ints, group_weights, in_blocks

Columns = Mapping[str, NDArray[Any]]
Score = Callable[[Floats, Columns], dict[str, Floats]]


@dataclass(frozen=True)
class Answers:
    """What one run says of its test samples.

    key: [N]; groups: int64 [N], what the bootstrap draws; columns: arrays [N, …] of truth and answers; score: from
    sample weights float64 [B, N] and the columns to each score float64 [B].
    """

    key: Sequence[str]
    groups: Ints
    columns: Columns
    score: Score

    def ordered(self, keys: Sequence[str]) -> Answers:
        """The same in the order of `keys`; ValueError where the samples are not the same."""
        place = {key: i for i, key in enumerate(self.key)}
        if place.keys() != set(keys):
            raise ValueError("runs can only be compared on the same test samples")
        return self.take(np.array([place[key] for key in keys], np.int64))

    def take(self, rows: Ints) -> Answers:
        """Those of some samples, by their positions."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Answers([self.key[i] for i in rows.tolist()], self.groups[rows], columns, self.score)

    def over(self, weights: NDArray[Any]) -> dict[str, Floats]:
        """Each score under each row of sample weights [B, N]: float64 [B]."""
        return in_blocks(lambda W: self.score(W, self.columns), weights)


Runs = Sequence[Sequence[Answers]]
"""Seeds, and in each the folds in order; the n-th fold of every seed holds the same samples."""


def mean_scores(runs: Runs, resamples: int = 1000) -> dict[str, dict[str, float | None]]:
    """Each score averaged over folds and seeds, with the 95 % interval over draws of patients."""
    point = _averaged(runs, 0)
    drawn = _averaged(runs, resamples) if resamples else {}
    table: dict[str, dict[str, float | None]] = {}
    for name, (value,) in point.items():
        low, high = _interval(drawn[name]) if resamples else (None, None)
        table[name] = {"value": _known(value), "low": low, "high": high}
    return table


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _mean(parts: Sequence[Floats]) -> Floats:
    """Mean over runs; those where a score is not defined (AUROC of one class) are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # defined in none: stays NaN
        return np.asarray(np.nanmean(parts, 0), np.float64)


def _weights(fold: int, first: Answers, resamples: int) -> NDArray[np.generic]:
    n = len(first.key)
    return group_weights(first.groups, n, resamples, fold) if resamples else np.ones((1, n))


def _averaged(runs: Runs, resamples: int) -> dict[str, Floats]:
    """Each score over draws (0: the samples as they are), averaged over folds and seeds: float64 [draws]."""
    each = []
    for fold, first in enumerate(runs[0]):
        weights = _weights(fold, first, resamples)
        each += [seed[fold].ordered(first.key).over(weights) for seed in runs]
    return {name: _mean([scores[name] for scores in each]) for name in each[0]}


@dataclass(frozen=True)
class Difference:
    """How much more model a scores than model b: the mean, its 95 % interval, and the chance of as much by luck.

    None where the score is not defined for the test parts.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def paired(a: Runs, b: Runs, resamples: int = 1000, seed: int = 0) -> dict[str, Difference]:
    """Compare two models on the same folds and seeds, by every score.

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
            points.append(_difference(pair, whole))
            draws.append(_difference(pair, weights))
            exchanges.append(_exchanged(pair, swaps))
    table = {}
    for name in points[0]:
        value = _known(_mean([point[name] for point in points])[0])
        if value is None:
            table[name] = Difference(None, None, None, None)
            continue
        low, high = _interval(_mean([draw[name] for draw in draws]))
        as_far = np.abs(_mean([one[name] for one in exchanges])) >= abs(value) - 1e-12
        table[name] = Difference(value, low, high, (1 + int(as_far.sum())) / (1 + len(as_far)))
    return table


Pair = tuple[Answers, Answers]


def _difference(pair: Pair, weights: NDArray[np.generic]) -> dict[str, Floats]:
    one, two = (side.over(weights) for side in pair)
    return {name: one[name] - two[name] for name in one}


def _swaps(groups: Ints, resamples: int, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which samples change sides in each draw: bool [resamples, N], whole groups together."""
    ids = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    return np.asarray((rng.random((resamples, int(ids.max()) + 1)) < 0.5)[:, ids])


def _exchanged(pair: Pair, swaps: NDArray[np.bool_]) -> dict[str, Floats]:
    """Differences after the exchange: the answers of both models stand below each other, and weights of 0 and 1
    pick for each side which of the two it takes."""
    one, two = pair
    both = {name: np.concatenate([values, two.columns[name]]) for name, values in one.columns.items()}

    def scores(swapped: Floats) -> dict[str, Floats]:
        left = one.score(np.concatenate([1 - swapped, swapped], 1), both)
        right = one.score(np.concatenate([swapped, 1 - swapped], 1), both)
        return {name: left[name] - right[name] for name in left}

    return in_blocks(scores, swaps)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (of a sample) of each score over the results of several folds or seeds."""
    names = list(runs[0]["metrics"]) if runs else []
    table: dict[str, dict[str, float | None]] = {}
    for name in names:
        values = [run["metrics"][name]["value"] for run in runs if run["metrics"][name]["value"] is not None]
        table[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "runs": len(values),
        }
    return table
