"""Remote shards on the local disk: bounded, shared by all ranks and workers of a machine, each fetched once.

A shard is fetched whole, checked against its size and SHA-256 and renamed to its final name, under a lock, so
that of many processes that want it one fetches and the others wait. Files that somebody reads are held by
a shared lock; room is made by removing those nobody holds, least recently used first. Locks belong to open
files, so a process that dies leaves none behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openus.errors import CorpusError
from openus.storage.places import NoRangesError, open_url
from usfmae.stream.shard import Shard

log = logging.getLogger("usfmae.stream")

DEFAULT_LIMIT = 32 << 30
_PIECE = 1 << 20
_RETRIES = 4
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def default_folder() -> Path:
    """`$OPENUS_CACHE/shards`, or `~/.cache/openus/shards`."""
    return Path(os.environ.get("OPENUS_CACHE") or "~/.cache/openus").expanduser() / "shards"


class ShardCache:
    """A folder of fetched shards.

    Args:
        folder: made if absent; on a disk of this machine.
        limit: bytes of shards to keep at most; must hold one shard for each process that reads.
        patience: seconds to wait for others to let go of a shard when there is no room.
    """

    def __init__(self, folder: str | Path, limit: int = DEFAULT_LIMIT, patience: float = 600.0) -> None:
        self.folder, self.limit, self.patience = Path(folder), limit, patience
        self._locks = self.folder / ".locks"
        self._locks.mkdir(parents=True, exist_ok=True)

    def spec(self) -> dict[str, Any]:
        """What a worker needs to use the same cache."""
        return {"folder": str(self.folder), "limit": self.limit, "patience": self.patience}

    def path(self, shard: Shard) -> Path:
        """Where a shard lies; the name holds its content, so another version of it lies elsewhere."""
        mark = shard.sha256 or hashlib.sha256(shard.url.encode()).hexdigest()
        return self.folder / f"{mark[:16]}-{shard.name}"

    def open(self, shard: Shard, release: Callable[[], None] = lambda: None) -> int:
        """A descriptor of the local copy, fetched first where needed; holds the shard until it is closed.

        `release` is called when room is wanted, to close what the caller holds. Raises CorpusError: the shard
        cannot be had, is not the one the corpus lists, or finds no room.
        """
        deadline = time.monotonic() + self.patience
        while True:
            if (handle := self._held(shard)) is not None:
                return handle
            release()
            if not self.fetch(shard):
                if time.monotonic() > deadline:
                    raise CorpusError(
                        f"{self.folder}: no room for {shard.name} within {self.patience:.0f} s: all {self.limit:,} "
                        "bytes of the cache hold shards in use; raise its limit or lower the number of workers"
                    )
                time.sleep(0.05)

    def fetch(self, shard: Shard) -> bool:
        """Bring a shard here; True when it is. False when what others hold leaves no room for it.

        Raises CorpusError: it cannot be had, is not the one the corpus lists, or the disk is full.
        """
        target = self.path(shard)
        with _locked(self._locks / f"{target.name}.lock") as lock:
            if _is_there(target, shard):
                return True
            if not self._make_room(shard, lock):
                return False
            part = target.with_name(f".{target.name}.part")
            try:
                self._download(shard, part)
                part.replace(target)
            except OSError as error:
                if error.errno in _FULL:
                    raise CorpusError(
                        f"{self.folder}: the disk is full while fetching {shard.name} ({shard.bytes:,} bytes): make "
                        "room, choose another folder for the cache, or lower its limit"
                    ) from error
                raise CorpusError(
                    f"{error.filename or part}: {error.strerror}; choose another cache folder"
                ) from error
            finally:
                part.unlink(missing_ok=True)
        return True

    def _held(self, shard: Shard) -> int | None:
        """The copy, open and under a shared lock; None where there is none (any more)."""
        try:
            handle = os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(handle, fcntl.LOCK_SH)
        # Removed while we waited for the lock, or another length.
        if os.fstat(handle).st_nlink == 0 or not _is_there(handle, shard):
            os.close(handle)
            return None
        with contextlib.suppress(OSError):
            os.utime(handle)  # when it was last used
        return handle

    def _make_room(self, shard: Shard, lock: int) -> bool:
        size = max(shard.bytes, 0)
        if size > self.limit:
            raise CorpusError(
                f"{shard.name} has {size:,} bytes, the cache may hold {self.limit:,}; raise its limit above the size "
                "of the largest shard times the number of workers"
            )
        with _locked(self._locks / "room"):
            # In this order: a fetch that ends in between is counted twice, not overlooked.
            under_way = self._under_way(lock)
            kept = sorted(self._kept(), key=lambda item: item[0])
            need = sum(item[1] for item in kept) + under_way + size - self.limit
            for _, length, path in kept:
                if need <= 0:
                    break
                if _removed(path):
                    need -= length
            os.pwrite(lock, str(size).encode().ljust(20), 0)  # counted by others while the fetch is under way
        if need > 0:
            os.ftruncate(lock, 0)
        return need <= 0

    def _kept(self) -> Iterator[tuple[int, int, Path]]:
        """When last used, size and path of each shard here."""
        for path in self.folder.iterdir():
            if path.suffix == ".tar" and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    yield stat.st_mtime_ns, stat.st_size, path

    def _under_way(self, mine: int) -> int:
        """Bytes of the fetches other processes are at; a lock that can be had belongs to none."""
        total = 0
        for path in self._locks.glob("*.lock"):
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino == os.fstat(mine).st_ino:
                    continue
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    total += int(file.read(20) or 0)
                else:  # a process that was killed while fetching left its piece
                    (self.folder / f".{path.stem}.part").unlink(missing_ok=True)
        return total

    def _download(self, shard: Shard, part: Path) -> None:
        digest, length, failures = hashlib.sha256(), 0, 0
        with part.open("wb") as file:
            while True:
                opened = False
                try:
                    with open_url(shard.url, start=length) as stream:
                        opened = True
                        while piece := stream.read(_PIECE):
                            digest.update(piece)
                            length += len(piece)
                            file.write(piece)
                            if 0 <= shard.bytes < length:
                                break
                    break
                except (
                    CorpusError
                ) as error:  # the connection broke: go on from there, the hash covers the seam
                    failures += 1
                    if failures > _RETRIES or not (opened or length):
                        raise CorpusError(f"shard {shard.name} cannot be fetched: {error}") from error
                    log.warning(
                        "%s (attempt %d of %d goes on at byte %d)", error, failures + 1, _RETRIES + 1, length
                    )
                    time.sleep(0.2 * 2**failures)
                    if isinstance(error, NoRangesError):  # the whole shard anew, then
                        digest, length = hashlib.sha256(), 0
                        file.seek(0)
                        file.truncate()
        found = digest.hexdigest()
        if shard.bytes >= 0 and length != shard.bytes:
            raise CorpusError(
                f"{shard.url}: {length:,} bytes came, the corpus lists {shard.bytes:,}; the shard was replaced or cut "
                "short: compare the corpus at its place with 'openus verify', and publish it again"
            )
        if shard.sha256 and found != shard.sha256:
            raise CorpusError(
                f"{shard.url}: SHA-256 {found} came, the corpus lists {shard.sha256}; the shard was altered: check the "
                "corpus at its place with 'openus verify', and publish it again"
            )


def _is_there(copy: Path | int, shard: Shard) -> bool:
    """Whether a copy is there and as long as it should be: one may be cut where the machine lost its power."""
    try:
        return shard.bytes in (-1, os.stat(copy).st_size)  # noqa: PTH116 - of a descriptor, too
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the exclusive lock of a file; yields its descriptor. It falls with the process."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _removed(path: Path) -> bool:
    """Remove a shard unless somebody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
