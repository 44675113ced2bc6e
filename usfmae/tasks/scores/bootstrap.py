"""Scores that are means of what each sample got, and of values and of several labels, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usfmae.tasks.scores.classification import Floats, Ints, area_under_curve, group_weights, in_blocks

Scores = dict[str, dict[str, float | None]]


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


def _over_folds(
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


def regression_scores(folds: Sequence[Fold], resamples: int = 1000) -> Scores:
    """The scores of `regression_over`; targets and values float64 [N] of each fold."""
    return _over_folds(folds, regression_over, resamples)


def regression_over(W: Floats, targets: Floats, found: Floats) -> dict[str, Floats]:
    """Mean absolute error, root mean squared error, R2 and Pearson's r under sample weights [B, N]."""
    total = W.sum(1)
    error = found - targets
    squared = W @ error**2 / total
    mean, mean_found = W @ targets / total, W @ found / total
    variance = W @ targets**2 / total - mean**2
    variance_found = W @ found**2 / total - mean_found**2
    covariance = W @ (targets * found) / total - mean * mean_found
    spread = np.sqrt(np.maximum(variance * variance_found, 0))
    return {
        "mae": W @ np.abs(error) / total,
        "rmse": np.sqrt(squared),
        "r2": 1 - _divide(squared, variance),
        "pearson": _divide(covariance, spread),
    }


def _divide(a: Floats, b: Floats) -> Floats:
    out: Floats = np.divide(a, b, out=np.full(len(a), np.nan), where=b > 1e-12)
    return out


def multilabel_scores(
    folds: Sequence[Fold], names: Sequence[str], resamples: int = 1000
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of several yes-or-no labels: averages over the labels, and each label's own.

    Targets 0 or 1, [N, C]; found: probabilities float64 [N, C]; decisions at 0.5.
    """
    everything = _over_folds(folds, lambda W, t, f: multilabel_over(W, t, f, names), resamples)
    overall = {name: score for name, score in everything.items() if ":" not in name}
    each = {
        name: {key.split(":")[0]: score for key, score in everything.items() if key.endswith(f":{name}")}
        for name in names
    }
    return overall, each


def multilabel_over(
    W: Floats, targets: NDArray[Any], probabilities: Floats, names: Sequence[str]
) -> dict[str, Floats]:
    """Averages over the labels, and as ``f1:NAME`` … each label's own, under sample weights [B, N]."""
    truth, decided = np.asarray(targets) > 0.5, probabilities >= 0.5
    hits, wrong = W @ (truth & decided), W @ (truth ^ decided)
    f1 = np.divide(2 * hits, 2 * hits + wrong, out=np.zeros_like(hits), where=hits + wrong > 0)
    scores = {f"f1:{name}": f1[:, c] for c, name in enumerate(names)}
    for c, name in enumerate(names):
        scores[f"auroc:{name}"] = area_under_curve(W, truth[:, c], probabilities[:, c])
        scores[f"average_precision:{name}"] = _average_precision(W, truth[:, c], probabilities[:, c])
    scores["exact_match"] = W @ (truth == decided).all(1) / W.sum(1)
    scores["hamming_accuracy"] = W @ (truth == decided).mean(1) / W.sum(1)
    for kind in ("f1", "auroc", "average_precision"):
        stacked = np.stack([scores[f"{kind}:{name}"] for name in names], 1)
        known = np.isfinite(stacked).any(1)
        scores[f"{kind}_macro"] = np.full(len(stacked), np.nan)
        scores[f"{kind}_macro"][known] = np.nanmean(stacked[known], 1)
    return scores


def _average_precision(W: Floats, truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """Sum over thresholds of precision times the step in recall, ties taken together: float [B]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    tp = np.cumsum(W[:, order] * truth[order], 1)[:, ends]
    seen = np.cumsum(W[:, order], 1)[:, ends]
    precision = np.divide(tp, seen, out=np.zeros_like(tp), where=seen > 0)
    steps = np.diff(tp, axis=1, prepend=0.0)
    return _divide((precision * steps).sum(1), tp[:, -1])
