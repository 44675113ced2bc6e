"""Overlap of masks, and average precision of the structures in them as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Floats = NDArray[np.float64]

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_RECALLS = np.linspace(0, 1, 101)


def overlap(truth: Mask, decision: Mask, classes: int) -> tuple[Floats, Floats]:
    """Dice and IoU of each foreground class of one image; masks uint8 [S, S] hold 0 or the class number 1..C.

    Returns float64 [C] each, NaN for a class that neither mask holds: it says nothing of the network.
    """
    dice, iou = np.full(classes, np.nan), np.full(classes, np.nan)
    for c in range(1, classes + 1):
        a, b = truth == c, decision == c
        both, total = int((a & b).sum()), int(a.sum()) + int(b.sum())
        if total:
            dice[c - 1] = 2 * both / total
            iou[c - 1] = both / (total - both)
    return dice, iou


def over_classes(scores: Floats) -> float:
    """Mean over the classes that either mask of an image holds; 1 where neither holds any: nothing was there, and
    nothing was found. Classes of other images would lift the mean of every image: of eight, by seven that are right.
    """
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if len(known) else 1.0


@dataclass(frozen=True)
class Structure:
    """One connected piece of a class in one image."""

    image: int
    mask: NDArray[np.bool_]
    score: float = 1.0


def structures(
    image: int, mask: Mask, number: int, scores: Floats | None = None, least: int = 16
) -> list[Structure]:
    """Connected pieces (8 neighbours) of class `number` in uint8 [S, S], of at least `least` pixels.

    scores: float [S, S], the probability of the class; a piece scores its mean. Semantic masks cannot tell two
    structures that touch; each piece counts as one.
    """
    count, places = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=8)
    found = []
    for piece in range(1, count):
        inside = places == piece
        if inside.sum() >= least:
            found.append(Structure(image, inside, 1.0 if scores is None else float(scores[inside].mean())))
    return found


def match(
    truths: Sequence[Structure], found: Sequence[Structure], most: int = 100
) -> tuple[list[float], list[int]]:
    """Which structures found in one image are true: their scores, and for each a number whose bit t is set where
    it hits at threshold t. Greedy by score, as COCO's tool; no more than `most` are looked at.
    """
    best = sorted(found, key=lambda one: -one.score)[:most]
    ious = [[_iou(truth.mask, one.mask) for truth in truths] for one in best]
    hits = [0] * len(best)
    for bit, threshold in enumerate(THRESHOLDS):
        taken: set[int] = set()
        for i, overlaps in enumerate(ious):
            free = [t for t, v in enumerate(overlaps) if t not in taken and v >= threshold - 1e-10]
            if free:
                taken.add(max(free, key=lambda t: overlaps[t]))
                hits[i] |= 1 << bit
    return [one.score for one in best], hits


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def average_precision(
    W: Floats, truths: NDArray[np.int64], scores: Sequence[Sequence[float]], hits: Sequence[Sequence[int]]
) -> Floats:
    """Average precision of one class as COCO defines it (101 points of recall), at each of `THRESHOLDS`.

    W: weights of the images, float64 [B, N]; truths: int64 [N], structures there are in each image; scores, hits: of
    each image as `match` gives them. Returns float64 [B, T]; NaN where no draw holds a true structure.
    """
    image = np.repeat(np.arange(len(truths)), [len(one) for one in scores])
    score = np.array([value for one in scores for value in one], np.float64)
    bits = np.array([value for one in hits for value in one], np.int64)
    order = np.argsort(-score, kind="stable")
    weights, bits, count = W[:, image[order]], bits[order], W @ truths.astype(np.float64)
    out = np.full((len(W), len(THRESHOLDS)), np.nan)
    known = count > 0
    out[known] = 0.0
    if not len(order) or not known.any():
        return out
    seen = np.cumsum(weights[known], 1)
    for bit in range(len(THRESHOLDS)):
        tp = np.cumsum(weights[known] * (bits >> bit & 1), 1)
        precision = np.divide(tp, seen, out=np.zeros_like(tp), where=seen > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        # How many of the points of recall each detection is the first to reach; the point 0 is the first one's.
        reached = np.searchsorted(_RECALLS, tp / count[known, None], side="right")
        steps = np.diff(reached, axis=1, prepend=0)
        out[known, bit] = (envelope * steps).sum(1) / len(_RECALLS)
    return out
