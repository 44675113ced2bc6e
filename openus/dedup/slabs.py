"""The search for near-copies, cut into slabs: each is a task of its own, and one machine need not hold them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openus.dedup.prints import RADIUS
from openus.dedup.search import pairs_between

BYTES_A_HASH = 200
"""Memory that searching a slab takes for each hash of its index, the hash itself included."""

Slab = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Hashes, uint8 [n, 32], and the clip and the strip of each, int64 [n]."""


def search_slab(index: Slab, queries: Slab, threads: int) -> NDArray[np.int64]:
    """Strips that meet, int64 [P, 2]: one of the queries, one of the index; frames of one clip are left out."""
    first, second, _ = pairs_between(
        queries[0], index[0], RADIUS, query_group=queries[1], index_group=index[1], threads=threads
    )
    return np.unique(np.stack([queries[2][first], index[2][second]], axis=1), axis=0)
