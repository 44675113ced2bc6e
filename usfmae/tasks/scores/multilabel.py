"""Scores of several yes-or-no labels, with intervals that resample patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usfmae.tasks.scores.bootstrap import Floats, Fold, Scores, divide, over_folds
from usfmae.tasks.scores.classification import area_under_curve


def multilabel_scores(
    folds: Sequence[Fold], names: Sequence[str], resamples: int = 1000
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of several yes-or-no labels: averages over the labels, and each label's own.

    Targets 0 or 1, [N, C]; found: probabilities float64 [N, C]; decisions at 0.5.
    """
    everything = over_folds(folds, lambda W, t, f: multilabel_over(W, t, f, names), resamples)
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
    return divide((precision * steps).sum(1), tp[:, -1])
