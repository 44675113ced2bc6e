"""A cache of decoded pictures: after the first epoch nothing is decoded any more.

One file holds every picture of a set as grey uint8 at the size the loader decodes to, its place known from
the manifest alone, so its size is said before it starts and workers write into it without asking one another.
In memory the file has no name and belongs to one run; in a folder it is named after the data, is found again
by the next run and is shared by all ranks of the machine (the system's page cache keeps it in memory
where there is room).

Layout: 4 KiB of JSON; int64 [n + 1] places; int32 [n, 2] heights and widths; uint8 [n], 1 where the picture is
there; the pixels. A picture is written before its mark. A file that was not closed properly is emptied if
the machine was started anew since, as marks may have reached the disk before their pixels.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import CorpusError, UsageError
from usfmae.stream.decode import Grey, reductions

if TYPE_CHECKING:
    from usfmae.stream.index import Index

log = logging.getLogger("usfmae.stream")

_HEAD = 4096
_VERSION = 1


class PixelCache:
    """The decoded pictures of one set. Made by `open_pixels`; workers `attach` to it."""

    def __init__(
        self, file: int, count: int, side: int, path: Path | None = None, writable: bool = True
    ) -> None:
        self.file, self.count, self.side, self.path = file, count, side, path
        self._map = mmap.mmap(file, 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        at = _HEAD
        self._place: NDArray[np.int64] = np.frombuffer(self._map, np.int64, count + 1, at)
        at += 8 * (count + 1)
        self._shape: NDArray[np.int32] = np.frombuffer(self._map, np.int32, 2 * count, at).reshape(count, 2)
        self._marks_at = at + 8 * count
        self._marks: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, count, self._marks_at)
        self._pixels: Grey = np.frombuffer(self._map, np.uint8)

    @property
    def bytes(self) -> int:
        """Size of the whole cache."""
        return len(self._map)

    @property
    def filled(self) -> int:
        """Pictures that are there."""
        return int(np.count_nonzero(self._marks))

    def get(self, row: int) -> Grey | None:
        """The picture of a row, uint8 [h, w], a view not to be written to; None where it is not there yet."""
        if not self._marks[row]:
            return None
        height, width = self._shape[row].tolist()
        at = int(self._place[row])
        return self._pixels[at : at + height * width].reshape(height, width)

    def put(self, row: int, grey: Grey) -> None:
        """Keep the picture of a row. Two processes may do so at once: they write the same bytes."""
        at = int(self._place[row])
        os.pwrite(self.file, np.ascontiguousarray(grey).data, at)
        os.pwrite(self.file, b"\1", self._marks_at + row)

    def spec(self) -> dict[str, Any]:
        """What a worker needs to attach."""
        return {"file": self.file, "count": self.count, "side": self.side}

    @classmethod
    def attach(cls, file: int, count: int, side: int) -> PixelCache:
        """The cache behind an inherited file descriptor."""
        return cls(file, count, side, writable=False)

    def close(self) -> None:
        """Write everything to disk; the last user of a file marks it as sound."""
        if self.path is not None:
            os.fsync(self.file)
            with contextlib.suppress(OSError):  # another run or rank still writes: it will be the last
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write_head(self.file, (_read_head(self.file) or {}) | {"boot": ""})
                os.fsync(self.file)
            fcntl.flock(self.file, fcntl.LOCK_UN)  # the mapping keeps the open file, and the lock with it
        os.close(self.file)


def open_pixels(index: Index, side: int, where: str | Path) -> PixelCache:
    """Make (or find again) the cache of decoded pictures.

    Args:
        index: of the set.
        side: the `decode_side` of the loader that uses it (8/7 of the view, rounded up, unless set).
        where: `memory`, or a folder on a local disk.

    Raises CorpusError where it does not fit, saying its size and what is free.
    """
    height, width = _shapes(index, side)
    places = _layout(height * width)
    size = int(places[-1])
    shown = f"{index.count:,} decoded pictures of '{index.set}' take {size / 1e9:,.2f} GB"
    if str(where) == "memory":
        file = _in_memory(size, shown)
        _fill_tables(file, index, side, height, width, places)
        log.info("%s in shared memory; from the second epoch on nothing is decoded", shown)
        return PixelCache(file, index.count, side)
    path = Path(where) / f"pixels-{index.set}-{_identity(index, side)}.u8"
    file = _on_disk(path, size, shown, index, side, height, width, places)
    cache = PixelCache(file, index.count, side, path)
    log.info("%s in %s; %d are there already; once all are, nothing is decoded", shown, path, cache.filled)
    return cache


def _shapes(index: Index, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    reduction = reductions(index.width, index.height, side)
    return -(-index.height.astype(np.int64) // reduction), -(-index.width.astype(np.int64) // reduction)


def _layout(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each picture begins, and the end: int64 [n + 1]."""
    first = _HEAD + 8 * (len(sizes) + 1) + 8 * len(sizes) + len(sizes)
    return first + np.concatenate([[0], np.cumsum(sizes)])


