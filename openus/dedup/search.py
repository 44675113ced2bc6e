"""All pairs of 256-bit hashes within a Hamming radius, exactly.

Multi-index hashing (Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing, CVPR
2012): cut the hash into m parts with (t + 1) m > radius; two hashes within the radius then differ by at most t
bits in at least one part. So for each part only hashes whose part is equal, or differs in at most t bits, are
compared, and those lie side by side once the hashes are sorted by that part. t is 1 or 2, whichever is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

BITS = 256
_MAX_PART = 20  # bits of a part that are used as address: a table of 2^20 entries
_BLOCK = 1 << 17

Index = NDArray[np.int64]
Words = NDArray[np.uint64]


def pack(hexadecimal: list[str]) -> NDArray[np.uint8]:
    """Hashes as 64 hexadecimal digits to uint8 [N, 32]."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, BITS // 8)


def pairs_within(
    hashes: NDArray[np.uint8], radius: int, old: int = 0
) -> tuple[Index, Index, NDArray[np.uint16]]:
    """All pairs i < j of uint8 [N, 32] hashes at a Hamming distance of at most `radius`.

    The first `old` hashes are taken as compared with each other already: only pairs with j >= `old` come back.
    Memory is about 200 bytes a hash, plus 10 bytes a pair; equal hashes are reported pair by pair, so collapse
    long runs of them beforehand (`collapse`).

    Returns:
        i, j: int64 [P], sorted by (i, j); distance: uint16 [P].

    Raises:
        ValueError: the radius is negative, or leaves parts too short to be of use (over 62).
    """
    if not 0 <= radius <= 62:
        raise ValueError(f"radius {radius}: expected 0 to 62")
    count = len(hashes)
    flips = min((1, 2), key=lambda t: _cost(count, radius, t))
    parts = _parts(radius, flips)
    words = np.ascontiguousarray(hashes).view(np.uint64).reshape(count, BITS // 64)
    found = [_within_part(words, _part(hashes, number, parts), flips, radius, old) for number in range(parts)]
    code = np.unique(
        np.concatenate([block for blocks in found for block in blocks] or [np.empty(0, np.int64)])
    )
    first, second = code // max(1, count), code % max(1, count)
    return first, second, _distance(words, first, second)


def collapse(hashes: NDArray[np.uint8]) -> tuple[Index, Index]:
    """Unique hashes: (position of the first of each, for each hash the number of its unique one)."""
    voids = np.ascontiguousarray(hashes).view(np.dtype((np.void, BITS // 8))).ravel()
    _, first, inverse = np.unique(voids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def _parts(radius: int, flips: int) -> int:
    return radius // (flips + 1) + 1


def _cost(count: int, radius: int, flips: int) -> float:
    """Look-ups and comparisons, roughly, for hashes whose bits are even."""
    parts = _parts(radius, flips)
    width = min(_MAX_PART, BITS // parts)
    lookups = sum(comb(width, bits) for bits in range(flips + 1))
    return float(parts * lookups * count * (1 + 2 * count / 2**width))


def _part(hashes: NDArray[np.uint8], number: int, parts: int) -> NDArray[np.uint32]:
    """Every `parts`-th bit, beginning with bit `number`: spread out, since neighbouring DCT bits go together."""
    key = np.zeros(len(hashes), np.uint32)
    for place, bit in enumerate(range(number, BITS, parts)):
        if place == _MAX_PART:
            break
        key |= ((hashes[:, bit >> 3] >> np.uint8(7 - (bit & 7))) & np.uint8(1)).astype(
            np.uint32
        ) << np.uint32(place)
    return key


def _within_part(words: Words, key: NDArray[np.uint32], flips: int, radius: int, old: int) -> list[Index]:
    order = np.argsort(key, kind="stable")
    key, words = key[order], words[order]
    width = int(key[-1]).bit_length() if len(key) else 0
    starts = np.searchsorted(key, np.arange((1 << width) + 1, dtype=np.uint32))
    places = np.arange(len(key))
    found = list(_compare(words, order, places, places + 1, starts[key + np.uint32(1)], radius, old))
    for bits in [chosen for t in range(1, flips + 1) for chosen in combinations(range(width), t)]:
        # Each pair once: from the hash whose first flipped bit is 0.
        lower = np.flatnonzero((key >> np.uint32(bits[0])) & np.uint32(1) == 0)
        other = key[lower] ^ np.uint32(sum(1 << bit for bit in bits))
        found += _compare(words, order, lower, starts[other], starts[other + np.uint32(1)], radius, old)
    return found


def _compare(
    words: Words, order: Index, left: Index, begin: Index, end: Index, radius: int, old: int
) -> Iterator[Index]:
    """Compare each `left` place with the places from `begin` up to `end`; yield codes i * N + j of the hits."""
    for at in range(0, len(left), _BLOCK):
        piece = slice(at, at + _BLOCK)
        mine, here, stop = left[piece], begin[piece], end[piece]
        while True:
            open_ = here < stop
            if not open_.all():
                mine, here, stop = mine[open_], here[open_], stop[open_]
            if not len(mine):
                break
            # Half of the bits decide nearly always; the rest is looked at only where they do not.
            near = np.bitwise_count(words[mine, 0] ^ words[here, 0]).astype(np.uint16)
            near += np.bitwise_count(words[mine, 1] ^ words[here, 1])
            maybe = np.flatnonzero(near <= radius)
            if len(maybe):
                a, b = mine[maybe], here[maybe]
                hit = _distance(words, a, b) <= radius
                i, j = order[a[hit]], order[b[hit]]
                low, high = np.minimum(i, j), np.maximum(i, j)
                keep = high >= old
                yield low[keep] * len(order) + high[keep]
            here = here + 1


def _distance(words: Words, first: Index, second: Index) -> NDArray[np.uint16]:
    counts: NDArray[np.uint16] = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.uint16)
    return counts
