"""Scores of values, such as an ejection fraction, with intervals that resample patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from usfmae.tasks.scores.bootstrap import Floats, Fold, Scores, divide, over_folds


def regression_scores(folds: Sequence[Fold], resamples: int = 1000) -> Scores:
    """The scores of `regression_over`; targets and values float64 [N] of each fold."""
    return over_folds(folds, regression_over, resamples)


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
        "r2": 1 - divide(squared, variance),
        "pearson": divide(covariance, spread),
    }
