"""The decision: who stays, who goes and why, on small tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.dedup.decide import Joins, decide


def candidates(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows that differ in all but what is given."""
    common = {
        "set": "pretrain",
        "source": "s",
        "index": 0,
        "patient": "p",
        "source_width": 9,
        "source_height": 9,
    }
    return pd.DataFrame(
        [
            {"key": f"k{i}", "member": f"m{i}", "pixel_sha256": f"x{i}"} | common | row
            for i, row in enumerate(rows)
        ]
    )


def joined(*pairs: tuple[int, int]) -> Joins:
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return Joins(first, second, np.full(len(pairs), 0.95))


EQUAL = {"pixel_sha256": "same"}


def test_the_first_of_equal_samples_stays() -> None:
    found = decide(candidates(EQUAL, {}, EQUAL, EQUAL), Joins.none())
    assert found.keep.tolist() == [True, True, False, False]
    assert found.cluster.tolist() == ["k0", "k1", "k0", "k0"]
    assert found.reason.tolist() == ["", "", "duplicate", "duplicate"]
    assert found.detail[2] == "same pixels as s/m0#0"


def test_a_held_out_sample_wins_and_its_copy_is_a_leak() -> None:
    found = decide(candidates(EQUAL, EQUAL | {"set": "bus-bra"}, {}), Joins.none())
    assert found.keep.tolist() == [False, True, True]
    assert found.reason.tolist() == ["leak", "", ""]
    assert found.detail[0] == "same pixels as s/m1#0"


def test_held_out_sets_are_never_thinned_but_their_copies_share_a_cluster() -> None:
    held = {"set": "bus-bra"}
    found = decide(candidates(EQUAL | held, EQUAL | held, held), joined((1, 2)))
    assert found.keep.all()
    assert set(found.cluster) == {"k0"}


def test_exact_copies_stay_where_asked_so_but_leaks_go() -> None:
    found = decide(candidates(EQUAL, EQUAL), Joins.none(), exact=False)
    assert found.keep.all() and found.cluster.tolist() == ["k0", "k0"]
    found = decide(candidates(EQUAL, EQUAL | {"set": "bench"}), Joins.none(), exact=False)
    assert found.reason.tolist() == ["leak", ""]


def test_order_of_preference() -> None:
    rows = [
        {"source": "copies", "source_width": 99},
        {"patient": ""},
        {"source_width": 20, "patient": ""},
        {"source_width": 20},
        {"set": "bench", "source_width": 2},
    ]
    everyone = joined(*[(i, j) for i in range(5) for j in range(i)])
    for keeper, left in ((4, 5), (3, 4), (2, 3), (1, 2)):
        part = candidates(*rows[:left])
        pairs = everyone.first < left, everyone.second < left
        inside = np.flatnonzero(pairs[0] & pairs[1])
        joins = Joins(everyone.first[inside], everyone.second[inside], everyone.score[inside])
        found = decide(part, joins, reuploads=["copies"])
        assert np.flatnonzero(found.keep).tolist() == [keeper]
        assert set(found.cluster) == {f"k{keeper}"}
        assert found.detail[0].endswith(f"s/m{keeper}#0")


def test_the_best_of_several_joins_of_two_pictures_is_told() -> None:
    joins = Joins(np.array([0, 0]), np.array([1, 1]), np.array([0.97, 0.91]))
    assert decide(candidates({}, {}), joins).detail[1] == "near copy (0.97) of s/m0#0"


def test_report_mode_drops_leaks_only() -> None:
    found = decide(candidates({}, {}, {"set": "bench"}, {}), joined((0, 1), (1, 2)), near=False)
    assert found.reason.tolist() == ["", "leak", "", ""]
    assert found.detail[1] == "near copy (0.95) of s/m2#0"
    assert found.cluster.tolist() == ["k2", "k2", "k2", "k3"]


def test_a_chain_of_joins_drops_neighbours_only() -> None:
    found = decide(candidates({}, {}, {}, {}), joined((0, 1), (1, 2), (2, 3)))
    assert found.keep.tolist() == [True, False, True, False]
    assert set(found.cluster) == {"k0"}


def test_copies_of_a_dropped_picture_name_the_one_that_stays() -> None:
    found = decide(candidates({"source_width": 50}, EQUAL, EQUAL), joined((0, 2)))
    assert found.keep.tolist() == [True, False, False]
    assert {text.rsplit(" ", 1)[-1] for text in found.detail[1:]} == {"s/m0#0"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_what_always_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = candidates(
        *[
            {
                "set": ["pretrain", "pretrain", "bench"][rng.integers(3)],
                "pixel_sha256": f"x{rng.integers(12)}",
                "source_width": int(rng.integers(4)),
                "patient": ["", "p"][rng.integers(2)],
            }
            for _ in range(16)
        ]
    )
    joins = joined(*[(int(a), int(b)) for a, b in rng.integers(0, 16, (8, 2)) if a != b])
    found = decide(rows, joins)
    held = (rows["set"] != "pretrain").to_numpy()
    assert found.keep[held].all()
    names = ("s/" + rows["member"] + "#0").tolist()
    place = {name: i for i, name in enumerate(names)}
    pairs = {frozenset((int(a), int(b))) for a, b in zip(joins.first, joins.second, strict=True)}
    pixels = rows["pixel_sha256"].tolist()
    same = [{j for j in range(16) if pixels[j] == pixels[i]} for i in range(16)]
    for i in np.flatnonzero(~found.keep).tolist():
        stays = place[found.detail[i].rsplit(" ", 1)[-1]]
        assert found.keep[stays] and found.rank[stays] < found.rank[i]
        assert stays in same[i] or any(frozenset((a, b)) in pairs for a in same[i] for b in same[stays])
        assert (found.reason[i] == "leak") == bool(held[stays])
        assert found.cluster[i] == found.cluster[stays]
    for a, b in map(tuple, pairs):
        assert found.cluster[a] == found.cluster[b]
        assert (not found.keep[a]) or (not found.keep[b]) or (held[a] and held[b])
    # The order of the joins is of no account.
    turned = decide(rows, Joins(joins.second[::-1], joins.first[::-1], joins.score[::-1]))
    assert (turned.reason == found.reason).all() and (turned.cluster == found.cluster).all()
