"""The order of samples: exact, the same for any ranks, workers and stops."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.errors import CorpusError, UsageError
from usfmae.stream.plan import Cells, Cursor, Plan, Share, key, permute

counts = st.integers(1, 3000)
seeds = st.integers(0, 2**63)

relaxed = settings(deadline=None, max_examples=60)  # times on a shared machine mean nothing


@relaxed
@given(counts, seeds)
def test_a_permutation_permutes(count: int, seed: int) -> None:
    places = permute(np.arange(count), count, key(seed))
    assert sorted(places.tolist()) == list(range(count))


@relaxed
@given(st.lists(st.tuples(st.integers(1, 90), seeds), min_size=1, max_size=20))
def test_permutations_of_their_own_domains_side_by_side(domains: list[tuple[int, int]]) -> None:
    size = np.repeat([n for n, _ in domains], [n for n, _ in domains])
    keys = np.concatenate([np.repeat(key(seed), n) for n, seed in domains])
    places = permute(np.concatenate([np.arange(n) for n, _ in domains]), size, keys)
    start = 0
    for n, seed in domains:
        assert places[start : start + n].tolist() == permute(np.arange(n), n, key(seed)).tolist()
        start += n


def test_every_order_of_four_is_reached_about_equally_often() -> None:
    keys = key(np.arange(6000))
    places = permute(np.tile(np.arange(4), 6000), 4, np.repeat(keys, 4)).reshape(-1, 4)
    found = Counter(map(tuple, places.tolist()))
    assert len(found) == 24
    assert min(found.values()) > 250 * 0.7 and max(found.values()) < 250 * 1.3


def test_neighbours_do_not_stay_neighbours() -> None:
    places = permute(np.arange(100_000), 100_000, key(7))
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(places, np.arange(100_000))[0, 1]) < 0.02
    assert (np.abs(np.diff(places)) == 1).sum() < 20


def test_a_position_among_a_billion_costs_as_much_as_among_a_million() -> None:
    rng = np.random.default_rng(0)

    def cost(count: int) -> float:
        positions, plan = rng.integers(0, count, 256), Plan(Cells.whole(count), seed=1)
        best = 1.0
        for epoch in range(30):
            start = time.process_time()
            plan.draw(epoch, positions)
            best = min(best, time.process_time() - start)
        return best

    assert cost(10**9) < 3 * cost(10**6) + 1e-4


def shard_cells(sizes: list[int]) -> Cells:
    count = np.array(sizes, np.int64)
    return Cells(np.cumsum(count) - count, count, np.arange(len(count)), np.zeros_like(count))


shard_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    sizes, seed = draw(shard_sizes), draw(seeds)
    if draw(st.booleans()):
        return Plan(Cells.whole(sum(sizes)), seed)
    return Plan(shard_cells(sizes), seed, lanes=draw(st.integers(1, 9)), window=draw(st.integers(1, 80)))


@relaxed
@given(plans(), st.integers(0, 5))
def test_each_row_once_an_epoch_in_either_order(plan: Plan, epoch: int) -> None:
    rows, marks = plan.draw(epoch, np.arange(plan.count))
    assert sorted(rows.tolist()) == list(range(plan.count))
    assert len(set(marks.tolist())) == plan.count


@relaxed
@given(plans(), st.integers(0, 3))
def test_a_plan_survives_pickling_and_any_way_of_asking(plan: Plan, epoch: int) -> None:
    whole, marks = plan.draw(epoch, np.arange(plan.count))
    again = pickle.loads(pickle.dumps(plan))
    for part in (np.arange(plan.count)[::-1], np.arange(0, plan.count, 7), np.array([plan.count - 1] * 2)):
        rows, again_marks = again.draw(epoch, part)
        assert rows.tolist() == whole[part].tolist() and again_marks.tolist() == marks[part].tolist()
    assert again.fingerprint == plan.fingerprint


def test_epochs_and_seeds_differ() -> None:
    plan = Plan(Cells.whole(500), seed=1)
    first, second = plan.draw(0, np.arange(500)), plan.draw(1, np.arange(500))
    other = Plan(Cells.whole(500), seed=2).draw(0, np.arange(500))
    assert (first[0] == second[0]).mean() < 0.05 and (first[0] == other[0]).mean() < 0.05
    assert not set(first[1].tolist()) & set(second[1].tolist())
    assert not set(first[1].tolist()) & set(other[1].tolist())


def test_blocks_windows_and_repeated_draws_have_orders_of_their_own() -> None:
    shards = Plan(shard_cells([50] * 20), seed=1, lanes=4, window=50)
    first = [tuple((shards.draw(epoch, np.arange(0, 1000, 200))[0] // 50).tolist()) for epoch in range(4)]
    assert len(set(first)) == 4  # other shards at the same places of the epoch
    window = Plan(shard_cells([50]), seed=1, lanes=1, window=50)
    assert len({tuple(window.draw(epoch, np.arange(50))[0].tolist()) for epoch in range(4)}) == 4
    zero = np.zeros(1, np.int64)
    thrice = Plan(Cells(zero, zero + 20, zero, zero, zero + 60), seed=1, shuffle=False)
    turns = thrice.draw(0, np.arange(60))[0].reshape(3, 20)
    assert all(sorted(turn.tolist()) == list(range(20)) for turn in turns)
    assert len({tuple(turn.tolist()) for turn in turns}) == 3


def test_unshuffled_rows_stand_as_they_are() -> None:
    plan = Plan(Cells.whole(50), seed=1, shuffle=False)
    assert plan.draw(3, np.arange(50))[0].tolist() == list(range(50))


def test_blocks_read_few_shards_at_a_time_and_each_rank_its_own() -> None:
    plan = Plan(shard_cells([100] * 64), seed=5, lanes=8, window=100)
    rows, _ = plan.draw(0, np.arange(plan.count))
    per_rank = [set((rows[rank::4] // 100).tolist()) for rank in range(4)]
    assert sum(len(shards) for shards in per_rank) <= 64 + 8  # only a shard cut by a lane's end is read twice
    for start in range(0, plan.count, 800):
        assert len(set((rows[start : start + 800] // 100).tolist())) <= 8 * 3


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int, int]:
    world, batch = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    return draw(st.integers(world * batch, 400)), world, batch


@relaxed
@given(shares(), st.sampled_from(["pad", "drop"]))
def test_ranks_together_serve_each_position_once_in_equally_many_steps(
    numbers: tuple[int, int, int], tail: str
) -> None:
    count, world, batch = numbers
    served: Counter[int] = Counter()
    steps = []
    for rank in range(world):
        share, cursor = Share(count, batch, world, rank, tail), Cursor()
        steps.append(0)
        while cursor.epoch == 0:
            positions, padded = share.positions(cursor.samples)
            served.update(positions[: batch - padded].tolist())
            steps[-1] += 1
            cursor = share.advance(cursor)
        assert cursor == Cursor(1, 0, 0, 0)
    assert len(set(steps)) == 1 and steps[0] == Share(count, batch, world, 0, tail).steps()
    assert set(served.values()) == {1}
    wanted = count if tail == "pad" else count // (world * batch) * world * batch
    assert sorted(served) == list(range(wanted))


@relaxed
@given(plans(), st.data())
def test_any_stops_and_restarts_at_any_size_continue_one_order(plan: Plan, data: st.DataObject) -> None:
    """Each leg has its own world size and batch size; together they serve the epochs as one run would."""
    cursor = Cursor(plan=plan.fingerprint)
    seen: dict[int, list[int]] = {0: [], 1: []}
    while cursor.epoch < 2:
        world = data.draw(st.integers(1, min(4, plan.count)))
        batch = data.draw(st.integers(1, max(1, min(9, plan.count // world))))
        ranks = [Share(plan.count, batch, world, rank) for rank in range(world)]
        for _ in range(data.draw(st.integers(1, 6))):
            if cursor.epoch > 1:
                break
            parts = [rank.positions(cursor.samples) for rank in ranks]
            step = np.concatenate([positions[: batch - padded] for positions, padded in parts])
            rows, _ = plan.draw(cursor.epoch, np.sort(step))
            seen[cursor.epoch] += rows.tolist()
            after = {rank.advance(cursor) for rank in ranks}
            assert len(after) == 1
            (cursor,) = after
            assert Cursor.from_dict(cursor.to_dict()) == cursor
    for epoch, rows in seen.items():
        assert rows == plan.draw(epoch, np.arange(plan.count))[0].tolist()


def test_padding_repeats_the_first_positions_and_says_how_many() -> None:
    assert Share(10, 4, 1).steps() == 3
    positions, padded = Share(10, 4, 1).positions(8)
    assert positions.tolist() == [8, 9, 0, 1] and padded == 2


@pytest.mark.parametrize(
    ("count", "batch", "world", "words"),
    [
        (0, 4, 1, "no samples"),
        (3, 1, 4, "3 samples cannot feed 4 ranks; use at most 3"),
        (7, 4, 2, "to at most 6 over all ranks"),
    ],
)
def test_too_few_samples_are_refused(count: int, batch: int, world: int, words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        Share(count, batch, world)


def test_wrong_numbers_are_refused() -> None:
    for arguments in ((10, 0, 1, 0), (10, 1, 0, 0), (10, 1, 2, 2), (10, 1, 2, -1)):
        with pytest.raises(UsageError):
            Share(*arguments)
    with pytest.raises(UsageError, match="tail"):
        Share(10, 1, 1, 0, "wrap")
    with pytest.raises(UsageError, match="window"):
        Plan(Cells.whole(10), 1, lanes=2)


def test_other_data_seeds_and_orders_have_other_fingerprints() -> None:
    plans_ = [
        Plan(Cells.whole(100), 1), Plan(Cells.whole(101), 1), Plan(Cells.whole(100), 2),
        Plan(shard_cells([50, 50]), 1, 2, 50), Plan(shard_cells([40, 60]), 1, 2, 50),
        Plan(shard_cells([60, 40]), 1, 2, 50), Plan(shard_cells([50, 50]), 1, 2, 25),
        Plan(Cells.whole(100), 1, shuffle=False),
        *(Plan(replace(shard_cells([50, 50]), source=np.arange(2), quota=np.array(quota)), 1)
          for quota in ((60, 40), (40, 60))),
    ]  # fmt: skip
    assert len({plan.fingerprint for plan in plans_}) == len(plans_)
    assert all(0 < plan.fingerprint < 2**32 for plan in plans_)
