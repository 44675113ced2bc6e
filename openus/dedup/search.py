"""All pairs of 256-bit hashes within a Hamming radius, exactly.

Pigeonhole, twice (after Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing, CVPR
2012, who use it once). Cut the hash into m parts with (t + 1) m > radius: two hashes within the radius differ by
at most t bits in at least one part. Cut each part into s pieces: two parts that differ by at most t bits agree in
at least s - t of the pieces. So for each part and each choice of s - t of its pieces, hashes that agree there are
brought side by side by sorting, compared first in that part (one word, read in order), and in whole where the
part allows it. Sorting and reading in order suit the memory better than looking keys up one by one. t and s come
from a model of the cost; the result does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

BITS = 256
_WORD = 64
_BLOCK = 1 << 16  # places compared at a time: their words stay in the cache

Index = NDArray[np.int64]
Hashes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Values = NDArray[np.uint64] | NDArray[np.uint32]
Pairs = tuple[Index, Index, NDArray[np.uint16]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the bits are cut: `parts` parts of `width` bits, each into `pieces`, of which `flips` may differ."""

    parts: int
    width: int
    pieces: int
    flips: int

    def joins(self) -> Iterator[tuple[int, int]]:
        """(part, mask of the bits of that part that must agree), one for each sort."""
        edges = [self.width * piece // self.pieces for piece in range(self.pieces + 1)]
        masks = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
        for part in range(self.parts):
            for chosen in combinations(masks, self.pieces - self.flips):
                yield part, sum(chosen)


def pack(hexadecimal: list[str]) -> Hashes:
    """Hashes as 64 hexadecimal digits to uint8 [N, 32]."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, BITS // 8)


def pairs_within(hashes: Hashes, radius: int, old: int = 0, threads: int = 1) -> Pairs:
    """All pairs i < j of uint8 [N, 32] hashes at a Hamming distance of at most `radius`.

    The first `old` hashes are taken as compared with each other already: only pairs with j >= `old` come back.
    Memory is about 150 bytes a hash and thread, plus 30 bytes a pair; equal hashes are reported pair by pair, so
    collapse long runs of them beforehand (`collapse`).

    Returns:
        i, j: int64 [P], sorted by (i, j); distance: uint16 [P].

    Raises:
        ValueError: the radius is negative, or leaves parts too short to be of use (over 62).
    """
    plan = choose_plan(len(hashes), len(hashes), radius)
    words = _as_words(hashes)
    found = _run(partial(_self_join, hashes, words, plan, radius, old), plan, threads)
    return _unique(found, words, words)


def pairs_between(
    queries: Hashes,
    index: Hashes,
    radius: int,
    *,
    query_group: Index | None = None,
    index_group: Index | None = None,
    threads: int = 1,
) -> Pairs:
    """All (query, index) pairs of uint8 [Q, 32] and [N, 32] hashes at a Hamming distance of at most `radius`.

    With the groups, int64 [Q] and [N], pairs of one group (views of one picture, frames of one clip) are left out.

    Returns:
        query, index: int64 [P], sorted; distance: uint16 [P].

    Raises:
        ValueError: the radius is out of range (0 to 62).
    """
    plan = choose_plan(len(queries), len(index), radius)
    left, right = _as_words(queries), _as_words(index)
    groups = None if query_group is None or index_group is None else (query_group, index_group)
    join = partial(_cross_join, queries, index, left, right, groups, plan, radius)
    return _unique(_run(join, plan, threads), left, right)


def collapse(hashes: Hashes) -> tuple[Index, Index]:
    """Unique hashes: (position of the first of each, for each hash the number of its unique one)."""
    voids = np.ascontiguousarray(hashes).view(np.dtype((np.void, BITS // 8))).ravel()
    _, first, inverse = np.unique(voids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def choose_plan(queries: int, index: int, radius: int) -> Plan:
    """The cheapest plan for hashes whose bits are even; raise `ValueError` for a radius out of range."""
    if not 0 <= radius <= 62:
        raise ValueError(f"radius {radius}: expected 0 to 62")
    plans = []
    for flips in range(5):
        parts = radius // (flips + 1) + 1
        width = min(48, BITS // parts)
        plans += [Plan(parts, width, pieces, flips) for pieces in range(flips + 1, min(flips + 7, width + 1))]
    return min(plans, key=lambda plan: _cost(plan, queries, index))


def _cost(plan: Plan, queries: int, index: int) -> float:
    """Nanoseconds, roughly: sorting, comparing parts, comparing whole hashes that a part lets through."""
    bits = plan.width * (plan.pieces - plan.flips) / plan.pieces
    joins = plan.parts * comb(plan.pieces, plan.flips)
    passing = float(sum(comb(plan.width, n) for n in range(plan.flips + 1))) / 2.0**plan.width
    sorting = 35.0 * (queries + index) + 100_000
    comparing = 3.0 * queries * index / 2.0**bits
    return float(joins * (sorting + comparing) + 400.0 * plan.parts * queries * index * passing)


def _as_words(hashes: Hashes) -> Words:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), BITS // _WORD)


def _part(hashes: Hashes, number: int, plan: Plan) -> Words:
    """Every `parts`-th bit, beginning with bit `number`: spread out, since neighbouring DCT bits go together."""
    part = np.zeros(len(hashes), np.uint64)
    for place, bit in enumerate(range(number, BITS, plan.parts)):
        if place == plan.width:
            break
        column = (hashes[:, bit >> 3] >> np.uint8(7 - (bit & 7))) & np.uint8(1)
        part |= column.astype(np.uint64) << np.uint64(place)
    return part


def _sorted(part: Words, mask: int) -> tuple[Words, Index]:
    """The masked bits of a part, ascending, and where each stood."""
    key = part & np.uint64(mask)
    low = mask & -mask  # masks may have gaps; shifting the lowest bit down leaves room for the position
    shift = low.bit_length() - 1
    room = max(1, len(part) - 1).bit_length()
    if (mask >> shift).bit_length() + room > _WORD:
        order = np.argsort(key, kind="stable")
        return key[order], order
    # Sorting one word that holds both is several times faster than an argsort.
    both = np.sort(((key >> np.uint64(shift)) << np.uint64(room)) | np.arange(len(part), dtype=np.uint64))
    order = (both & np.uint64((1 << room) - 1)).astype(np.int64)
    return (both >> np.uint64(room)) << np.uint64(shift), order


def _run(join: partial[list[tuple[Index, Index]]], plan: Plan, threads: int) -> list[tuple[Index, Index]]:
    """All joins of a plan, in threads (NumPy works outside the interpreter's lock)."""
    by_part: dict[int, list[int]] = {}
    for part, mask in plan.joins():
        by_part.setdefault(part, []).append(mask)
    if threads <= 1:
        return [hit for part, masks in by_part.items() for hit in join(part, masks)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(join, part, masks) for part, masks in by_part.items()]
        return [hit for job in jobs for hit in job.result()]


def _self_join(
    hashes: Hashes, words: Words, plan: Plan, radius: int, old: int, part: int, masks: list[int]
) -> list[tuple[Index, Index]]:
    value = _part(hashes, part, plan)
    found = []
    for mask in masks:
        key, order = _sorted(value, mask)
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True)) if len(key) else np.empty(0, np.int64)
        end = np.repeat(last + 1, np.diff(last, prepend=-1))
        ordered: Values = value[order].astype(np.uint32) if plan.width <= 32 else value[order]
        hits = list(_near_in_runs(ordered, end, plan.flips))
        if not hits:
            continue
        i, j = (order[np.concatenate(places)] for places in zip(*hits, strict=True))
        low, high = np.minimum(i, j), np.maximum(i, j)
        keep = np.flatnonzero(high >= old) if old else slice(None)
        found += _near(words, words, low[keep], high[keep], radius)
    return found


