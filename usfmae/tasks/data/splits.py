"""Which samples train, validate and test: pure arithmetic on identities, labels and a seed.

A sample is never separated from what it must not be divided from: images of one patient, frames of one
clip, members of one duplicate cluster. Official test parts are kept as published, whatever leaks in them;
`leaks` says what does. Only the validation part, and the folds of `patient-kfold`, are ours to draw.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import CorpusError, UsageError, did_you_mean
from openus.manifest import Protocol

_FOLDS_SEED = 46  # of the folds of patient-kfold; part of the protocol, not of a run

Ints = NDArray[np.int64]
Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what each of N samples is; an empty string means unknown."""

    key: Words
    patient: Words
    clip: Words
    cluster: Words
    pixels: Words
    """Hash of the decoded pixels: equal where two images are the same."""

    def __len__(self) -> int:
        return len(self.key)

    def take(self, index: Ints) -> Identity:
        """The identities at the positions `index`, in that order."""
        columns = (self.key, self.patient, self.clip, self.cluster, self.pixels)
        return Identity(*([column[i] for i in index.tolist()] for column in columns))


@dataclass(frozen=True, slots=True)
class Split:
    """Positions (int64, ascending) of the three parts of one run; disjoint."""

    name: str
    train: Ints
    val: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that stands on both sides of a split; `test`: positions of the test samples affected."""

    kind: str
    """patient | clip | cluster | pixels"""
    count: int
    """Number of distinct patients, clips, clusters or images shared."""
    part: str
    """train | val: the part that shares them with test."""
    test: Ints


def group_ids(identity: Identity, by: str = "patient") -> Ints:
    """Number the groups that must stay together: int64 [N], 0-based, in order of first appearance.

    by: ``patient`` (where unknown the clip, where unknown the cluster, else the sample alone), ``clip``,
    ``cluster`` or ``key``. Samples of one duplicate cluster, or with equal pixels, are always of one group,
    even where their patients differ; only ``key`` keeps every sample alone.
    """
    chains = {
        "patient": (("patient", identity.patient), ("clip", identity.clip), ("cluster", identity.cluster)),
        "clip": (("clip", identity.clip), ("cluster", identity.cluster)),
        "cluster": (("cluster", identity.cluster),),
        "key": (),
    }
    if by not in chains:
        raise UsageError(f"cannot group by '{by}'{did_you_mean(by, chains)} (known: {', '.join(chains)})")
    parent = list(range(len(identity)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[Hashable, int] = {}
    for i in range(len(identity)):
        own = next(((name, words[i]) for name, words in chains[by] if words[i]), None)
        shared = [("cluster", identity.cluster[i]), ("pixels", identity.pixels[i])] if by != "key" else []
        for name in [own, *shared]:
            if name is not None and name[1]:
                parent[root(i)] = root(seen.setdefault(name, i))
    _, ids = np.unique([root(i) for i in range(len(identity))], return_inverse=True)
    return _by_appearance(ids.astype(np.int64))


def _by_appearance(ids: Ints) -> Ints:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]


def deal(groups: Ints, strata: Ints, parts: int, seed: Sequence[int]) -> Ints:
    """Deal whole groups to `parts` piles with nearly equal numbers of each stratum: int64 [N], 0-based piles.

    A group counts for the stratum most of its samples have. Within a stratum the groups come in an order
    drawn from `seed`, large ones first, each to the pile that holds least of the stratum (then least at all).
    """
    piles = np.full(len(groups), -1, np.int64)
    held = np.zeros(parts, np.int64)
    for members in _strata(groups, strata, seed):
        of_stratum = np.zeros(parts, np.int64)
        for rows in sorted(members, key=len, reverse=True):
            pile = min(range(parts), key=lambda p: (of_stratum[p], held[p], p))
            piles[rows] = pile
            of_stratum[pile] += len(rows)
            held[pile] += len(rows)
    return piles


def hold_out(groups: Ints, strata: Ints, fraction: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Choose whole groups for a validation part of about `fraction` of each stratum: bool [N].

    Every stratum with at least two groups gives at least one and keeps at least one.
    """
    chosen = np.zeros(len(groups), np.bool_)
    for members in _strata(groups, strata, seed):
        wanted = fraction * sum(len(rows) for rows in members)
        taken = 0
        for rows in members[:-1]:
            if taken and taken + len(rows) / 2 > wanted:
                break
            chosen[rows] = True
            taken += len(rows)
    return chosen


def _strata(groups: Ints, strata: Ints, seed: Sequence[int]) -> list[list[Ints]]:
    """Per stratum, the row numbers of its groups, the groups in an order drawn from the seed."""
    order = np.argsort(groups, kind="stable")
    bounds = np.flatnonzero(np.diff(groups[order])) + 1
    by_stratum: dict[int, list[Ints]] = defaultdict(list)
    for rows in np.split(order, bounds) if len(order) else []:
        values, counts = np.unique(strata[rows], return_counts=True)
        by_stratum[int(values[np.argmax(counts)])].append(rows)
    drawn = []
    for stratum in sorted(by_stratum):
        rng = np.random.default_rng([*seed, stratum & 0xFFFFFFFF])
        drawn.append([by_stratum[stratum][i] for i in rng.permutation(len(by_stratum[stratum]))])
    return drawn


