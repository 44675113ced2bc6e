"""Byte ranges of shards: local files by `os.pread`, remote ones through the shard cache or a range request."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openus.errors import CorpusError
from openus.places import Place, open_url

if TYPE_CHECKING:
    from usfmae.stream.cache import ShardCache
    from usfmae.stream.shard import Shard


class ShardReader:
    """Reads byte ranges of the shards of one set; keeps the last `keep` files open. Not shared between processes.

    Args:
        shards: of the index, in order.
        cache: where remote shards are fetched to; None: each read of a remote shard is one range request.
        keep: files kept open at once.
    """

    def __init__(self, shards: Sequence[Shard], cache: ShardCache | None = None, keep: int = 64) -> None:
        self.shards, self.cache, self.keep = shards, cache, keep
        self._paths = [Place(shard.url).folder for shard in shards]
        self._open: OrderedDict[int, int] = OrderedDict()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of a shard from `offset`.

        Raises CorpusError where the shard is missing, unreadable or ends before.
        """
        entry = self.shards[shard]
        if self.cache is None and self._paths[shard] is None:
            with open_url(entry.url, offset, offset + size) as stream:
                data = stream.read(size)
        else:
            try:
                data = os.pread(self._file(shard), size, offset)
            except OSError as error:
                raise CorpusError(
                    f"{entry.url}: {error.strerror or error}; the shard was there when the run began. Put it back "
                    "(run 'openus verify', then 'openus build' again) and resume the run"
                ) from error
        if len(data) != size:
            raise CorpusError(
                f"{entry.url}: ends at byte {offset + len(data)}, the manifest says {offset + size} and more; the "
                "shard is cut short: run 'openus verify', then 'openus build' again"
            )
        return data

    def _file(self, shard: int) -> int:
        handle = self._open.get(shard)
        if handle is not None:
            self._open.move_to_end(shard)
            return handle
        while len(self._open) >= self.keep:
            os.close(self._open.popitem(last=False)[1])
        entry = self.shards[shard]
        path = self._paths[shard]
        if path is None:
            assert self.cache is not None
            handle = self.cache.open(entry, release=self.close)
        else:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._open[shard] = handle
        return handle
