from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.dedup import search
from openus.dedup.search import Plan, _near_in_runs, choose_plan, pack, pairs_between, pairs_within


def hashes(count: int, seed: int, planted: int = 0) -> np.ndarray:
    """Random hashes; the last `planted` are copies of the first with up to 40 bits flipped."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    for i in range(planted):
        data[-1 - i] = data[i]
        for bit in rng.choice(256, rng.integers(0, 41), replace=False):
            data[-1 - i, bit >> 3] ^= 128 >> (bit & 7)
    return data


def brute_force(data: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    words = data.view(np.uint64)
    found = []
    for i in range(len(data)):
        distance = np.bitwise_count(words[i] ^ words[i + 1 :]).sum(1)
        found += [(i, i + 1 + int(j), int(distance[j])) for j in np.flatnonzero(distance <= radius)]
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 62), st.integers(0, 10_000))
def test_exactly_the_pairs_of_brute_force(radius: int, seed: int) -> None:
    data = hashes(300, seed, planted=80)
    first, second, distance = pairs_within(data, radius)
    assert list(zip(first.tolist(), second.tolist(), distance.tolist(), strict=True)) == brute_force(
        data, radius
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_hashes(count: int) -> None:
    assert len(pairs_within(np.zeros((count, 32), np.uint8), 10)[0]) == (1 if count == 2 else 0)


def test_a_radius_out_of_range() -> None:
    with pytest.raises(ValueError, match="expected 0 to 62"):
        pairs_within(hashes(3, 0), 63)


def test_digits_become_hashes() -> None:
    data = hashes(2, 0)
    assert pack([data[0].tobytes().hex(), data[1].tobytes().hex()]).tolist() == data.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 62), st.integers(0, 10_000))
def test_two_collections_exactly_as_brute_force(radius: int, seed: int) -> None:
    data = hashes(300, seed, planted=120)
    queries, index = data[100:], data[:150]
    table = np.bitwise_count(queries.view(np.uint64)[:, None] ^ index.view(np.uint64)[None]).sum(axis=2)
    first, second, distance = pairs_between(queries, index, radius)
    assert list(zip(first, second, strict=True)) == list(zip(*np.nonzero(table <= radius), strict=True))
    assert (distance == table[first, second]).all()


@pytest.mark.parametrize("cached", [0, 1000])
@pytest.mark.parametrize("radius", [0, 12, 27, 50])
def test_an_index_beyond_the_cache_is_searched_in_order(
    radius: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_CACHED", cached)
    data = hashes(600, 3, planted=240)
    data[::5, ::2] = data[0, ::2]  # long runs of equal parts
    queries, index = data[200:], data[:300]
    table = np.bitwise_count(queries.view(np.uint64)[:, None] ^ index.view(np.uint64)[None]).sum(axis=2)
    same = np.arange(200, 600)[:, None] == np.arange(300)
    first, second, distance = pairs_between(
        queries, index, radius, query_group=np.arange(200, 600), index_group=np.arange(300)
    )
    expected = np.nonzero((table <= radius) & ~same)
    assert list(zip(first, second, strict=True)) == list(zip(*expected, strict=True))
    assert (distance == table[first, second]).all()


def test_pairs_of_one_group_are_left_out() -> None:
    data = hashes(40, 1)
    mine, theirs = np.arange(40) // 2, np.arange(40) % 5
    first, second, _ = pairs_between(data, data[np.arange(40) ^ 3], 5, query_group=mine, index_group=theirs)
    expected = [(i, i ^ 3) for i in range(40) if mine[i] != theirs[i ^ 3]]
    assert 0 < len(expected) < 40
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == expected


@pytest.mark.parametrize("radius", [0, 12, 27, 31, 50])
def test_threads_and_plans_change_nothing(radius: int) -> None:
    data = hashes(3000, 5, planted=900)
    data[::3, ::2] = data[0, ::2]  # long runs of equal parts
    alone, together = pairs_within(data, radius), pairs_within(data, radius, threads=3)
    for one, other in zip(alone, together, strict=True):
        assert (one == other).all()
    plans = {choose_plan(count, count, radius) for count in (10, 10**4, 10**7)}
    assert len(plans) > 1 or radius == 0
    assert list(zip(*(part.tolist() for part in alone), strict=True)) == brute_force(data, radius)


@pytest.mark.parametrize("flips", [0, 2])
def test_long_runs_are_compared_as_short_ones_are(flips: int) -> None:
    """Runs of thousands are compared in blocks, shifted, the rest place by place; all that are near come back."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 12, 5200).astype(np.uint32)
    end = np.repeat([5000, 5200], [5000, 200])
    found = {(int(a), int(b)) for hit in _near_in_runs(values, end, flips) for a, b in zip(*hit, strict=True)}
    near = np.triu(np.bitwise_count(values[:, None] ^ values[None]) <= flips, 1)
    near[:5000, 5000:] = False
    expected = set(zip(*(places.tolist() for places in near.nonzero()), strict=True))
    assert {pair for pair in found if pair[1] < end[pair[0]]} == expected


@pytest.mark.parametrize(
    ("pieces", "flips"), [(8, 3), (16, 3), (7, 2), (15, 2), (6, 3), (9, 2), (5, 4), (1, 0)]
)
def test_wherever_bits_flip_some_sort_does_not_see_them(pieces: int, flips: int) -> None:
    joins = Plan(8, 40, pieces, flips, 32).joins()
    seen = [{bit for start, stop in ranges for bit in range(start, stop)} for ranges in joins]
    edges = [32 * piece // pieces for piece in range(pieces)]
    for flipped in combinations(edges, flips):
        assert any(not bits & set(flipped) for bits in seen)
    assert len(joins) <= {(8, 3): 14, (16, 3): 140, (7, 2): 7, (15, 2): 35}.get((pieces, flips), len(joins))