def _cross_join(
    queries: Hashes,
    index: Hashes,
    left: Words,
    right: Words,
    groups: tuple[Index, Index] | None,
    plan: Plan,
    radius: int,
    part: int,
    masks: list[int],
) -> list[tuple[Index, Index]]:
    mine, theirs = _part(queries, part, plan), _part(index, part, plan)
    found = []
    for mask in masks:
        (query_key, query_order), (index_key, index_order) = _sorted(mine, mask), _sorted(theirs, mask)
        begin = np.searchsorted(index_key, query_key, "left")
        end = np.searchsorted(index_key, query_key, "right")
        for a, b in _near_parts(mine[query_order], theirs[index_order], begin, end, plan.flips):
            i, j = query_order[a], index_order[b]
            if groups is not None:
                other = np.flatnonzero(groups[0][i] != groups[1][j])
                i, j = i[other], j[other]
            found += _near(left, right, i, j, radius)
    return found


def _near_in_runs(values: Values, end: Index, flips: int) -> Iterator[tuple[Index, Index]]:
    """Compare each place with the later ones of its run (up to `end`); yield those near in the part.

    While many runs reach that far, whole blocks are compared with themselves shifted, which costs a nanosecond a
    place; pairs that cross the border of a run are in no one's way, as what counts is that they are near.
    """
    count = len(values)
    for at in range(0, count, _BLOCK):
        stop = min(at + _BLOCK, count)
        rest = end[at:stop] - np.arange(at, stop)
        reaching = (stop - at) - np.cumsum(np.bincount(rest))  # places whose run holds more than d others
        shift, shifts = 1, len(reaching) - 1
        while shift <= shifts and reaching[shift] > _BLOCK >> 4:
            size = min(stop, count - shift) - at
            mixed = values[at : at + size] ^ values[at + shift : at + shift + size]
            hit = np.flatnonzero(np.bitwise_count(mixed) <= flips) + at
            yield hit, hit + shift
            shift += 1
        left = np.flatnonzero(rest > shift) + at
        for a, b in _near_parts(values[left], values, left + shift, end[left], flips):
            yield left[a], b


