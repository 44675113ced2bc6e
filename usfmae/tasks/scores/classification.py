"""Scores of a classifier, with intervals that resample patients.

Point estimates come from scikit-learn. The bootstrap needs each of them thousands of times, so it computes
the same definitions from sample weights (how often a resample drew the sample's patient), vectorised over
resamples. Averages over classes run over the classes that occur in the targets; a class that is absent from
the test part is named in ``notes`` and has no score of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usfmae.tasks.scores.bootstrap import Floats, Ints, group_weights, in_blocks

SPECIFICITIES = (0.90, 0.95)
ECE_BINS = 15


def classification(
    targets: Ints,
    probabilities: Floats,
    classes: Sequence[str],
    *,
    groups: Ints | None = None,
    positive: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score class probabilities.

    targets:       int64 [N], class numbers.
    probabilities: float [N, C], rows sum to 1; the decision is the largest.
    groups:        int64 [N], what the bootstrap draws (patients); None draws samples.
    positive:      the class that sensitivity and AUROC of a two-class task speak of; the last one if None.

    Returns a JSON-ready dict: ``n``, ``groups``, ``metrics`` (name to value, low, high: the 95 % percentile
    interval), ``per_class``, ``confusion`` (rows: true class, columns: decision), ``notes``.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if len(targets) == 0 or not np.isfinite(probabilities).all():
        raise ValueError("classification() needs at least one sample and finite probabilities")
    number = list(classes).index(positive) if positive else len(classes) - 1
    values = point_estimates(targets, probabilities, number)
    drawn = bootstrap(targets, probabilities, groups, number, resamples=resamples, seed=seed)
    absent = [name for c, name in enumerate(classes) if not (targets == c).any()]
    notes = [f"class '{name}' does not occur here; averages leave it out" for name in absent]
    return {
        "n": len(targets),
        "groups": len(np.unique(groups)) if groups is not None else len(targets),
        "metrics": {name: _with_interval(value, drawn.get(name)) for name, value in values.items()},
        "per_class": _per_class(targets, probabilities, classes),
        "confusion": confusion(targets, probabilities.argmax(1), len(classes)).tolist(),
        "notes": notes,
    }


def confusion(targets: Ints, decisions: Ints, classes: int) -> Ints:
    """Counts [C, C]: row the true class, column the decision."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (targets, decisions), 1)
    return counts


def point_estimates(targets: Ints, probabilities: Floats, positive: int) -> dict[str, float]:
    """Every score of the whole sample through scikit-learn; NaN where not defined (AUROC of one class)."""
    from sklearn import metrics as sk

    decisions = probabilities.argmax(1)
    present = np.unique(targets)
    scores: dict[str, float] = {
        "accuracy": float(sk.accuracy_score(targets, decisions)),
        "balanced_accuracy": float(
            sk.recall_score(targets, decisions, labels=present, average="macro", zero_division=0)
        ),
    }
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            targets, decisions, labels=present, average=average, zero_division=0
        )
        scores |= {
            f"precision_{average}": float(precision),
            f"recall_{average}": float(recall),
            f"f1_{average}": float(f1),
        }
    aucs = [
        float(sk.roc_auc_score(targets == c, probabilities[:, c]))
        for c in ([positive] if probabilities.shape[1] == 2 else present)
        if 0 < (targets == c).sum() < len(targets)
    ]
    scores["auroc"] = float(np.mean(aucs)) if aucs else float("nan")
    if probabilities.shape[1] == 2:
        for specificity in SPECIFICITIES:
            name = f"sensitivity_at_{specificity * 100:.0f}_specificity"
            scores[name] = sensitivity_at(targets == positive, probabilities[:, positive], specificity)
    scores["ece"] = expected_calibration_error(targets, probabilities)
    return scores


def sensitivity_at(truth: NDArray[np.bool_], scores: Floats, specificity: float) -> float:
    """The largest sensitivity at a specificity of at least `specificity`; NaN for one class."""
    from sklearn.metrics import roc_curve

    if truth.all() or not truth.any():
        return float("nan")
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return float(tpr[fpr <= 1 - specificity + 1e-12].max(initial=0.0))


