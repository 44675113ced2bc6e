"""Weights of sources: shares, caps and organ balance, exact over epochs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.errors import UsageError
from usfmae.stream.index import open_index
from usfmae.stream.mixture import Mixture, make_plan

groups = st.lists(st.integers(1, 500), min_size=1, max_size=8)

relaxed = settings(deadline=None, max_examples=60)  # times on a shared machine mean nothing


def quotas(mixture: Mixture, counts: list[int], anatomy: list[int] | None = None) -> list[int]:
    n = np.array(counts, np.int64)
    source = np.arange(len(n))
    organs = source if anatomy is None else np.array(anatomy)
    return mixture.quotas(n, source, organs, [f"s{i}" for i in source]).tolist()


@relaxed
@given(groups, st.floats(0.2, 20), st.integers(1, 5000))
def test_quotas_sum_exactly_and_leave_no_source_out(
    counts: list[int], temperature: float, samples: int
) -> None:
    samples = max(samples, len(counts))
    found = quotas(Mixture(temperature=temperature, samples=samples), counts)
    assert sum(found) == samples and min(found) >= 1


@relaxed
@given(groups)
def test_temperature_one_keeps_the_data_as_they_are(counts: list[int]) -> None:
    assert quotas(Mixture(), counts) == counts


def test_temperature_flattens() -> None:
    assert quotas(Mixture(temperature=2), [100, 10_000]) == [918, 9182]
    assert quotas(Mixture(temperature=1e9), [100, 10_000]) == [5050, 5050]


def test_no_temperature_is_too_low_for_a_float() -> None:
    assert quotas(Mixture(temperature=1e-3), [100, 10_000, 10**9]) == [0, 0, 10**9 + 10_100]
    assert quotas(Mixture(temperature=1e-3, organs=1e-3), [10**9, 5, 7], anatomy=[0, 1, 1]) == [
        10**9 + 12,
        0,
        0,
    ]
    assert quotas(Mixture(temperature=math.inf, organs=math.inf), [10**6, 4, 7], anatomy=[0, 1, 1]) == [
        500_005, 250_003, 250_003
    ]  # fmt: skip


def test_caps_and_repeats_hold_and_the_rest_shares_in_proportion() -> None:
    assert quotas(Mixture(cap=0.5), [8000, 1500, 500]) == [5000, 3750, 1250]
    assert quotas(Mixture(temperature=1e9, repeats=2), [100, 10_000]) == [200, 9900]


def test_organs_are_balanced_before_their_sources() -> None:
    found = quotas(Mixture(organs=1e9), [6000, 3000, 1000], anatomy=[0, 0, 1])
    assert found == [3333, 1667, 5000]


def test_factors_leave_out_and_stress() -> None:
    assert quotas(Mixture(factors={"s0": 0}, samples=300), [100, 100, 100]) == [0, 150, 150]
    assert quotas(Mixture(factors={"s1": 2}), [100, 100, 100]) == [75, 150, 75]


def test_impossible_mixtures_are_refused() -> None:
    with pytest.raises(UsageError, match="40%"):
        quotas(Mixture(cap=0.2), [100, 100])
    with pytest.raises(UsageError, match="did you mean 's0'"):
        quotas(Mixture(factors={"s00": 1}), [100, 100])
    with pytest.raises(UsageError, match="nothing is left"):
        quotas(Mixture(factors={"s0": 0}), [100])
    for wrong in ({"temperature": 0}, {"temperature": math.nan}, {"cap": 0}, {"cap": 1.5}, {"repeats": -1},
                  {"factors": {"s0": math.inf}}, {"factors": {"s0": math.nan}}):  # fmt: skip
        with pytest.raises(UsageError):
            Mixture(**wrong)


@pytest.mark.parametrize("order", ["global", "blocks"])
def test_over_epochs_every_sample_of_a_source_is_drawn_alike(corpus: Path, order: str) -> None:
    index = open_index(corpus)
    plan = make_plan(index, 3, order=order, mixture=Mixture(temperature=2, cap=0.4), lanes=2)
    epochs = 60
    drawn = [plan.draw(epoch, np.arange(plan.count)) for epoch in range(epochs)]
    times = np.bincount(np.concatenate([rows for rows, _ in drawn]), minlength=index.count)
    assert plan.cells.quota is not None
    for source, quota in enumerate(plan.cells.quota):
        mine = times[index.source_of == source]
        assert mine.sum() == quota * epochs
        assert np.ptp(mine) <= (1 if order == "global" else 8)
    for rows, seeds in drawn:  # a sample drawn twice in an epoch is augmented twice, differently
        assert len(rows) == plan.count and len(set(seeds.tolist())) == plan.count


def test_a_subset_serves_its_rows_only(corpus: Path) -> None:
    index = open_index(corpus)
    rows = np.array([3, 5, 8, 13, 21, 34])
    for order in ("global", "blocks", "none"):
        plan = make_plan(index, 1, order=order, rows=rows)
        found = plan.draw(0, np.arange(plan.count))[0]
        assert sorted(found.tolist()) == rows.tolist()
    assert make_plan(index, 1, order="none", rows=rows).draw(0, np.arange(6))[0].tolist() == rows.tolist()
    others = make_plan(index, 1, rows=np.array([3, 5, 8, 13, 22, 34]))
    assert others.fingerprint != make_plan(index, 1, rows=rows).fingerprint
    with pytest.raises(UsageError, match="distinct"):
        make_plan(index, 1, rows=np.array([1, 1]))
    with pytest.raises(UsageError, match="order 'sorted' is unknown"):
        make_plan(index, 1, order="sorted")
