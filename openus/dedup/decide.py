"""The one decision over all sources: of pictures that are one and the same, which stays.

The keeper of a group of copies is, in this order of preference:

1. a sample of a held-out set, which always stays, so that benchmarks are as published;
2. one from a source that is not listed as a re-upload of others (`dedup.reuploads` of the corpus);
3. the one with the most pixels in its source;
4. one whose patient is known;
5. the first, in the order of the corpus's sources, of members by name, and of frames.

A sample is dropped only for a join of its own with a sample that stays, never because a chain of joins leads there:
frames of a slow clip are each like the next, and the first is not the last. Clusters, which keep splits apart, do
follow chains.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openus.manifest import PRETRAIN

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Decisions:
    """For each candidate row: keep it?; the key that names its cluster; why it is dropped.

    keep:    bool [N].
    cluster: str [N]; the key of the keeper of all that hangs together.
    reason:  str [N]; "" where kept, else ``duplicate`` or ``leak``.
    detail:  str [N]; its last word names the sample it repeats.
    rank:    int64 [N]; place in the order of preference, 0 first.
    """

    keep: NDArray[np.bool_]
    cluster: NDArray[np.object_]
    reason: NDArray[np.object_]
    detail: NDArray[np.object_]
    rank: Places


@dataclass(frozen=True, slots=True)
class Joins:
    """Pairs of rows found to be near-copies: places [P] and [P] of the candidates, score float [P]."""

    first: Places
    second: Places
    score: NDArray[np.float64]

    @classmethod
    def none(cls) -> Joins:
        empty = np.empty(0, np.int64)
        return cls(empty, empty, np.empty(0))


def decide(
    candidates: pd.DataFrame,
    joins: Joins,
    *,
    exact: bool = True,
    near: bool = True,
    reuploads: Collection[str] = (),
) -> Decisions:
    """Decide which samples stay; see the module for the rule.

    `candidates` has the columns key, set, source, member, index, pixel_sha256, source_width, source_height, patient,
    in the order of preference otherwise equal. Copies of a held-out sample always go, with the reason ``leak``;
    other exact copies where `exact`, other near-copies where `near` is set. Held-out samples always stay.
    """
    held_out = (candidates["set"] != PRETRAIN).to_numpy()
    rank = _rank(candidates, held_out, reuploads)
    group, best = _exact_groups(candidates["pixel_sha256"], rank)
    component = _components(group, len(best), joins)
    leader = pd.Series(rank[best]).groupby(component).transform("min").to_numpy()
    by_rank = np.empty(len(rank), np.int64)
    by_rank[rank] = np.arange(len(rank))
    keys = candidates["key"].to_numpy(object)
    names = (
        candidates["source"] + "/" + candidates["member"] + "#" + candidates["index"].astype(str)
    ).to_numpy(object)

    keeper, score = _near_keepers(group, best, rank, held_out, joins, near)
    reason = np.full(len(rank), "", object)
    detail = np.full(len(rank), "", object)
    repeats = best[group] != np.arange(len(rank))
    for row in np.flatnonzero(~held_out & (repeats | (keeper[group] >= 0))).tolist():
        near_to, own = int(keeper[group[row]]), int(best[group[row]])
        if near_to >= 0:
            reason[row] = "leak" if held_out[near_to] else "duplicate"
            detail[row] = f"near copy ({score[group[row]]:.2f}) of {names[near_to]}"
        elif held_out[own] or exact:
            reason[row] = "leak" if held_out[own] else "duplicate"
            detail[row] = f"same pixels as {names[own]}"
    return Decisions(reason == "", keys[by_rank[leader]][group], reason, detail, rank)


def _rank(candidates: pd.DataFrame, held_out: NDArray[np.bool_], reuploads: Collection[str]) -> Places:
    pixels = candidates["source_width"].astype("int64") * candidates["source_height"].astype("int64")
    order = np.lexsort(
        (
            np.arange(len(candidates)),
            (candidates["patient"] == "").to_numpy(),
            -pixels.to_numpy(),
            candidates["source"].isin(list(reuploads)).to_numpy(),
            ~held_out,
        )
    )
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _exact_groups(pixels: pd.Series, rank: Places) -> tuple[Places, Places]:
    """For each row the number of its group of equal pixels; for each group the row that is preferred."""
    order = np.argsort(rank)
    numbers, uniques = pd.factorize(pixels.to_numpy(object)[order])
    group = np.empty(len(rank), np.int64)
    group[order] = numbers
    _, first = np.unique(numbers, return_index=True)
    assert len(first) == len(uniques)
    return group, order[first]


def _components(group: Places, groups: int, joins: Joins) -> NDArray[np.int32]:
    ends = group[joins.first], group[joins.second]
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(groups, groups))
    component: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return component


def _near_keepers(
    group: Places,
    best: Places,
    rank: Places,
    held_out: NDArray[np.bool_],
    joins: Joins,
    drop: bool,
) -> tuple[Places, NDArray[np.float64]]:
    """For each group the row whose near-copy it is and that stays, or -1; and the score of that join."""
    beside: dict[int, dict[int, float]] = {}
    for a, b, score in zip(
        group[joins.first].tolist(), group[joins.second].tolist(), joins.score.tolist(), strict=True
    ):
        if a != b:
            beside.setdefault(a, {})[b] = max(score, beside.get(a, {}).get(b, 0.0))
            beside.setdefault(b, {})[a] = beside[a][b]
    keeper = np.full(len(best), -1, np.int64)
    scores = np.zeros(len(best))
    for own in sorted(beside, key=lambda number: int(rank[best[number]])):
        if held_out[best[own]]:
            continue
        # Those before it in rank are decided already.
        staying = [
            other
            for other in beside[own]
            if rank[best[other]] < rank[best[own]] and keeper[other] < 0 and (drop or held_out[best[other]])
        ]
        if staying:
            chosen = min(staying, key=lambda number: int(rank[best[number]]))
            keeper[own], scores[own] = best[chosen], beside[own][chosen]
    return keeper, scores
