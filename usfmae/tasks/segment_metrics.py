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

    Returns float64 [C] each. A class that neither mask holds scores 1: there was nothing to find, and nothing
    was found.
    """
    dice, iou = np.ones(classes), np.ones(classes)
    for c in range(1, classes + 1):
        a, b = truth == c, decision == c
        both, total = int((a & b).sum()), int(a.sum()) + int(b.sum())
        if total:
            dice[c - 1] = 2 * both / total
            iou[c - 1] = both / (total - both)
    return dice, iou


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


def average_precision(
    truths: Sequence[Structure], found: Sequence[Structure], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, float]:
    """Average precision by IoU threshold: 101-point interpolation, greedy matching by score, as COCO's tool.

    NaN where there is no true structure. Structures of one image are matched only with that image's.
    """
    if not truths:
        return dict.fromkeys(thresholds, float("nan"))
    by_image: dict[int, list[int]] = {}
    for i, truth in enumerate(truths):
        by_image.setdefault(truth.image, []).append(i)
    # COCO looks at no more than a hundred detections an image.
    order: list[int] = []
    seen: dict[int, int] = {}
    for i in sorted(range(len(found)), key=lambda i: -found[i].score):
        seen[found[i].image] = seen.get(found[i].image, 0) + 1
        if seen[found[i].image] <= 100:
            order.append(i)
    ious = [{t: _iou(truths[t].mask, found[i].mask) for t in by_image.get(found[i].image, [])} for i in order]
    return {threshold: _at(threshold, len(truths), ious) for threshold in thresholds}


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _at(threshold: float, truths: int, ious: list[dict[int, float]]) -> float:
    taken: set[int] = set()
    hits = np.zeros(len(ious))
    for i, overlaps in enumerate(ious):
        free = {t: value for t, value in overlaps.items() if t not in taken and value >= threshold - 1e-10}
        if free:
            taken.add(max(free, key=lambda t: free[t]))
            hits[i] = 1
    if not len(hits):
        return 0.0
    tp = np.cumsum(hits)
    recall, precision = tp / truths, tp / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    reached = places < len(envelope)
    return float(np.where(reached, envelope[np.minimum(places, len(envelope) - 1)], 0.0).mean())
