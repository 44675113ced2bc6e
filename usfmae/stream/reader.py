"""Byte ranges of shards: local files by `os.pread`, remote ones through the shard cache or a range request."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from openus.errors import CorpusError
from openus.storage.places import Place, open_url

if TYPE_CHECKING:
    from usfmae.stream.cache import ShardCache
    from usfmae.stream.shard import Shard


_Data = TypeVar("_Data", bytes, memoryview)


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
        self._buffer = memoryview(bytearray(1 << 18))
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
        if self.cache is None and self._paths[shard] is None:
            with open_url(self.shards[shard].url, offset, offset + size) as stream:
                return self._whole(stream.read(size), shard, offset, size)
        return bytes(self.view(shard, offset, size))

    def view(self, shard: int, offset: int, size: int) -> memoryview:
        """Like `read`, in memory of this reader: good until the next call, a third of the time."""
        if self.cache is None and self._paths[shard] is None:
            return memoryview(bytearray(self.read(shard, offset, size)))
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(2 * size))
        try:
            if not hasattr(os, "preadv"):  # older macOS
                return self._whole(
                    memoryview(bytearray(os.pread(self._file(shard), size, offset))), shard, offset, size
                )
            length = os.preadv(self._file(shard), [self._buffer[:size]], offset)
        except OSError as error:
            raise CorpusError(
                f"{self.shards[shard].url}: {error.strerror or error}; the shard was there when the run began. Put it "
                "back (run 'openus verify', then 'openus build' again) and resume the run"
            ) from error
        return self._whole(self._buffer[:length], shard, offset, size)

    def _whole(self, data: _Data, shard: int, offset: int, size: int) -> _Data:
        if len(data) != size:
            raise CorpusError(
                f"{self.shards[shard].url}: ends at byte {offset + len(data)}, the manifest says {offset + size} and "
                "more; the shard is cut short: run 'openus verify', then 'openus build' again"
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
