"""How often each source is drawn: shares by temperature, caps and organ balance, turned into exact quotas.

The shares follow the habit of multilingual pretraining: a source of n samples gets a share in proportion to
n^(1/T) (Arivazhagan et al., "Massively multilingual neural machine translation in the wild", 2019). T = 1 keeps
the data as they are, a great T draws all sources alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import UsageError, did_you_mean
from usfmae.stream.plan import Cells, Ints, Plan

if TYPE_CHECKING:
    from usfmae.stream.index import Index

LANES = 16


@dataclass(frozen=True)
class Mixture:
    """Weights of the sources.

    Attributes:
        temperature: T of a source's share n^(1/T); 1: as the data are.
        organs: a temperature across anatomies: each gets a share by its total first, its sources divide that;
            None: anatomies do not matter.
        cap: greatest share of one source, 0 to 1; what it loses goes to the others in proportion.
        repeats: how often a sample may be drawn in an epoch at most (on average over its source).
        factors: multiplies the share of the named sources; 0 leaves one out.
        samples: draws in an epoch; None: as many as the set has samples.
    """

    temperature: float = 1.0
    organs: float | None = None
    cap: float = 1.0
    repeats: float = math.inf
    factors: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("temperature", self.temperature),
            ("organs", self.organs),
            ("repeats", self.repeats),
        ):
            if value is not None and not value > 0:
                raise UsageError(f"mixture: {name} = {value}; expected a number above 0")
        if not 0 < self.cap <= 1:
            raise UsageError(f"mixture: cap = {self.cap}; expected a share above 0 and up to 1")
        if any(not 0 <= value < math.inf for value in self.factors.values()):
            raise UsageError(f"mixture: factors = {dict(self.factors)}; expected numbers of at least 0")

    def quotas(self, counts: Ints, source: Ints, anatomy: Ints, sources: list[str]) -> Ints:
        """Draws of each group in an epoch, int64 [g]; their sum is `samples`.

        Args:
            counts: int64 [g], samples of each group; a group is the samples of one source and one anatomy.
            source, anatomy: int64 [g], numbers of the group's source and anatomy.
            sources: names of the sources.

        Raises UsageError: an unknown source, or caps that leave no room for all draws.
        """
        total = int(counts.sum()) if self.samples is None else self.samples
        factor = np.ones(len(sources))
        for name, value in self.factors.items():
            if name not in sources:
                raise UsageError(f"mixture: no source '{name}' in this set{did_you_mean(name, sources)}")
            factor[sources.index(name)] = value
        n = counts.astype(np.float64)
        of_source = np.bincount(source, n)
        if self.organs is None:
            all_alike = np.zeros_like(source)
            share = _flattened(of_source[source], self.temperature, all_alike) * n / of_source[source]
        else:
            of_anatomy = np.bincount(anatomy, n)
            within = _flattened(n, self.temperature, anatomy)
            share = _flattened(of_anatomy[anatomy], self.organs, np.zeros_like(anatomy))
            share *= within / np.bincount(anatomy, within)[anatomy]
        share *= factor[source]
        if total < 1 or not share.sum() > 0:
            raise UsageError("mixture: nothing is left to draw; see its factors and samples")
        limits = np.minimum(self.repeats * n / total, self.cap * n / of_source[source])
        return _apportion(_limited(share, np.where(share > 0, limits, 0.0)), total)


def _flattened(n: NDArray[Any], temperature: float, group: Ints) -> NDArray[np.float64]:
    """n^(1/temperature) in units of the greatest of its group: no temperature is too low for a float."""
    greatest = np.zeros(int(group.max()) + 1)
    np.maximum.at(greatest, group, n)
    flattened: NDArray[np.float64] = (n / greatest[group]) ** (1 / temperature)
    return flattened


def _limited(share: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of sum 1 in proportion to `share`, none above its limit."""
    if limits.sum() < 1 - 1e-9:
        raise UsageError(
            f"mixture: its cap and repeats allow {limits.sum():.0%} of the draws of an epoch only; raise them, or "
            "lower samples"
        )
    full = np.zeros(len(share), bool)
    while True:
        free = share * ~full
        fitted = np.where(full, limits, free / max(free.sum(), 1e-300) * (1 - limits[full].sum()))
        over = ~full & (fitted > limits * (1 + 1e-12))
        if not over.any():
            return fitted
        full |= over


