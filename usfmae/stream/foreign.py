"""Shards without a manifest, streamed through the webdataset library: quick to begin with, weaker in what it promises.

For the strong promises (each sample once an epoch, exact resume, any number of ranks and workers) make a
manifest first: `openus.shards.foreign.index_shards`, the command `openus index`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from openus.errors import CorpusError, DecodeError, UsageError
from openus.shards.foreign import PICTURES, expand
from openus.storage.places import Place, open_url
from usfmae.stream.decode import INTERPOLATIONS, crop_boxes, cut, decode_any, decode_side_of
from usfmae.stream.loader import Batch
from usfmae.stream.plan import Cursor, key
from usfmae.stream.views import one_thread

log = logging.getLogger("usfmae.stream")

WEAKER = (
    "these shards have no manifest: shards are drawn with replacement and samples shuffled in a buffer, so an epoch "
    "is a number of steps and not each sample once; a resumed run draws anew; another number of ranks or workers "
    "gives another order; nothing is checked against a hash. Run 'openus index' on them for the strong promises"
)


def is_foreign(data: str) -> bool:
    """Whether `data` names tars (by path or address, braces and all) and not a corpus."""
    return data.partition("?")[0].endswith((".tar", ".tar}")) or ".tar::" in data


@dataclass(frozen=True)
class ForeignSet:
    """What `usfmae.stream.index.Index` is for a corpus, as far as it can be: tars, and how many draws an epoch is.

    Raises UsageError: a command among the addresses, or less than one draw.
    """

    urls: str
    count: int
    set: str = "foreign"
    sources: tuple[str, ...] = ("foreign",)

    def __post_init__(self) -> None:
        expand(self.urls)
        if self.count < 1:
            raise UsageError(
                f"{self.urls}: shards without a manifest do not say how many samples they hold; say how many an epoch "
                "is to draw, as --set data.mixture.samples=100000, or run 'openus index' on them"
            )

    @property
    def rows(self) -> range:
        """As many as an epoch has draws."""
        return range(self.count)

    @property
    def source_of(self) -> NDArray[np.int16]:
        """int16 [1]: rows are not known (-1), and all of one source."""
        return np.zeros(1, np.int16)


class ForeignLoader:
    """Feeds one rank from WebDataset shards; says at the start what it does not promise.

    Args:
        urls: a brace address or a list (files, http(s), and what fsspec knows); no commands.
        steps_per_epoch: as the number of samples is not known.
        batch_size, size, seed, workers, rank, world, cursor, epochs, crop, interpolation, strict: as in
            `usfmae.stream.loader.Loader`; the numbers of workers and ranks change the order here.
        pin: hand over pinned memory.
        picture: extension of the member to take; None: jpg, jpeg, png or webp, whichever is there.
        buffer: samples that are shuffled together in each worker.

    `Batch.indices` are -1: rows exist only in an index. The same arguments give the same batches. A sample that
    cannot be decoded is logged and the next one taken. Raises UsageError, CorpusError (a shard cannot be had).
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        steps_per_epoch: int,
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
        strict: bool = False,
        pin: bool = False,
        picture: str | None = None,
        buffer: int = 1000,
    ) -> None:
        if steps_per_epoch < 1 or batch_size < 1 or not 0 <= rank < world:
            raise UsageError(
                f"steps per epoch {steps_per_epoch}, batch size {batch_size}, rank {rank} of {world}: expected at "
                "least 1 step and 1 sample, and a rank from 0 to world - 1"
            )
        self.urls, self.steps_per_epoch, self.workers, self.epochs = (
            expand(urls),
            steps_per_epoch,
            workers,
            epochs,
        )
        self.batch_size, self.world, self.pin = batch_size, world, pin
        self.cursor = cursor or Cursor()
        self._views = _Views(self.urls, size, seed, rank, crop, interpolation, strict, picture, buffer)

    @property
    def tail_note(self) -> str:
        """What an epoch is, in words for a log."""
        return f"an epoch is {self.steps_per_epoch:,} steps of shards without a manifest"

    def __iter__(self) -> Iterator[Batch]:
        log.warning(WEAKER)
        cursor = self.cursor
        self._views.start = (cursor.epoch, cursor.step)
        feed = DataLoader(
            self._views, self.batch_size, num_workers=self.workers, drop_last=True, pin_memory=self.pin
        )
        for views, seeds in _plain_errors(feed):
            if self.epochs is not None and cursor.epoch >= self.epochs:
                return
            step = cursor.step + 1
            if step == self.steps_per_epoch:
                cursor = Cursor(cursor.epoch + 1)
            else:
                cursor = Cursor(cursor.epoch, step, step * self.batch_size * self.world)
            self.cursor = cursor
            yield Batch(views, torch.full((len(views),), -1), seeds, cursor)
            if self.epochs is not None and cursor.epoch >= self.epochs:
                return


