"""Which sample comes when: order, partition and cursor as pure functions, the same on every rank.

An epoch is a line of `count` positions. `Plan.rows` maps positions to rows of the index by a keyed
permutation that is computed, never stored, so any position costs the same whether the set holds a thousand
samples or a billion. The global batch of a step is a run of consecutive positions; ranks take it in
turns (rank r of w takes the positions r, r+w, r+2w, ...), so the order of an epoch knows nothing of ranks,
workers or batch sizes, and a cursor that counts consumed positions continues it with any of them changed.

Two orders:

- `global`: one permutation over the whole epoch. Every sample can follow every other; for local disks.
- `blocks`: shards in a permuted order, laid on `lanes` that are read side by side; samples are permuted
  inside windows of a lane. Reads stay within few shards at a time, and a rank of w reads only its own lanes
  when w divides `lanes`; for remote shards behind a bounded cache.

The permutation is a Feistel network on the next power of two with cycle walking (Black and Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002); the mixing is the finaliser of SplitMix64 (Steele,
Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openus.errors import CorpusError, UsageError

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Purposes of a key: two streams of numbers from one seed never meet.
_ORDER, _SHARDS, _WINDOW, _DRAW, _SAMPLE = range(1, 6)


def mix(x: Words) -> Words:
    """The SplitMix64 finaliser: uint64 to uint64, a bijection; changes about half of the bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: ArrayLike) -> Words:
    """A uint64 key out of integers (arrays are broadcast); other parts or another order give another key."""
    with np.errstate(over="ignore"):
        state: Words = np.zeros(1, np.uint64)
        for part in parts:
            state = mix(state * np.uint64(5) + np.asarray(part).astype(np.uint64) + _GOLDEN)
    return state


def permute(positions: ArrayLike, count: ArrayLike, keys: Words) -> Ints:
    """Places of `positions` in a keyed permutation of ``range(count)``.

    Args:
        positions: int64 [n], each in ``0 <= position < count``, count at most 2^53.
        count: one number, or int64 [n] where every position has a domain of its own.
        keys: uint64 [1] or [n]; one key is one permutation.

    Returns int64 [n]. Distinct positions under one count and key give distinct places.
    """
    size = np.broadcast_to(np.asarray(count, np.uint64), np.shape(positions))
    # At least 6 bits: halves of one or two bits reach too few of the permutations of a small set.
    width = np.frexp((np.maximum(size, 1) - np.uint64(1)).astype(np.float64))[1]  # bits of count - 1
    bits = np.maximum(width, 6).astype(np.uint64)
    low = bits >> np.uint64(1)
    high = bits - low
    one = np.uint64(1)
    masks = ((one << low) - one, (one << high) - one)
    keys = np.broadcast_to(keys, size.shape)
    place = np.array(positions, np.uint64)
    todo = np.arange(place.size)
    while todo.size:  # cycle walking: fewer than two turns on average, as the domain is under twice the count
        k, shift, mask_low, mask_high = keys[todo], low[todo], masks[0][todo], masks[1][todo]
        left, right = place[todo] >> shift, place[todo] & mask_low
        with np.errstate(over="ignore"):
            for turn in range(0, _ROUNDS, 2):
                left ^= mix(right + k + np.uint64(turn) * _GOLDEN) & mask_high
                right ^= mix(left + k + np.uint64(turn + 1) * _GOLDEN) & mask_low
        place[todo] = (left << shift) | right
        todo = todo[place[todo] >= size[todo]]
    return place.astype(np.int64)


def _digest(numbers: NDArray[np.integer]) -> Words:
    """64 bits that depend on each number and its place; a part at a time, as there may be a row of each sample."""
    state = np.zeros(1, np.uint64)
    for start in range(0, numbers.size, 1 << 20):
        part = numbers[start : start + (1 << 20)].astype(np.uint64)
        with np.errstate(over="ignore"):
            state ^= np.bitwise_xor.reduce(mix(part + key(np.arange(start, start + part.size))))
    return state


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in the stream; everything a checkpoint must keep of the data.

    `epoch` counts finished epochs, `step` the global steps taken in this one, `samples` the positions of this
    epoch that all ranks together have consumed, `plan` the fingerprint of order and data (0: not known).
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    plan: int = 0

    def to_dict(self) -> dict[str, int]:
        """The cursor as plain integers for a checkpoint."""
        return {"epoch": self.epoch, "step": self.step, "samples": self.samples, "plan": self.plan}

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> Cursor:
        """The inverse of `to_dict`."""
        return cls(**{name: int(values[name]) for name in ("epoch", "step", "samples", "plan")})