def _apportion(share: NDArray[np.float64], total: int) -> Ints:
    """Whole numbers of sum `total` nearest to the shares (largest remainders); at least 1 where a share is above 0."""
    exact = share * total
    quota = np.maximum(np.floor(exact), share > 0).astype(np.int64)
    order = np.argsort(quota - exact, kind="stable")
    missing = total - int(quota.sum())
    if missing >= 0:
        quota[order[: missing % len(quota)]] += 1
        quota[order] += missing // len(quota)
    for _ in range(-missing):  # many tiny sources were given their one draw: the greatest give it up
        quota[int(np.argmax(quota))] -= 1
    return quota


def make_plan(
    index: Index,
    seed: int,
    *,
    order: str = "auto",
    mixture: Mixture | None = None,
    rows: NDArray[np.integer] | None = None,
    lanes: int = LANES,
    window: int | None = None,
) -> Plan:
    """The plan for a set.

    Args:
        index: of the set.
        seed: of the order.
        order: `global`, `blocks` (see `usfmae.stream.plan`), `auto` (blocks for a remote set), or `none`: the
            rows as they stand.
        mixture: weights of the sources; needs a table of 4 bytes a sample. Without it there is no table.
        rows: only these rows, each once; needs a table too. Default: those the index reads.
        lanes: of the order in blocks; a world size that divides it reads each shard on one rank only.
        window: samples of a lane shuffled together; None: as many as a shard holds on average.

    Raises UsageError for an unknown order.
    """
    if order not in ("auto", "global", "blocks", "none"):
        raise UsageError(f"order '{order}' is unknown; use auto, global, blocks or none")
    if order == "auto":
        order = "blocks" if index.place.folder is None else "global"
    rows = index.chosen if rows is None else rows
    blocks = order == "blocks"
    shard = index.shard_of if blocks else np.zeros(index.count, np.int32)
    if mixture is not None:
        cells = _weighted(index, mixture, shard, rows)
    elif rows is not None:
        cells = _subset(index, shard, np.sort(np.asarray(rows)))
    elif blocks:
        count = np.bincount(index.shard_of, minlength=len(index.shards)).astype(np.int64)
        cells = Cells(np.cumsum(count) - count, count, np.arange(len(count)), np.zeros_like(count))
    else:
        cells = Cells.whole(index.count)
    used = max(int((cells.count > 0).sum()), 1)
    width = window or max(int(cells.count.sum()) // used, 1)
    return Plan(cells, seed, min(lanes, used) if blocks else 0, width if blocks else 0, order != "none")


def _grouped(
    shard: NDArray[np.integer], group: NDArray[np.integer], rows: NDArray[np.integer]
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Rows sorted by shard and group, and the start, length, shard and group of each run."""
    by = np.lexsort((rows, group, shard))
    rows, shard, group = rows[by], shard[by], group[by]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(shard) != 0) | (np.diff(group) != 0)
    edge = np.flatnonzero(new)
    length = np.diff(np.append(edge, len(rows)))
    rows, edge, length, shard, group = (
        part.astype(np.int64) for part in (rows, edge, length, shard[edge], group[edge])
    )
    return rows, edge, length, shard, group


def _compact(rows: Ints, count: int) -> NDArray[np.integer]:
    return rows.astype(np.int32) if count < 2**31 else rows


def _subset(index: Index, shard: NDArray[np.integer], rows: NDArray[np.integer]) -> Cells:
    if len(rows) and (rows[0] < 0 or rows[-1] >= index.count or (np.diff(rows) == 0).any()):
        raise UsageError(f"rows of a subset must be distinct and lie from 0 to {index.count - 1}")
    taken, start, count, shards, group = _grouped(shard[rows], np.zeros(len(rows), np.int64), rows)
    return Cells(start, count, shards, group, None, _compact(taken, index.count))


def _weighted(
    index: Index, mixture: Mixture, shard: NDArray[np.integer], rows: NDArray[np.integer] | None
) -> Cells:
    chosen = np.arange(index.count) if rows is None else np.sort(np.asarray(rows))
    kinds = index.source_of[chosen].astype(np.int64) * max(len(index.anatomies), 1) + index.anatomy_of[chosen]
    known, group, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    source, anatomy = np.divmod(known, max(len(index.anatomies), 1))
    quota = mixture.quotas(counts.astype(np.int64), source, anatomy, index.sources)
    taken, start, count, shards, groups = _grouped(shard[chosen], group.astype(np.int64), chosen)
    return Cells(start, count, shards, groups, quota, _compact(taken, index.count))
