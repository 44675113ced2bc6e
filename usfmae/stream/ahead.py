"""Fetching remote shards before they are needed, in the order the plan will read them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openus.errors import OpenUSError
from usfmae.stream.plan import Ints

if TYPE_CHECKING:
    from usfmae.stream.cache import ShardCache
    from usfmae.stream.index import Index

log = logging.getLogger("usfmae.stream")

_STEPS = 64


class ShardsAhead:
    """A thread that fetches the shards of the next steps; does nothing without a cache.

    Args:
        index: of the set.
        cache: of remote shards, or None.
        rows: the rows of each coming step, int64 [B].
        steps: how far to look.

    What is fetched but not yet wanted takes at most half of the cache, or it would push out what is being read.
    It never fails the run: a shard that cannot be had is met again by the worker that needs it.
    """

    def __init__(
        self, index: Index, cache: ShardCache | None, rows: Iterator[Ints], steps: int = _STEPS
    ) -> None:
        self._index, self._steps = index, steps
        self._taken = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if cache is not None:
            self._thread = threading.Thread(target=self._run, args=(cache, rows), daemon=True)
            self._thread.start()

    def advance(self) -> None:
        """One step was taken: look one further."""
        with self._changed:
            self._taken += 1
            self._changed.notify()

    def close(self) -> None:
        """Stop after the fetch under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self, cache: ShardCache, rows: Iterator[Ints]) -> None:
        last: dict[int, int] = {}  # the last step for which each shard was looked at
        coming: deque[tuple[int, int]] = deque()  # step and bytes of what was fetched ahead of its step
        room = cache.limit // 2
        for step, wanted in enumerate(rows):
            if not self._may(step, coming, room):  # also where nothing is to be fetched: no racing ahead
                return
            for number in np.unique(self._index.shard_of[wanted]).tolist():
                recent = step - last.get(number, -self._steps - 1) <= self._steps
                last[number] = step
                if recent:
                    continue
                shard = self._index.shard_info[number]
                coming.append((step, max(shard.bytes, 0)))
                if not self._may(step, coming, room):
                    return
                try:
                    cache.fetch(shard)
                except OpenUSError as error:
                    log.warning("fetching ahead: %s", error)
                    return

    def _may(self, step: int, coming: deque[tuple[int, int]], room: int) -> bool:
        """Wait until `step` is near and what was fetched ahead leaves room; False when the loader has ended."""
        with self._changed:
            while not self._stopped:
                while coming and coming[0][0] <= self._taken:
                    coming.popleft()
                near = step <= self._taken + self._steps
                if near and (len(coming) <= 1 or sum(size for _, size in coming) <= room):
                    return True
                self._changed.wait()
        return False
