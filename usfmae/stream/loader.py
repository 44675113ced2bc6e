"""Batches of grey views in the order of the plan, decoded by worker processes, resumable at any step.

    index = open_index("openus-46")
    for batch in Loader(index, batch_size=256, size=224, seed=1, workers=8):
        images = augment(batch.images.to(device), batch.seeds)

The order, the views and the cursor depend on the data, the seed, the batch size and the world size, never on
the number of workers; the order alone depends on the data and the seed only (see `usfmae.stream.plan`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openus.errors import CorpusError, UsageError, did_you_mean
from openus.storage.places import Place
from usfmae.stream.ahead import ShardsAhead
from usfmae.stream.cache import ShardCache, default_folder
from usfmae.stream.decode import INTERPOLATIONS, crop_boxes, decode_side_of, reductions
from usfmae.stream.device import DeviceViews
from usfmae.stream.index import Index
from usfmae.stream.mixture import make_plan
from usfmae.stream.pixels import PixelCache
from usfmae.stream.plan import Cursor, Ints, Plan, Share, Words
from usfmae.stream.pool import Pool, SharedBatches
from usfmae.stream.views import RECORD, Bad, Views

log = logging.getLogger("usfmae.stream")

_MOST_BAD_IN_A_ROW = 100
_DRAWN_TOGETHER = 1024  # positions whose draws are computed at once: a small batch alone costs as much


@dataclass
class Batch:
    """One rank's part of one step.

    Attributes:
        images: uint8 [B, 1, S, S] on the CPU, in shared memory or pinned; on the GPU where it was decoded there.
        indices: int64 [B], rows of the index.
        seeds: int64 [B], one for each draw, for `usfmae.stream.augment`.
        cursor: the state after this batch; a loader made with it goes on with the next.
        padded: how many of the last samples repeat earlier ones of the epoch to fill its last step.
    """

    images: Tensor
    indices: Tensor
    seeds: Tensor
    cursor: Cursor
    padded: int = 0


@dataclass
class BadSample:
    """A sample that could not be decoded, and the row that took its place."""

    row: int
    key: str
    shard: str
    reason: str
    message: str
    replaced_by: int


@dataclass
class _Job:
    """A batch on its way: its positions, rows, seeds and slot."""

    epoch: int
    positions: Ints
    rows: Ints
    seeds: Words
    records: NDArray[np.void]
    padded: int
    cursor: Cursor
    slot: int = -1


class Loader:
    """Feeds one rank.

    Args:
        index: of the set.
        batch_size: samples of this rank in one step.
        size: side S of the views in pixels.
        seed: of the order and of every random choice.
        workers: decoding processes; 0 decodes in this one. Any number gives the same batches.
        rank, world: this rank and how many there are; together they serve every sample of an epoch once.
        cursor: where to go on; from a `Batch` of a loader with any world size, batch size and workers.
        epochs: stop after so many (counted from the beginning, not from the cursor); None: never.
        crop: area range of the random resized crop; None: the whole picture, resized to S x S.
        interpolation: `linear` or `cubic`.
        decode_side: large pictures are decoded at 1/2, 1/4 or 1/8 while the short side stays at least this;
            None: 8/7 of `size`; 0: never reduced.
        plan: the order; None: global for local shards, in blocks for remote ones, each row once.
        tail: `pad` or `drop`, see `usfmae.stream.plan.Share`.
        strict: a sample that cannot be decoded ends the run.
        check: compare the bytes of every sample with the SHA-256 of its row whenever they are read.
        prefetch: batches decoded ahead.
        pin: hand over pinned memory, for copies to a GPU that do not wait.
        shard_cache: where remote shards are kept; None: 32 GiB in `$OPENUS_CACHE/shards` (~/.cache/openus).
        pixels: decoded pictures (`usfmae.stream.pixels.open_pixels`), kept from the first epoch on.
        device: decode JPEGs there (`usfmae.stream.device`), in a thread of this process instead of the workers.

    A sample that cannot be decoded is logged with its key and shard, kept in `bad`, and replaced by the next
    position of the epoch that can (with that position's own view), whatever batch or rank that one belongs to.

    Raises UsageError, CorpusError: see `Share`; also for a cursor of another order.
    """

    def __init__(
        self,
        index: Index,
        *,
        batch_size: int,
        size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        cursor: Cursor | None = None,
        epochs: int | None = None,
        crop: tuple[float, float] | None = (0.2, 1.0),
        interpolation: str = "linear",
        decode_side: int | None = None,
        plan: Plan | None = None,
        tail: str = "pad",
        strict: bool = False,
        check: bool = True,
        prefetch: int = 3,
        pin: bool = False,
        shard_cache: ShardCache | None = None,
        pixels: PixelCache | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.index, self.batch_size, self.size, self.workers = index, batch_size, size, workers
        self.epochs, self.crop, self.interpolation = epochs, crop, interpolation
        self.strict, self.check, self.prefetch, self.pin = strict, check, max(prefetch, 1), pin
        self.device = device
        if device is not None and pixels is not None:
            raise UsageError(
                "pictures kept decoded are decoded by the CPU; leave out the device, or the cache"
            )
        if interpolation not in INTERPOLATIONS:
            hint = did_you_mean(interpolation, INTERPOLATIONS)
            raise UsageError(
                f"interpolation '{interpolation}' is unknown{hint}; use {' or '.join(INTERPOLATIONS)}"
            )
        self.side = decode_side_of(size) if decode_side is None else decode_side
        self.plan = plan if plan is not None else make_plan(index, seed)
        # Of the order and of the data: a cursor means the same samples where both are the same.
        self.fingerprint = self.plan.fingerprint ^ int(index.identity[:8], 16) | 1
        self.share = Share(self.plan.count, batch_size, world, rank, tail)
        self.shard_cache, self.pixels = self._cache_for(shard_cache), pixels
        if pixels is not None and pixels.side != self.side:
            raise UsageError(
                f"the pixel cache holds pictures of side {pixels.side}, the loader wants {self.side}"
            )
        self.cursor = self._checked(cursor or Cursor())
        self.bad: list[BadSample] = []
        self.replaced = 0

    def _checked(self, cursor: Cursor) -> Cursor:
        if cursor.plan and cursor.plan != self.fingerprint:
            raise CorpusError(
                "the checkpoint was made with other data, another seed or another order of samples; resume with what "
                "it was made with, or begin a new run from its weights"
            )
        if not 0 <= cursor.samples < self.plan.count or cursor.epoch < 0:
            raise UsageError(f"the cursor {cursor} lies outside an epoch of {self.plan.count} samples")
        return replace(cursor, plan=self.fingerprint)

    def _cache_for(self, given: ShardCache | None) -> ShardCache | None:
        """The cache of remote shards; refuses one that cannot hold a shard for each process."""
        remote = [shard for shard in self.index.shard_info if Place(shard.url).folder is None]
        if not remote:
            return None
        cache = given or ShardCache(default_folder())
        need = max(shard.bytes for shard in remote) * max(self.workers, 1)
        if need > cache.limit:
            raise UsageError(
                f"the cache of {cache.limit:,} bytes is too small for {max(self.workers, 1)} reading processes: they "
                f"hold up to {need:,} bytes of shards at once; raise its limit or use fewer workers"
            )
        return cache

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch, the same on every rank."""
        return self.share.steps()

    @property
    def tail_note(self) -> str:
        """How the last step of an epoch is filled, in words for a log."""
        over = self.plan.count % self.share.step_size
        if not over:
            return f"{self.plan.count:,} samples fill {self.steps_per_epoch:,} steps exactly"
        if self.share.tail == "drop":
            return f"the last {over:,} samples of each epoch's order fill no whole step and are left out (tail: drop)"
        return (
            f"the last step of each epoch is filled up with the epoch's first {self.share.step_size - over:,} samples, "
            "which are seen twice (tail: pad)"
        )

    def _jobs(self) -> Iterator[_Job]:
        cursor = self.cursor
        if not self.share.steps(cursor.samples):  # a remainder that fills no step under another batch size
            cursor = Cursor(cursor.epoch + 1, 0, 0, cursor.plan)
        while self.epochs is None or cursor.epoch < self.epochs:
            epoch = cursor.epoch
            steps: list[tuple[Ints, int, Cursor]] = []
            while cursor.epoch == epoch and len(steps) * self.batch_size < _DRAWN_TOGETHER:
                positions, padded = self.share.positions(cursor.samples)
                cursor = self.share.advance(cursor)
                steps.append((positions, padded, cursor))
            rows, seeds = self.plan.draw(epoch, np.concatenate([positions for positions, _, _ in steps]))
            records = self.records(rows, seeds)
            for number, (positions, padded, after) in enumerate(steps):
                mine = slice(number * self.batch_size, (number + 1) * self.batch_size)
                yield _Job(
                    epoch, positions, rows[mine].copy(), seeds[mine].copy(), records[mine], padded, after
                )

    def records(self, rows: Ints, seeds: Words) -> NDArray[np.void]:
        """What a worker needs to make the views of `rows`: RECORD [n]."""
        index = self.index
        records = np.empty(len(rows), RECORD)
        records["row"], records["shard"] = rows, index.shard_of[rows]
        records["offset"], records["size"] = index.offset[rows], index.size[rows]
        records["width"], records["height"] = index.width[rows], index.height[rows]
        records["sha256"] = index.sha256[rows]
        reduction = records["reduction"] = reductions(index.width[rows], index.height[rows], self.side)
        width, height = -(-index.width[rows] // reduction), -(-index.height[rows] // reduction)
        if self.crop is None:
            boxes = np.stack([np.zeros_like(width), np.zeros_like(width), width, height], 1)
        else:
            boxes = crop_boxes(seeds, width, height, self.crop)
        for number, name in enumerate("xywh"):
            records[name] = boxes[:, number]
        return records

    def views(self) -> Views:
        """What makes the views of this loader's records in this process."""
        return Views(
            self.index.shard_info, self.size, self.interpolation, self.check, self.shard_cache, self.pixels
        )

    def __iter__(self) -> Iterator[Batch]:
        views = self.views()
        ahead = ShardsAhead(self.index, self.shard_cache, (job.rows for job in self._jobs()))
        if self.device is not None:
            batches = self._on_device(views, self.device)
        else:
            batches = self._in_workers(views) if self.workers else self._here(views)
        try:
            for batch in batches:
                ahead.advance()
                yield batch
        finally:
            ahead.close()
            views.close()

    def _here(self, views: Views) -> Iterator[Batch]:
        for job in self._jobs():
            out = np.empty((self.batch_size, self.size, self.size), np.uint8)
            bad = views.fill(job.records, out)
            yield self._finish(job, torch.from_numpy(out).unsqueeze(1), bad, views)

    def _on_device(self, views: Views, device: torch.device) -> Iterator[Batch]:
        maker = DeviceViews(self.views(), self.size, self.interpolation, device)
        jobs, ahead = self._jobs(), deque[tuple[_Job, Future[tuple[Tensor, list[Bad]]]]]()
        thread = ThreadPoolExecutor(1, "decode")
        try:
            while True:
                while len(ahead) < self.prefetch and (job := next(jobs, None)):
                    ahead.append((job, thread.submit(maker.make, job.records)))
                if not ahead:
                    return
                job, made = ahead.popleft()
                images, bad = made.result()
                if device.type == "cuda":  # made on another stream: its memory is not to be reused too early
                    images.record_stream(torch.cuda.current_stream(device))
                yield self._finish(job, images, bad, views)
        finally:
            thread.shutdown(cancel_futures=True)
            maker.close()

    def _in_workers(self, views: Views) -> Iterator[Batch]:
        # Two slots more than are being filled: the batch in the consumer's hands and the one before it.
        batches = SharedBatches(self.prefetch + 2, self.batch_size, self.size)
        inherit = [] if self.pixels is None else [self.pixels.file]
        pool = Pool(self.workers, batches, self._spec(), inherit)
        jobs, ahead = self._jobs(), deque[_Job]()
        try:
            while True:
                while len(ahead) < self.prefetch and batches.free and (job := next(jobs, None)):
                    job.slot = batches.free.popleft()
                    pool.submit(job.slot, job.records)
                    ahead.append(job)
                if not ahead:
                    return
                job = ahead.popleft()
                bad = pool.wait(job.slot)
                out = batches.take(job.slot)
                if (
                    len(batches.free) + len(ahead) < 2
                ):  # the consumer keeps many batches: give it its own copy
                    out = out.copy()
                yield self._finish(job, torch.from_numpy(out).unsqueeze(1), bad, views)
                del out
        finally:
            pool.close()

    def _spec(self) -> dict[str, Any]:
        return {
            "shards": [asdict(shard) for shard in self.index.shard_info],
            "size": self.size,
            "interpolation": self.interpolation,
            "check": self.check,
            "cache": self.shard_cache.spec() if self.shard_cache else None,
            "pixels": self.pixels.spec() if self.pixels else None,
        }

    def _finish(self, job: _Job, images: Tensor, bad: list[Bad], views: Views) -> Batch:
        for item in sorted(bad, key=lambda item: item.place):
            images[item.place, 0] = torch.from_numpy(self._replacement(job, item, views))
        self.cursor = job.cursor
        return Batch(
            images.pin_memory() if self.pin and images.device.type == "cpu" else images,
            torch.from_numpy(job.rows),
            torch.from_numpy(job.seeds.view(np.int64)),
            job.cursor,
            job.padded,
        )

    def _replacement(self, job: _Job, item: Bad, views: Views) -> NDArray[np.uint8]:
        """The view uint8 [S, S] of the next position that can be decoded, in the place of a bad sample; says so."""
        out: NDArray[np.uint8] = np.empty((1, self.size, self.size), np.uint8)
        row = self.index.row(item.row)
        where = f"sample {row['key']} in shard {row['shard']}: {item.message}"
        if self.strict:
            raise CorpusError(
                f"{where}; data are strict, so the run ends (run 'openus verify' on the corpus)"
            )
        most = min(self.plan.count, _MOST_BAD_IN_A_ROW)
        for further in range(1, most):
            position = (job.positions[item.place : item.place + 1] + further) % self.plan.count
            rows, seeds = self.plan.draw(job.epoch, position)
            if not views.fill(self.records(rows, seeds), out):
                break
        else:
            raise CorpusError(f"{where}, and so are the next {most - 1}; run 'openus verify' on the corpus")
        job.rows[item.place], job.seeds[item.place] = rows[0], seeds[0]
        self.replaced += 1
        if all(known.row != item.row for known in self.bad):
            self.bad.append(
                BadSample(item.row, row["key"], row["shard"], item.reason, item.message, int(rows[0]))
            )
            log.warning("%s; replaced by the next sample in order", where)
        view: NDArray[np.uint8] = out[0]
        return view