def make_splits(
    protocol: Protocol,
    published: Words,
    groups: Ints,
    strata: Ints,
    *,
    seed: int = 0,
    what: str = "benchmark",
) -> list[Split]:
    """The runs of a protocol, one per fold.

    published: the official split word of each of N samples (``fold1`` …, or train / val / test words).
    groups:    int64 [N] from `group_ids`; strata: int64 [N], usually the class numbers.
    seed:      draws the validation part. Test parts do not move with it: official ones are as published, the
               folds of ``patient-kfold`` are always drawn the same, so that runs of several seeds compare.

    Raises CorpusError where a sample's published word is not one the protocol knows, or a part is empty.
    """
    if protocol.kind == "split":
        return [_official(protocol, published, groups, strata, seed, what)]
    folds = protocol.folds or 5
    if protocol.kind == "kfold":
        number = _fold_numbers(published, folds, what)
    else:
        number = deal(groups, strata, folds, (_FOLDS_SEED,)) + 1
    splits = []
    for fold in range(1, folds + 1):
        test = number == fold
        splits.append(_with_validation(f"fold{fold}", ~test, test, groups, strata, protocol, (seed, fold)))
        _require_parts(splits[-1], what)
    return splits


def _fold_numbers(published: Words, folds: int, what: str) -> Ints:
    """The fold of each sample, from 1; a source that publishes ``fold0`` counts from 0."""
    numbers = np.zeros(len(published), np.int64)
    first = 0 if "fold0" in published else 1
    for i, word in enumerate(published):
        match = re.fullmatch(r"fold(\d+)", word)
        if not match or not first <= int(match[1]) < first + folds:
            raise CorpusError(
                f"{what}: the split of sample {i} is '{word}', expected fold{first} to fold{first + folds - 1}; "
                "rebuild the corpus from the current manifests, or use --protocol patient-kfold"
            )
        numbers[i] = int(match[1]) - first + 1
    return numbers


def _official(
    protocol: Protocol, published: Words, groups: Ints, strata: Ints, seed: int, what: str
) -> Split:
    words = np.asarray(published, dtype=object)
    known = (*protocol.train, *protocol.val, *protocol.test)
    strange = sorted({str(word) for word in words if word not in known})
    if strange:
        raise CorpusError(
            f"{what}: split '{strange[0]}' is not one of {', '.join(known)}; rebuild the corpus"
        )
    train, val, test = (np.isin(words, list(part)) for part in (protocol.train, protocol.val, protocol.test))
    if val.any():
        split = Split("official", *(np.flatnonzero(part) for part in (train, val, test)))
    else:
        split = _with_validation("official", train, test, groups, strata, protocol, (seed,))
    _require_parts(split, what)
    return split


def _with_validation(
    name: str, rest: NDArray[np.bool_], test: NDArray[np.bool_], groups: Ints, strata: Ints,
    protocol: Protocol, seed: Sequence[int],
) -> Split:  # fmt: skip
    rows = np.flatnonzero(rest)
    chosen = hold_out(groups[rows], strata[rows], protocol.val_fraction, seed)
    return Split(name, rows[~chosen], rows[chosen], np.flatnonzero(test))


def _require_parts(split: Split, what: str) -> None:
    for part in ("train", "val", "test"):
        if not len(getattr(split, part)):
            raise CorpusError(
                f"{what}, {split.name}: the {part} part is empty; the corpus holds too few samples or "
                "patients for this protocol"
            )


def leaks(split: Split, identity: Identity) -> list[Leak]:
    """Patients, clips, duplicate clusters and equal images that the test part shares with train or val."""
    found = []
    for part in ("train", "val"):
        for kind in ("patient", "clip", "cluster", "pixels"):
            words: Words = getattr(identity, kind)
            outside = {words[i] for i in getattr(split, part).tolist()} - {""}
            shared = [i for i in split.test.tolist() if words[i] in outside]
            if shared:
                found.append(Leak(kind, len({words[i] for i in shared}), part, np.asarray(shared, np.int64)))
    return found


def leaked_rows(found: Iterable[Leak]) -> Ints:
    """Positions of all test samples that any leak touches, ascending and once each."""
    rows = [leak.test for leak in found]
    return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)


def leaks_json(found: Iterable[Leak]) -> list[dict[str, Any]]:
    """The leaks as they stand in metrics.json: kind, part, number shared, number of test samples affected."""
    return [
        {"kind": leak.kind, "shared_with": leak.part, "shared": leak.count, "test_samples": len(leak.test)}
        for leak in found
    ]


def subsample(rows: Ints, groups: Ints, strata: Ints, fraction: float, seed: Sequence[int]) -> Ints:
    """A share of a training part for label-fraction curves, by whole groups; at least one of each stratum.

    Larger fractions of one seed contain the smaller ones, so that a curve is not made of unrelated draws.
    """
    if fraction >= 1:
        return rows
    kept: list[Ints] = []
    for members in _strata(groups[rows], strata[rows], seed):
        wanted = fraction * sum(len(member) for member in members)
        taken = 0
        for member in members:
            if taken and taken >= wanted:
                break
            kept.append(rows[member])
            taken += len(member)
    return np.sort(np.concatenate(kept))