def _plain_errors(feed: Iterable[Any]) -> Iterator[Any]:
    """Errors of a worker as one line again; torch puts the worker's traceback before it."""
    try:
        yield from feed
    except CorpusError as error:
        raise CorpusError(
            str(error).strip().splitlines()[-1].removeprefix("openus.errors.CorpusError: ")
        ) from error


class _Views(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """The endless stream of one worker: views uint8 [1, S, S] and their seeds."""

    def __init__(
        self, urls: list[str], size: int, seed: int, rank: int, crop: tuple[float, float] | None, interpolation: str,
        strict: bool, picture: str | None, buffer: int,
    ) -> None:  # fmt: skip
        self.urls, self.size, self.seed, self.rank, self.crop = urls, size, seed, rank, crop
        self.interpolation, self.strict, self.picture = INTERPOLATIONS[interpolation], strict, picture
        self.buffer, self.start = buffer, (0, 0)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import webdataset as wds

        one_thread()
        worker = get_worker_info()
        mine = key(self.seed, self.rank, 0 if worker is None else worker.id, *self.start)
        number = int(mine[0] >> np.uint64(1))
        shards = wds.ResampledShards(self.urls, seed=number, worker_seed=lambda: 0, deterministic=True)
        pipeline = wds.DataPipeline(
            shards,
            _opened,
            wds.tariterators.tar_file_expander,
            wds.tariterators.group_by_keys,
            wds.shuffle(self.buffer, initial=self.buffer, rng=Random(number)),
        )
        failed = 0
        for count, sample in enumerate(pipeline):
            seed = key(int(mine[0]), count)
            try:
                view = self._view(sample, seed)
            except DecodeError as error:
                failed += 1
                where = f"sample {sample['__key__']} in {sample['__url__']}: {error}"
                if self.strict:
                    raise CorpusError(f"{where}; data are strict, so the run ends") from error
                if failed > self.buffer:
                    raise CorpusError(
                        f"{where}, and so are the {self.buffer} before it; are these pictures?"
                    ) from error
                log.warning("%s; the next one is taken", where)
                continue
            failed = 0
            yield torch.from_numpy(view)[None], torch.from_numpy(seed.view(np.int64))[0]

    def _view(self, sample: dict[str, Any], seed: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
        names = (self.picture,) if self.picture else PICTURES
        data = next((sample[name] for name in names if name in sample), None)
        if data is None:
            raise DecodeError(f"no member called {' or '.join(names)}", reason="no-picture")
        grey = decode_any(data, decode_side_of(self.size))
        height, width = grey.shape
        box = (0, 0, width, height)
        if self.crop is not None:
            box = tuple(crop_boxes(seed, np.array([width]), np.array([height]), self.crop)[0].tolist())
        out = np.empty((self.size, self.size), np.uint8)
        cut(grey, *box, out, self.interpolation)
        return out


def _opened(shards: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open each shard without a shell: webdataset's own opener would run curl, or a command in the address."""
    for shard in shards:
        folder = Place(shard["url"]).folder
        if folder is None:
            with open_url(shard["url"]) as stream:
                yield shard | {"stream": stream}
        else:
            try:
                with folder.open("rb") as file:
                    yield shard | {"stream": file}
            except OSError as error:
                raise CorpusError(f"{folder}: {error.strerror}; check the name of the shard") from error
