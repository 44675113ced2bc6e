"""All pairs of 256-bit hashes within a Hamming radius, exactly.

Pigeonhole, twice (after Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing, CVPR
2012, who use it once). Cut the hash into m parts with (t + 1) m > radius: two hashes within the radius differ by
at most t bits in at least one part. Cut each part into s pieces and take sets of pieces such that any t pieces lie
in one of them: two parts that differ by at most t bits agree in all pieces outside one of the sets. So for each
part and each set, hashes that agree outside the set are brought side by side by sorting, compared first in that
part (one word, read in order), and in whole where the part allows it. Sorting (by radix) and reading in order suit
the memory better than looking keys up one by one. t and s come from a model of the cost; the result does not
depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import combinations
from math import comb
from operator import xor

import numpy as np
from numpy.typing import NDArray

BITS = 256
_WORD = 64
_RADIX = 16  # bits that NumPy sorts by radix
_SPLIT = 4  # bits by which many values are cut into batches
_BLOCK = 1 << 16  # places compared at a time: their words stay in the cache
_CACHED = 4 * _BLOCK  # hashes whose parts stay in the cache, in whatever order they are looked at
_SHIFTS = 16  # shifts of a block compared at a time
_PAIRS = 1 << 17  # pairs written out at a time

Index = NDArray[np.int64]
Hashes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Values = NDArray[np.uint64] | NDArray[np.uint32] | NDArray[np.uint16]
Pairs = tuple[Index, Index, NDArray[np.uint16]]


Ranges = tuple[tuple[int, int], ...]
"""Bits of a part, each range as (first, one past the last)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the bits are cut: `parts` parts of `width` bits, the first `keyed` of each into `pieces`, of which `flips`
    may differ."""

    parts: int
    width: int
    pieces: int
    flips: int
    keyed: int

    def joins(self) -> list[Ranges]:
        """For each sort of a part, the bits that must agree."""
        edges = [self.keyed * piece // self.pieces for piece in range(self.pieces + 1)]
        found = []
        for loose in _covering(self.pieces, self.flips):
            ranges: list[tuple[int, int]] = []
            for piece in sorted(set(range(self.pieces)) - set(loose)):
                start = ranges.pop()[0] if ranges and ranges[-1][1] == edges[piece] else edges[piece]
                ranges.append((start, edges[piece + 1]))
            found.append(tuple(ranges))
        return found


@cache
def _covering(pieces: int, flips: int) -> tuple[tuple[int, ...], ...]:
    """Sets of pieces such that any `flips` of them lie in one.

    All subsets of that size will do. Where there is a Steiner system, it needs fewer sets and each leaves out
    more: of the binary words of n bits, the quadruples with the sum zero hold each triple once, and of those
    but zero, the triples hold each pair once. (14 quadruples of 8 stand against 20 triples of 6.)
    """
    words = range(3 - flips, pieces + 3 - flips)
    if flips in (2, 3) and pieces > 4 and (words.stop & (words.stop - 1)) == 0:
        return tuple(
            tuple(word - words.start for word in chosen)
            for chosen in combinations(words, flips + 1)
            if reduce(xor, chosen) == 0
        )
    return tuple(combinations(range(pieces), flips))


def pack(hexadecimal: list[str]) -> Hashes:
    """Hashes as 64 hexadecimal digits to uint8 [N, 32]."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, BITS // 8)


def pairs_within(hashes: Hashes, radius: int, threads: int = 1) -> Pairs:
    """All pairs i < j of uint8 [N, 32] hashes at a Hamming distance of at most `radius`.

    Memory is about 150 bytes a hash and thread, plus 30 bytes a pair; equal hashes are reported pair by pair.

    Returns:
        i, j: int64 [P], sorted by (i, j); distance: uint16 [P].

    Raises:
        ValueError: the radius is negative, or leaves parts too short to be of use (over 62).
    """
    plan = choose_plan(len(hashes), len(hashes), radius)
    words = _as_words(hashes)
    found = _run(partial(_self_join, hashes, words, plan, radius), plan, threads)
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
    plan = choose_plan(len(queries), len(index), radius, written_out=True)
    left, right = _as_words(queries), _as_words(index)
    groups = None if query_group is None or index_group is None else (query_group, index_group)
    join = partial(_cross_join, queries, index, left, right, groups, plan, radius)
    return _unique(_run(join, plan, threads), left, right)


