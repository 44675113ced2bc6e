import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.dedup.search import collapse, pack, pairs_within


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


def test_only_pairs_with_something_new() -> None:
    data = hashes(200, 3, planted=60)
    first, second, _ = pairs_within(data, 30, old=150)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        (i, j) for i, j, _ in brute_force(data, 30) if j >= 150
    }


def test_a_radius_out_of_range() -> None:
    with pytest.raises(ValueError, match="expected 0 to 62"):
        pairs_within(hashes(3, 0), 63)


def test_collapse_keeps_first_places() -> None:
    data = hashes(4, 0)[[2, 0, 2, 1, 0]]
    first, number = collapse(data)
    assert first.tolist() == [0, 1, 3]
    assert number.tolist() == [0, 1, 0, 2, 1]
    assert pack([data[0].tobytes().hex(), data[1].tobytes().hex()]).tolist() == data[:2].tolist()
