"""Exact duplicates: one decision over all sources, by decoded pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Decisions:
    """For each candidate row: keep it?; the key that names its cluster; why it is dropped.

    keep:    bool [N].
    cluster: str [N]; the keeper's key.
    reason:  str [N]; "" where kept, else ``duplicate`` or ``leak``.
    detail:  str [N]; names the sample it repeats.
    """

    keep: np.ndarray
    cluster: np.ndarray
    reason: np.ndarray
    detail: np.ndarray


def exact_duplicates(candidates: pd.DataFrame, drop: bool = True) -> Decisions:
    """Decide which of the samples with equal pixels stay.

    `candidates` has the columns key, set, source, member, index, pixel_sha256, in the order of preference
    (sources in the corpus's order, members sorted, frames in time). The first of equal samples is kept, but a
    held-out sample always precedes a pretraining one and is never dropped: a pretraining sample equal to it
    goes, with the reason ``leak``. Samples are compared as they are stored.
    """
    count = len(candidates)
    held_out = (candidates["set"] != "pretrain").to_numpy()
    order = np.lexsort((np.arange(count), ~held_out))  # held-out first, else the given order
    # Number the groups of equal pixels in that order; the first position of each group is its keeper.
    group, _ = pd.factorize(candidates["pixel_sha256"].iloc[order])
    _, first = np.unique(group, return_index=True)
    keeper = np.empty(count, np.int64)
    keeper[order] = order[first[group]]
    repeats = keeper != np.arange(count)
    keys = candidates["key"].to_numpy()
    dropped = repeats & ~held_out & drop
    leak = dropped & held_out[keeper]
    name = (
        candidates["source"] + "/" + candidates["member"] + "#" + candidates["index"].astype(str)
    ).to_numpy()
    reason = np.where(leak, "leak", np.where(dropped, "duplicate", ""))
    detail = np.where(dropped, np.char.add("same pixels as ", name[keeper].astype(str)), "")
    return Decisions(~dropped, keys[keeper], reason, detail)