def choose_plan(queries: int, index: int, radius: int, written_out: bool = False) -> Plan:
    """The cheapest plan for hashes whose bits are even; raise `ValueError` for a radius out of range.

    `written_out`: pairs are written out before they are compared, as between two collections, which costs more.
    """
    if not 0 <= radius <= 62:
        raise ValueError(f"radius {radius}: expected 0 to 62")
    plans: list[Plan] = []
    for flips in range(5):
        parts = radius // (flips + 1) + 1
        width = min(48, BITS // parts)
        for keyed in {width, min(width, 2 * _RADIX)}:
            most = min(flips + 7, keyed + 1)
            plans += [Plan(parts, width, pieces, flips, keyed) for pieces in range(flips + 1, most)]
    return min(plans, key=lambda plan: (_cost(plan, queries, index, written_out), plan.keyed))


def _cost(plan: Plan, queries: int, index: int, written_out: bool) -> float:
    """Nanoseconds, roughly: sorting, comparing parts, comparing whole hashes that a part lets through."""
    sets = _covering(plan.pieces, plan.flips)
    bits = plan.keyed * (plan.pieces - len(sets[0])) / plan.pieces
    joins = plan.parts * len(sets)
    passing = float(sum(comb(plan.width, n) for n in range(plan.flips + 1))) / 2.0**plan.width
    few = bits <= _RADIX
    one, each = 15.0 if few else 30.0, 0.6 if plan.width <= 32 else 0.8
    if written_out and index <= _CACHED:
        each = 10.0
    elif written_out:
        one, each = 35.0 if few else 120.0, 5.0
    sorting = one * (queries + index) + 300_000
    comparing = each * queries * index / 2.0**bits
    return float(joins * (sorting + comparing) + 100.0 * plan.parts * queries * index * passing)


def _as_words(hashes: Hashes) -> Words:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), BITS // _WORD)


def _part(hashes: Hashes, number: int, plan: Plan) -> Values:
    """Every `parts`-th bit, beginning with bit `number`: spread out, since neighbouring DCT bits go together."""
    chosen = np.arange(number, BITS, plan.parts)[: plan.width]
    byte, mask = chosen >> 3, (128 >> (chosen & 7)).astype(np.uint8)
    size = 4 if plan.width <= 32 else 8
    part = np.zeros((len(hashes), size), np.uint8)
    for at in range(0, len(hashes), _BLOCK):  # in the cache
        block = hashes[at : at + _BLOCK]
        if plan.parts != 8:  # of eight parts each has one bit of every byte
            block = block[:, byte]
        packed = np.packbits(block & mask, axis=1)
        part[at : at + _BLOCK, : packed.shape[1]] = packed
    return part.view("<u4" if size == 4 else "<u8").ravel()


def _sorted(part: Values, ranges: Ranges) -> tuple[Values, Index]:
    """The bits of a part in `ranges`, ascending, and where each stood."""
    bits = sum(stop - start for start, stop in ranges)
    if bits <= _RADIX:
        # So few bits NumPy sorts by radix, which is several times faster than sorting by comparisons.
        key = _gathered(part, ranges).astype(np.uint16)
        order = np.argsort(key, kind="stable")
        return key[order], order
    wide = _gathered(part, ranges)
    order = np.arange(len(part))
    for shift in range(0, bits, _RADIX):
        digit = (wide[order] >> wide.dtype.type(shift)).astype(np.uint16)
        order = order[np.argsort(digit, kind="stable")]
    return wide[order], order


def _gathered(part: Values, ranges: Ranges) -> Values:
    """The bits of each value in `ranges`, moved together."""
    key, room = np.zeros_like(part), 0
    for start, stop in ranges:
        kind = part.dtype.type
        key |= ((part >> kind(start)) & kind((1 << (stop - start)) - 1)) << kind(room)
        room += stop - start
    return key