@dataclass(frozen=True)
class Cells:
    """What an epoch draws from: runs of rows with a number of draws each.

    Without weights a cell is a shard (or the whole set) drawn as often as it has rows. With weights it is
    the rows of one source (in one shard), drawn as often as the source's quota says.

    Attributes:
        start: int64 [c], first row of the cell, or its first place in `rows`.
        count: int64 [c], rows in the cell.
        shard: int64 [c], the shard the cell lies in, ascending; all 0 where shards do not matter.
        source: int64 [c], number of the cell's source.
        quota: int64 [s], draws of each source in an epoch; None: each row once.
        rows: the rows of all cells, one after the other; None: they are ``range(sum(count))``.
    """

    start: Ints
    count: Ints
    shard: Ints
    source: Ints
    quota: Ints | None = None
    rows: NDArray[np.integer] | None = None

    @classmethod
    def whole(cls, count: int, rows: NDArray[np.integer] | None = None) -> Cells:
        """One cell of all samples."""
        zero = np.zeros(1, np.int64)
        return cls(zero, np.array([count], np.int64), zero, zero, None, rows)

    def draws(self, epoch: int) -> tuple[Ints, Ints]:
        """Draws of each cell in an epoch and how many it gave in the epochs before: int64 [c], int64 [c].

        A source's quota is shared among its cells by rounding the running sum, started elsewhere each epoch, so
        that the sum is exact and no small cell is always rounded away.
        """
        if self.quota is None:
            return self.count, self.count * epoch
        draws, before = np.zeros_like(self.count), np.zeros_like(self.count)
        for source, quota in enumerate(self.quota):
            cells = np.flatnonzero(self.source == source)
            if not cells.size:
                continue
            upto = np.concatenate([[0], np.cumsum(self.count[cells])])
            total = int(upto[-1])
            shift = (
                np.arange(epoch + 1) * round(0.618034 * total) + source
            ) % total  # spread over the epochs
            draws[cells] = np.diff((upto * int(quota) + shift[-1]) // total)
            for some in np.array_split(shift[:-1], epoch // 256 + 1):
                before[cells] += np.diff(((upto * int(quota) + some[:, None]) // total).sum(0))
        return draws, before


@dataclass(frozen=True)
class _Layout:
    """The line of one epoch: cells in their order, where each begins, and the draws given before."""

    order: Ints
    edges: Ints
    before: Ints


@dataclass(frozen=True)
class Plan:
    """The order of every epoch, as a function.

    Args:
        cells: what is drawn from.
        seed: another seed is another order.
        lanes: 0 for the `global` order; else the number of lanes of the `blocks` order.
        window: samples of a lane that are shuffled together.
        shuffle: False gives the rows as they stand in the index, every epoch.

    Attribute `count` is the number of positions in an epoch, `fingerprint` 32 bits that tell two plans apart.
    """

    cells: Cells
    seed: int
    lanes: int = 0
    window: int = 0
    shuffle: bool = True
    count: int = field(init=False)
    fingerprint: int = field(init=False)

    def __post_init__(self) -> None:
        if self.lanes < 0 or (self.lanes and self.window < 1):
            raise UsageError(
                f"an order in blocks needs lanes >= 1 and window >= 1, not {self.lanes} and {self.window}"
            )
        quota = self.cells.count if self.cells.quota is None else self.cells.quota
        object.__setattr__(self, "count", int(quota.sum()))
        parts = (
            self.seed,
            self.lanes,
            self.window,
            int(self.shuffle),
            self.count,
            int(self.cells.count.sum()),
        )
        state = key(*parts)
        for numbers in (self.cells.count, quota, self.cells.rows):
            if numbers is not None:
                state = key(state, _digest(numbers))
        object.__setattr__(self, "fingerprint", int(state[0] >> np.uint64(32)) | 1)
        object.__setattr__(self, "_layout", lru_cache(maxsize=2)(self._lay_out))

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_layout"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_layout", lru_cache(maxsize=2)(self._lay_out))

    def _lay_out(self, epoch: int) -> _Layout:
        draws, before = self.cells.draws(epoch)
        order = np.arange(draws.size)
        if self.lanes and self.shuffle:
            place = key(self.seed, _SHARDS, epoch, self.cells.shard)
            order = np.lexsort((order, self.cells.shard, place))
        return _Layout(order, np.concatenate([[0], np.cumsum(draws[order])]), before)

    def _along_line(self, epoch: int, positions: Ints) -> Ints:
        """The place on the epoch's line of cells of each position."""
        if not self.shuffle:
            return positions
        if not self.lanes:
            return permute(positions, self.count, key(self.seed, _ORDER, epoch))
        lane, place = positions % self.lanes, positions // self.lanes
        length, longer = divmod(self.count, self.lanes)
        first = lane * length + np.minimum(lane, longer)
        number = place // self.window
        start = number * self.window
        size = np.minimum(self.window, length + (lane < longer) - start)
        keys = key(self.seed, _WINDOW, epoch, lane, number)
        return first + start + permute(place - start, size, keys)

    def draw(self, epoch: int, positions: ArrayLike) -> tuple[Ints, Words]:
        """Rows of the index and seeds of the draws at `positions` of an epoch.

        Args:
            epoch: 0, 1, 2, ...
            positions: int64 [n], each in ``0 <= position < count``.

        Returns int64 [n] rows and uint64 [n] seeds. A seed belongs to (seed, epoch, row, which of the row's
        draws), so a sample is augmented alike whatever batch, rank or worker it meets.
        """
        positions = np.asarray(positions, np.int64)
        layout: _Layout = self._layout(epoch)  # type: ignore[attr-defined]
        line = self._along_line(epoch, positions)
        slot = np.searchsorted(layout.edges, line, side="right") - 1
        cell = layout.order[slot]
        place = line - layout.edges[slot]
        turn = np.zeros_like(place)
        if self.cells.quota is not None:
            count = self.cells.count[cell]
            turn, place = np.divmod(layout.before[cell] + place, count)
            place = permute(place, count, key(self.seed, _DRAW, cell, turn))
        rows = self.cells.start[cell] + place
        if self.cells.rows is not None:
            rows = self.cells.rows[rows].astype(np.int64)
        return rows, key(self.seed, _SAMPLE, epoch, rows, turn)


@dataclass(frozen=True)
class Share:
    """One rank's part of every global batch.

    Args:
        count: positions in an epoch.
        batch: samples of one rank in one step.
        world: number of ranks.
        rank: this one.
        tail: `pad`: the last step of an epoch is filled up with the first positions of the same epoch, so that
            every position is served and all ranks take equally many steps; `drop`: the positions that fill no
            whole step are left out of this epoch.

    Raises UsageError for numbers that fit nothing, CorpusError when an epoch is shorter than one step.
    """

    count: int
    batch: int
    world: int = 1
    rank: int = 0
    tail: str = "pad"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.world < 1 or not 0 <= self.rank < self.world:
            raise UsageError(
                f"batch size {self.batch}, rank {self.rank} of {self.world}: expected a batch size of at least 1 "
                "and a rank from 0 to world - 1"
            )
        if self.tail not in ("pad", "drop"):
            raise UsageError(f"tail '{self.tail}' is unknown; use 'pad' or 'drop'")
        if self.count < 1:
            raise CorpusError("the set has no samples; build it again and look at its rejected rows")
        if self.count < self.world:
            raise CorpusError(
                f"{self.count} samples cannot feed {self.world} ranks; use at most {self.count} ranks or more data"
            )
        if self.count < self.step_size:
            raise CorpusError(
                f"{self.count} samples are fewer than one global batch of {self.step_size} ({self.world} ranks x "
                f"{self.batch}); lower the batch size to at most {self.count // self.world * self.world} over all "
                "ranks (training.batch_size)"
            )

    @property
    def step_size(self) -> int:
        """Positions that one step of all ranks consumes."""
        return self.batch * self.world

    def steps(self, samples: int = 0) -> int:
        """Steps left in an epoch of which `samples` positions are consumed; the same number on every rank."""
        left = max(self.count - samples, 0)
        return left // self.step_size if self.tail == "drop" else -(-left // self.step_size)

    def positions(self, samples: int) -> tuple[Ints, int]:
        """This rank's positions of the step that begins after `samples` consumed ones, and how many of them pad.

        Returns int64 [batch], ascending until the padding, which stands last.
        """
        wanted = samples + self.rank + self.world * np.arange(self.batch, dtype=np.int64)
        return wanted % self.count, int((wanted >= self.count).sum())

    def advance(self, cursor: Cursor) -> Cursor:
        """The cursor after one more step of all ranks; wraps to the next epoch when this one is used up."""
        samples = min(cursor.samples + self.step_size, self.count)
        if self.steps(samples) == 0:
            return Cursor(cursor.epoch + 1, 0, 0, cursor.plan)
        return Cursor(cursor.epoch, cursor.step + 1, samples, cursor.plan)
