"""Intervals that resample patients: scores are functions of sample weights, how often a draw took each patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CHUNK = 1 << 22  # elements of a [resamples, samples] block that stay in the processor's caches

Scores = dict[str, dict[str, float | None]]


def group_weights(groups: Ints | None, n: int, resamples: int, seed: int) -> NDArray[np.int32]:
    """How often each draw holds each sample: int32 [resamples, N]."""
    ids = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(ids.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.int32)
    return drawn[:, ids]


def in_blocks(compute: Callable[[Floats], dict[str, Floats]], weights: NDArray[Any]) -> dict[str, Floats]:
    """Call `compute` on blocks of rows of `weights` [B, N] that stay small, and join what it gives."""
    step = max(1, _CHUNK // max(1, weights.shape[1]))
    parts = [
        compute(weights[start : start + step].astype(np.float64))
        for start in range(0, max(1, len(weights)), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def means_with_intervals(each: dict[str, Floats], groups: Ints, resamples: int) -> Scores:
    """Mean of per-sample scores float64 [N] (NaN left out) with patient-level bootstrap intervals."""
    weights = group_weights(groups, len(groups), resamples, 0).astype(np.float64)
    table: Scores = {}
    for name, values in each.items():
        known = np.isfinite(values)
        if not known.any():
            table[name] = {"value": None, "low": None, "high": None}
            continue
        total = weights[:, known].sum(1)
        drawn = (weights[:, known] @ values[known])[total > 0] / total[total > 0]
        table[name] = _entry(float(values[known].mean()), drawn)
    return table


def _entry(value: float, drawn: Floats) -> dict[str, float | None]:
    finite = drawn[np.isfinite(drawn)]
    low, high = np.percentile(finite, (2.5, 97.5)) if len(finite) else (None, None)
    return {
        "value": value if np.isfinite(value) else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


Fold = tuple[NDArray[Any], NDArray[Any], Ints]
"""Targets, what was found, and the groups of one test part."""


def over_folds(
    folds: Sequence[Fold], compute: Callable[[Floats, Any, Any], dict[str, Floats]], resamples: int
) -> Scores:
    """Scores as functions of sample weights [B, N], averaged over folds: as they are, and over draws of patients."""
    points, draws = [], []
    for number, (targets, found, groups) in enumerate(folds):
        n = len(targets)
        points.append(compute(np.ones((1, n)), targets, found))
        weights = group_weights(groups, n, resamples, number)
        draws.append(in_blocks(lambda W, t=targets, f=found: compute(W, t, f), weights))  # type: ignore[misc]
    return {
        name: _entry(float(np.mean([p[name] for p in points])), np.mean([d[name] for d in draws], 0))
        for name in points[0]
    }


def divide(a: Floats, b: Floats) -> Floats:
    """a / b float64 [B], NaN where b is nothing."""
    out: Floats = np.divide(a, b, out=np.full(len(a), np.nan), where=b > 1e-12)
    return out
