"""Splits keep patients together, keep official parts as published, and report what leaks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.catalogue import Catalogue
from openus.errors import CorpusError, UsageError
from openus.manifest import Protocol
from usfmae.tasks.data.splits import (
    Identity,
    Split,
    deal,
    group_ids,
    hold_out,
    leaked_rows,
    leaks,
    make_splits,
    subsample,
)

KFOLD = Protocol(kind="kfold", folds=5)


def identity(patients: list[str], **columns: list[str]) -> Identity:
    n = len(patients)
    names = [f"k{i}" for i in range(n)]
    base = {"key": names, "clip": [""] * n, "cluster": names, "pixels": names} | columns
    return Identity(patient=patients, **base)


patients_and_classes = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=12, max_size=150
).filter(lambda rows: len({p for p, _ in rows}) >= 8)


@settings(max_examples=60, deadline=None)
@given(patients_and_classes, st.integers(0, 5))
def test_patient_kfold_never_divides_a_patient(rows: list[tuple[int, int]], seed: int) -> None:
    who = identity([f"p{p}" for p, _ in rows])
    groups = group_ids(who)
    strata = np.array([c for _, c in rows])
    piles = deal(groups, strata, 4, (seed,))
    for patient in set(who.patient):
        assert len(set(piles[np.array(who.patient) == patient])) == 1
    assert set(piles.tolist()) <= set(range(4))
    assert np.array_equal(piles, deal(groups, strata, 4, (seed,)))


@settings(max_examples=60, deadline=None)
@given(patients_and_classes, st.integers(0, 5), st.floats(0.05, 0.5))
def test_validation_part_is_whole_patients(rows: list[tuple[int, int]], seed: int, fraction: float) -> None:
    who = identity([f"p{p}" for p, _ in rows])
    groups = group_ids(who)
    chosen = hold_out(groups, np.zeros(len(rows), np.int64), fraction, (seed,))
    assert set(groups[chosen].tolist()).isdisjoint(groups[~chosen].tolist())
    assert chosen.any() and (~chosen).any()


def test_deal_balances_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), 2)
    strata = np.repeat((rng.random(500) < 0.3).astype(np.int64), 2)
    piles = deal(groups, strata, 5, (1,))
    for stratum in (0, 1):
        counts = np.bincount(piles[strata == stratum], minlength=5)
        assert counts.max() - counts.min() <= 2


def test_large_groups_are_dealt_first() -> None:
    groups = np.array([0, 1, 2, 3, 4, 4, 4, 4])
    for seed in range(5):
        piles = deal(groups, np.zeros(8, np.int64), 2, (seed,))
        assert np.bincount(piles).tolist() == [4, 4]


def test_the_training_part_keeps_a_group_of_each_class() -> None:
    two = np.array([0, 0, 1, 1, 2])
    chosen = hold_out(two, np.array([0, 0, 0, 0, 1]), 0.99, (0,))
    assert chosen[:4].sum() == 2 and not chosen[4]


def test_equal_pictures_are_of_one_group_whatever_else_is_said_of_them() -> None:
    who = identity(["1", "2", "3"], cluster=["a", "b", "c"], pixels=["x", "y", "x"])
    assert group_ids(who).tolist() == [0, 1, 0]


def test_what_test_shares_with_the_validation_part_leaks_too() -> None:
    who = identity(["1", "2", "2"])
    split = Split("fold1", np.array([0]), np.array([1]), np.array([2]))
    (found,) = leaks(split, who)
    assert (found.kind, found.part, found.test.tolist()) == ("patient", "val", [2])


def test_the_folds_of_patients_are_the_same_for_every_seed() -> None:
    """So that runs of several seeds are of the same test parts; only the validation part moves."""
    groups = np.arange(60)
    protocol = Protocol(kind="patient-kfold", folds=3)
    first, second = (make_splits(protocol, [""] * 60, groups, groups % 2, seed=seed) for seed in (0, 1))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.test, b.test) and not np.array_equal(a.val, b.val)


def test_groups_join_patients_clips_and_duplicates() -> None:
    who = Identity(
        key=list("abcdef"),
        patient=["1", "1", "2", "", "", ""],
        clip=["", "", "", "c", "c", ""],
        cluster=["a", "b", "b", "d", "e", "f"],
        pixels=["a", "b", "c", "d", "e", "f"],
    )
    # b and c are near-duplicates of two patients: all three stay together; d and e share a clip.
    assert group_ids(who).tolist() == [0, 0, 0, 1, 1, 2]
    assert group_ids(who, "key").tolist() == [0, 1, 2, 3, 4, 5]
    assert group_ids(who, "cluster").tolist() == [0, 1, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="did you mean 'patient'"):
        group_ids(who, "patints")


def test_official_folds_are_kept_and_their_leaks_reported() -> None:
    patients = [f"p{i // 2}" for i in range(40)]
    published = [f"fold{i // 2 % 5 + 1}" for i in range(40)]
    published[1] = "fold2"  # patient p0 now stands in fold 1 and fold 2
    pixels = [f"x{i}" for i in range(40)]
    pixels[39] = pixels[2]  # an identical picture in fold 5 and fold 2
    who = identity(patients, pixels=pixels)
    groups = group_ids(who)
    splits = make_splits(KFOLD, published, groups, np.arange(40) // 2 % 2)
    assert [split.name for split in splits] == [f"fold{k}" for k in range(1, 6)]
    for number, split in enumerate(splits, 1):
        assert [published[i] for i in split.test] == [f"fold{number}"] * len(split.test)
        parts = np.concatenate([split.train, split.val, split.test])
        assert sorted(parts.tolist()) == list(range(40))
        assert set(groups[split.train]).isdisjoint(groups[split.val])
    first = leaks(splits[0], who)
    assert {leak.kind for leak in first} == {"patient"} and leaked_rows(first).tolist() == [0]
    second = leaks(splits[1], who)
    assert {leak.kind for leak in second} == {"patient", "pixels"}
    assert leaked_rows(second).tolist() == [1, 2]
    assert leaks(splits[2], who) == [] and leaked_rows([]).tolist() == []


def test_official_split_words() -> None:
    protocol = Protocol(kind="split", train=("train",), val=("val",), test=("test",))
    words = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    (split,) = make_splits(protocol, words, np.arange(12), np.arange(12) % 2)
    assert (len(split.train), len(split.val), len(split.test)) == (6, 2, 4)
    rebuilt = Protocol(kind="split", train=("train", "val"), test=("test",), val_fraction=0.25)
    (split,) = make_splits(rebuilt, words, np.arange(12), np.arange(12) % 2)
    assert (len(split.train), len(split.val), len(split.test)) == (6, 2, 4)


@pytest.mark.parametrize(
    ("name", "words", "tests"),
    [
        ("bus-bra", [f"fold{k}" for k in range(1, 6)], ["fold1"]),
        ("gist514-db", [f"fold{k}" for k in range(5)], ["fold0"]),
        ("mmotu-2d", ["train", "val"], ["val"]),
    ],
)
def test_protocols_of_the_three_benchmarks(name: str, words: list[str], tests: list[str]) -> None:
    """By the split words their sources publish (GIST514-DB counts its folds from 0)."""
    published, groups = words * 20, np.arange(20 * len(words))
    protocols = Catalogue().benchmark(name).protocols

    def runs(protocol: str) -> list[list[str]]:
        splits = make_splits(protocols[protocol], published, groups, groups % 2)
        return [sorted({published[i] for i in split.test.tolist()}) for split in splits]

    assert runs("ultrasam") == [tests]
    assert runs(next(iter(protocols))) == ([["val"]] if name == "mmotu-2d" else [[word] for word in words])
    assert len(runs("patient-kfold")) == 5
    official = "official-split" if name == "mmotu-2d" else "official-kfold"
    assert next(iter(protocols)) == official


def test_bad_splits_say_what_is_wrong() -> None:
    groups = np.arange(10)
    with pytest.raises(CorpusError, match="split of sample 0 is 'train', expected fold1 to fold5"):
        make_splits(KFOLD, ["train"] * 10, groups, groups % 2)
    with pytest.raises(CorpusError, match="fold2: the test part is empty"):
        make_splits(KFOLD, ["fold1"] * 5 + ["fold3"] * 5, groups, groups % 2)
    alone = Protocol(kind="split", train=("train",), test=("test",))
    with pytest.raises(CorpusError, match="official: the val part is empty"):
        make_splits(alone, ["train", "test"], np.arange(2), np.zeros(2, np.int64))
    with pytest.raises(CorpusError, match="'dev' is not one of train, test"):
        make_splits(
            Protocol(kind="split", train=("train",), test=("test",)), ["dev"] * 10, groups, groups % 2
        )


def test_label_fractions_are_nested_and_hold_every_class() -> None:
    groups = np.repeat(np.arange(100), 3)
    strata = (groups % 10 == 0).astype(np.int64)
    rows = np.arange(300)
    previous: set[int] = set()
    for fraction in (0.01, 0.05, 0.2, 0.5, 1.0):
        part = subsample(rows, groups, strata, fraction, (3,))
        assert previous <= set(part.tolist())
        assert set(strata[part]) == {0, 1}
        assert fraction * 300 - 3 <= len(part) <= fraction * 300 + 6
        previous = set(part.tolist())
    assert len(previous) == 300


@pytest.mark.realdata
def test_bus_bra_official_folds_hold_no_case_twice(shared: Path) -> None:
    root = shared / "data" / "bus-bra" / "BUSBRA"
    with (root / "bus_data.csv").open() as a, (root / "5-fold-cv.csv").open() as b:
        cases, folds = list(csv.DictReader(a)), {row["ID"]: row["kFold"] for row in csv.DictReader(b)}
    who = identity([row["Case"] for row in cases])
    strata = np.array([row["Pathology"] == "malignant" for row in cases]).astype(np.int64)
    protocol = Catalogue().benchmark("bus-bra").protocols["official-kfold"]
    splits = make_splits(protocol, [f"fold{folds[row['ID']]}" for row in cases], group_ids(who), strata)
    assert [len(split.test) for split in splits] == [376, 385, 366, 365, 383]
    for split in splits:
        assert leaks(split, who) == []
        assert abs(strata[split.val].mean() - strata.mean()) < 0.02
        assert 0.12 < len(split.val) / (len(split.val) + len(split.train)) < 0.18