def _run(
    join: Callable[[int, list[Ranges]], list[tuple[Index, Index]]], plan: Plan, threads: int
) -> list[tuple[Index, Index]]:
    """All joins of a plan, in threads (NumPy works outside the interpreter's lock)."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        jobs = [pool.submit(join, part, plan.joins()) for part in range(plan.parts)]
        return [hit for job in jobs for hit in job.result()]


def _self_join(
    hashes: Hashes, words: Words, plan: Plan, radius: int, part: int, joins: list[Ranges]
) -> list[tuple[Index, Index]]:
    found = []
    for place, value, ranges in _in_cache(_part(hashes, part, plan), joins):
        key, order = _sorted(value, ranges)
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True)) if len(key) else np.empty(0, np.int64)
        end = np.repeat(last + 1, np.diff(last, prepend=-1))
        hits = list(_near_in_runs(value[order], end, plan.flips))
        if not hits:
            continue
        i, j = (place[order[np.concatenate(places)]] for places in zip(*hits, strict=True))
        for first, second in _near(words, words, i, j, radius):
            found.append((np.minimum(first, second), np.maximum(first, second)))
    return found


def _in_cache(value: Values, joins: list[Ranges]) -> Iterator[tuple[Index, Values, Ranges]]:
    """Batches that agree in the first bits of a join: their places, their values, the bits still to agree.

    Joins that begin with the same bits share the batches, which are small enough to be sorted in the cache.
    """
    if len(value) <= _CACHED:
        yield from ((np.arange(len(value)), value, ranges) for ranges in joins)
        return
    for start in sorted({ranges[0][0] for ranges in joins}):
        alike = [ranges for ranges in joins if ranges[0][0] == start]
        bits = min(_SPLIT, *(ranges[0][1] - start for ranges in alike))
        kind = value.dtype.type
        digit = ((value >> kind(start)) & kind((1 << bits) - 1)).astype(np.uint8)
        order = np.argsort(digit, kind="stable")
        value_sorted, edge = value[order], 0
        for count in np.bincount(digit, minlength=1 << bits).tolist():
            batch = slice(edge, edge + count)
            for (_, stop), *others in alike:
                yield order[batch], value_sorted[batch], ((start + bits, stop), *others)
            edge += count


def _cross_join(
    queries: Hashes,
    index: Hashes,
    left: Words,
    right: Words,
    groups: tuple[Index, Index] | None,
    plan: Plan,
    radius: int,
    part: int,
    joins: list[Ranges],
) -> list[tuple[Index, Index]]:
    mine, theirs = _part(queries, part, plan), _part(index, part, plan)
    found = []
    for ranges in joins:
        key, order = _sorted(theirs, ranges)
        if len(theirs) <= _CACHED:  # sorting the queries, too, would cost more than it saves
            wanted, place = _gathered(mine, ranges), np.arange(len(mine))
        else:
            wanted, place = _sorted(mine, ranges)
        if key.dtype == np.uint16:  # few enough to count: a look in a table is much cheaper than a search
            counts = np.bincount(key, minlength=1 << _RADIX)
            end = np.cumsum(counts)[wanted]
            begin = end - counts[wanted]
        else:
            begin, end = np.searchsorted(key, wanted, "left"), np.searchsorted(key, wanted, "right")
        for a, b in _near_parts(mine[place], theirs[order], begin, end, plan.flips):
            i, j = place[a], order[b]
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
        shifts = int(np.count_nonzero(reaching > _BLOCK >> 4))
        for first in range(1, shifts, _SHIFTS):
            hit, by = _shifted(values, at, stop, range(first, min(first + _SHIFTS, shifts)), flips)
            yield hit, hit + by
        left = np.flatnonzero(rest > max(1, shifts)) + at
        for a, b in _near_parts(values[left], values, left + max(1, shifts), end[left], flips):
            yield left[a], b


def _shifted(values: Values, at: int, stop: int, shifts: range, flips: int) -> tuple[Index, Index]:
    """Places from `at` up to `stop` that are near in the part to the one `shift` further on; and that shift."""
    near = np.zeros((len(shifts), stop - at), bool)
    mixed, bits = np.empty(stop - at, values.dtype), np.empty(stop - at, np.uint8)
    for row, shift in zip(near, shifts, strict=True):
        size = min(stop, len(values) - shift) - at
        here, there = values[at : at + size], values[at + shift : at + shift + size]
        np.bitwise_xor(here, there, out=mixed[:size])
        np.bitwise_count(mixed[:size], out=bits[:size])
        np.less_equal(bits[:size], flips, out=row[:size])
    by, place = np.divmod(near.ravel().nonzero()[0], stop - at)
    return place + at, by + shifts.start


def _near_parts(
    mine: Values,
    theirs: Values,
    begin: Index,
    end: Index,
    flips: int,
) -> Iterator[tuple[Index, Index]]:
    """Compare each place of `mine` with the places `begin` up to `end` of `theirs`; yield those near in the part."""
    counts = np.maximum(end - begin, 0)
    total = np.cumsum(counts)
    at = base = 0
    while at < len(mine):
        stop = max(at + 1, int(np.searchsorted(total, base + _PAIRS, "right")))
        times = counts[at:stop]
        first = begin[at:stop] - (total[at:stop] - times - base)
        here = np.arange(int(total[stop - 1]) - base) + np.repeat(first, times)
        hit = np.flatnonzero(np.bitwise_count(np.repeat(mine[at:stop], times) ^ theirs[here]) <= flips)
        if len(hit):
            yield np.repeat(np.arange(at, stop), times)[hit], here[hit]
        at, base = stop, int(total[stop - 1])


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