def expected_calibration_error(targets: Ints, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Gap between confidence and accuracy of the decision, over `bins` equal intervals (Guo et al. 2017)."""
    weights = np.ones((1, len(targets)))
    return float(_ece(weights, targets, probabilities, bins)[0])


def class_calibration_error(truth: NDArray[np.bool_], scores: Floats, bins: int = ECE_BINS) -> float:
    """Gap between the probability of one class and how often it is true (Kull et al. 2019, classwise ECE)."""
    place = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, truth - scores, minlength=bins)).sum() / len(truth))


def bootstrap(
    targets: Ints,
    probabilities: Floats,
    groups: Ints | None,
    positive: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Each score over `resamples` draws of whole groups with replacement: name to float [resamples].

    NaN where a draw does not define it. The same seed and groups draw the same patients whatever the
    model, so that differences between two models can be paired.
    """
    return over_weights(
        targets, probabilities, group_weights(groups, len(targets), resamples, seed), positive
    )


def over_weights(
    targets: Ints, probabilities: Floats, weights: NDArray[Any], positive: int
) -> dict[str, Floats]:
    """Each score under each row of sample weights [B, N]: name to float [B]."""
    return in_blocks(lambda W: weighted_scores(W, targets, probabilities, positive), weights)


def weighted_scores(
    W: Floats, targets: NDArray[Any], probabilities: Floats, positive: int
) -> dict[str, Floats]:
    """Each score under sample weights float64 [B, N]: name to float64 [B]; NaN where not defined."""
    classes = probabilities.shape[1]
    decisions = probabilities.argmax(1)
    truth = np.eye(classes)[targets]
    chosen = np.eye(classes)[decisions]
    support = W @ truth
    predicted = W @ chosen
    hits = W @ (truth * chosen)
    present = (np.bincount(targets, minlength=classes) > 0)[None, :] & (support > 0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    total = W.sum(1)
    scores = {"accuracy": hits.sum(1) / total, "balanced_accuracy": _mean(recall, present)}
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
        scores[f"{name}_macro"] = _mean(value, present)
        scores[f"{name}_weighted"] = (value * support).sum(1) / total
    if classes == 2:
        tops, bottoms = _counts_by_threshold(W, targets == positive, probabilities[:, positive])
        scores["auroc"] = _auroc(tops, bottoms)
        for specificity in SPECIFICITIES:
            name = f"sensitivity_at_{specificity * 100:.0f}_specificity"
            scores[name] = _sensitivity(tops, bottoms, specificity)
    else:
        each = [area_under_curve(W, targets == c, probabilities[:, c]) for c in np.unique(targets).tolist()]
        stacked = np.stack(each, 1)
        scores["auroc"] = _mean(np.nan_to_num(stacked), np.isfinite(stacked))
    scores["ece"] = _ece(W, targets, probabilities, ECE_BINS)
    return scores


def _ratio(a: Floats, b: Floats) -> Floats:
    out: Floats = np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    return out


def _mean(values: Floats, where: NDArray[np.bool_]) -> Floats:
    count = where.sum(1)
    total = (values * where).sum(1)
    mean: Floats = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def _counts_by_threshold(W: Floats, truth: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and negatives at each distinct score, highest score first: two [B, T]."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ordered, positives = W[:, order], truth[order]
    return (
        np.add.reduceat(ordered * positives, starts, axis=1),
        np.add.reduceat(ordered * ~positives, starts, axis=1),
    )


def _auroc(tops: Floats, bottoms: Floats) -> Floats:
    """Mann-Whitney: the chance that a positive scores above a negative, ties counting half."""
    below = bottoms.sum(1, keepdims=True) - np.cumsum(bottoms, 1)
    pairs = tops.sum(1) * bottoms.sum(1)
    wins = (tops * (below + 0.5 * bottoms)).sum(1)
    area: Floats = np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)
    return area


def area_under_curve(W: Floats, truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """AUROC of `scores` [N] for `truth` [N] under each row of sample weights [B, N]; NaN for one class."""
    return _auroc(*_counts_by_threshold(W, truth, scores))


def _sensitivity(tops: Floats, bottoms: Floats, specificity: float) -> Floats:
    P, N = tops.sum(1, keepdims=True), bottoms.sum(1, keepdims=True)
    allowed = np.cumsum(bottoms, 1) <= (1 - specificity + 1e-12) * N
    best = np.where(allowed, np.cumsum(tops, 1), 0.0).max(1)
    defined = (P[:, 0] > 0) & (N[:, 0] > 0)
    share: Floats = np.divide(best, P[:, 0], out=np.full(len(best), np.nan), where=defined)
    return share


def _ece(W: Floats, targets: Ints, probabilities: Floats, bins: int) -> Floats:
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = W @ (np.eye(bins)[place] * (right - confidence)[:, None])
    return np.asarray(np.abs(gaps).sum(1) / W.sum(1), np.float64)


def _with_interval(value: float, drawn: Floats | None) -> dict[str, float | None]:
    low = high = None
    if drawn is not None and np.isfinite(drawn).any():
        low, high = (float(edge) for edge in np.nanpercentile(drawn, (2.5, 97.5)))
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}


def _per_class(targets: Ints, probabilities: Floats, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    from sklearn import metrics as sk

    decisions = probabilities.argmax(1)
    rows = sk.precision_recall_fscore_support(
        targets, decisions, labels=range(len(classes)), average=None, zero_division=0
    )
    table = {}
    for c, name in enumerate(classes):
        precision, recall, f1, support = (row[c] for row in rows)
        truth = targets == c
        known = bool(support)
        both = 0 < support < len(truth)
        table[name] = {
            "support": int(support),
            "precision": float(precision) if known else None,
            "recall": float(recall) if known else None,
            "f1": float(f1) if known else None,
            "auroc": float(sk.roc_auc_score(truth, probabilities[:, c])) if both else None,
            **{
                f"sensitivity_at_{100 * specificity:.0f}_specificity": sensitivity_at(
                    truth, probabilities[:, c], specificity
                )
                if both
                else None
                for specificity in SPECIFICITIES
            },
            "ece": class_calibration_error(truth, probabilities[:, c]) if known else None,
        }
    return table


def by_group(targets: Ints, probabilities: Floats, ids: Ints) -> tuple[Ints, Floats, Ints]:
    """Average the probabilities of samples that belong together (frames of a clip).

    Returns targets int64 [G] (the group's most frequent one), mean probabilities [G, C], group ids [G].
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    sums = np.zeros((len(unique), probabilities.shape[1]))
    np.add.at(sums, inverse, probabilities)
    votes = np.zeros((len(unique), int(targets.max()) + 1), np.int64)
    np.add.at(votes, (inverse, targets), 1)
    return votes.argmax(1), sums / np.bincount(inverse)[:, None], unique