def _near_parts(
    mine: Values,
    theirs: Values,
    begin: Index,
    end: Index,
    flips: int,
) -> Iterator[tuple[Index, Index]]:
    """Compare each place of `mine` with the places `begin` up to `end` of `theirs`; yield those near in the part."""
    for at in range(0, len(mine), _BLOCK):
        left = np.flatnonzero(begin[at : at + _BLOCK] < end[at : at + _BLOCK]) + at
        here, stop, value = begin[left], end[left], mine[left]
        while len(left):
            hit = np.flatnonzero(np.bitwise_count(value ^ theirs[here]) <= flips)
            if len(hit):
                yield left[hit], here[hit]
            here = here + 1
            more = np.flatnonzero(here < stop)
            if len(more) < len(left):
                left, here, stop, value = left[more], here[more], stop[more], value[more]


def _near(left: Words, right: Words, i: Index, j: Index, radius: int) -> list[tuple[Index, Index]]:
    if not len(i):
        return []
    hit = np.flatnonzero(_distance(left, right, i, j) <= radius)
    return [(i[hit], j[hit])] if len(hit) else []


def _unique(found: list[tuple[Index, Index]], left: Words, right: Words) -> Pairs:
    """Each pair once, sorted, with its distance."""
    empty = np.empty(0, np.int64)
    base = max(1, len(right))
    code = np.unique(np.concatenate([i * base + j for i, j in found]) if found else empty)
    first, second = code // base, code % base
    return first, second, _distance(left, right, first, second)


def _distance(left: Words, right: Words, first: Index, second: Index) -> NDArray[np.uint16]:
    counts: NDArray[np.uint16] = np.bitwise_count(left.take(first, axis=0) ^ right.take(second, axis=0)).sum(
        axis=1, dtype=np.uint16
    )
    return counts