def _identity(index: Index, side: int) -> str:
    """16 hexadecimal digits of the shards' contents and the decoded size."""
    return hashlib.sha256(json.dumps([_VERSION, index.set, side, index.identity]).encode()).hexdigest()[:16]


def _in_memory(size: int, shown: str) -> int:
    if not hasattr(os, "memfd_create"):
        raise UsageError(
            f"{shown}; this system has no files without a name, so give a folder instead of 'memory'"
        )
    available = _available_memory()
    if size > available:
        raise CorpusError(
            f"{shown}, {available / 1e9:,.2f} GB of memory are available; give a folder on a local disk for the cache, "
            "or run without it"
        )
    file = os.memfd_create("usfmae-pixels")
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        os.close(file)
        raise CorpusError(
            f"{shown}; the system gives no memory for them ({error.strerror}); run without it"
        ) from error
    return file


def _available_memory() -> int:
    """Bytes of memory that can be taken without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _on_disk(
    path: Path, size: int, shown: str, index: Index, side: int,
    height: NDArray[np.int64], width: NDArray[np.int64], places: NDArray[np.int64],
) -> int:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_suffix(".lock")):  # the ranks of a machine come here at the same time
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(file, fcntl.LOCK_SH)
        head = _read_head(file)
        if head is not None and os.fstat(file).st_size == size and head.get("boot") in ("", _boot()):
            _write_head(file, head | {"boot": _boot()})
            return file
        free = shutil.disk_usage(path.parent).free + os.fstat(file).st_size
        try:
            if size > free:
                raise OSError(errno.ENOSPC, f"{free / 1e9:,.2f} GB are free")
            os.ftruncate(file, 0)
            if hasattr(os, "posix_fallocate"):  # a hole would end the run when the disk is full later
                os.posix_fallocate(file, 0, size)
            os.ftruncate(file, size)
            _fill_tables(file, index, side, height, width, places)
        except OSError as error:
            os.close(file)
            path.unlink(missing_ok=True)
            raise CorpusError(
                f"{shown}; {path.parent}: {error.strerror}; make room there, choose another disk, or run without it"
            ) from error
    return file


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill_tables(
    file: int, index: Index, side: int,
    height: NDArray[np.int64], width: NDArray[np.int64], places: NDArray[np.int64],
) -> None:  # fmt: skip
    tables = places.astype("<i8").tobytes() + np.stack([height, width], 1).astype("<i4").tobytes()
    _write_all(file, tables, _HEAD)
    _write_head(file, {"version": _VERSION, "set": index.set, "side": side, "boot": _boot()})


def _write_all(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _write_head(file: int, head: dict[str, Any]) -> None:
    _write_all(file, json.dumps(head).encode().ljust(_HEAD), 0)


def _read_head(file: int) -> dict[str, Any] | None:
    try:
        head: dict[str, Any] = json.loads(os.pread(file, _HEAD, 0))
        return head
    except ValueError:
        return None


def _boot() -> str:
    """What changes when the machine starts anew; "unknown" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
