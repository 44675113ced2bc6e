"""What was fetched before: trust on first use, and one process at a time for each file.

``CACHE/lock.jsonl`` holds one JSON object a line, the last one about a thing counts:

- ``{"url", "size", "sha256", "first_seen"}``: the bytes an address gave when it was first fetched. Other
  bytes later are an error, unless the host makes the file on request (``stable: false``).
- ``{"path", "size", "mtime_ns", "sha256", …}``: a file on this machine whose checksums were computed; while
  size and time stay the same it is not read again.

Lines are only appended (under an inter-process lock), so that ten thousand files cost ten thousand lines.
They are not forced to the disk: a line lost in a crash costs no more than reading a file again.
Deleting lines is safe: what they said is then found out anew.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from openus.checksum import LENGTHS, file_digests
from openus.errors import ChecksumError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """The bytes an address gave first. `first_seen` is a date, ``YYYY-MM-DD``."""

    size: int
    sha256: str
    first_seen: str


@contextmanager
def exclusive(cache: Path, name: str) -> Iterator[None]:
    """Hold the inter-process lock called `name`; it is freed when the process ends, however it ends."""
    folder = cache / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    # A few thousand lock files serve any number of names; two names that share one only wait for each other.
    lock = filelock.FileLock(folder / (hashlib.sha256(name.encode()).hexdigest()[:3] + ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("%s: another process is at work on it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class LockFile:
    """The lock file of one cache folder, shared by all processes and threads that use it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.path = cache / "lock.jsonl"
        self._seen: dict[str, Seen] = {}
        self._local: dict[str, tuple[int, int, dict[str, str]]] = {}
        self._read_to = 0
        self._turn = threading.RLock()

    def seen(self, url: str) -> Seen | None:
        """What `url` (without secrets, see `openus.net.redact`) gave when it was first fetched."""
        self._reload()
        return self._seen.get(url)

    def record(self, url: str, size: int, sha256: str) -> None:
        """Remember the bytes of `url` from today on."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        self._append({"url": url, "size": size, "sha256": sha256, "first_seen": today})

    def check(self, url: str, size: int, sha256: str, *, stable: bool, what: str) -> None:
        """Compare bytes with those first seen at `url`, and record them where they are new.

        Raises `ChecksumError` for other bytes of a stable file; of one made on request only warns.
        """
        known = self.seen(url)
        if known is not None and known.sha256 != sha256:
            change = (
                f"{what}: {url} gave {known.size} bytes with sha256 {known.sha256} when first fetched "
                f"({known.first_seen}), and now {size} bytes with sha256 {sha256}"
            )
            if stable:
                raise ChecksumError(
                    f"{change}; the publisher replaced the file or it was tampered with: compare with the "
                    f"dataset's page, then delete its line in {self.path} to take the new bytes"
                )
            log.warning("%s; the host makes this file on request, so the new bytes are taken", change)
        if known is None or known.sha256 != sha256:
            self.record(url, size, sha256)

    def digests_of(self, path: Path) -> dict[str, str]:
        """The checksums computed earlier, if the file has the same size and time as then; else none."""
        self._reload()
        size, mtime, digests = self._local.get(self._key(path), (-1, -1, {}))
        stat = path.stat()
        return digests if (stat.st_size, stat.st_mtime_ns) == (size, mtime) else {}

    def stamp(self, path: Path, digests: Mapping[str, str]) -> None:
        """Remember checksums (algorithm to hexadecimal) of a file of this machine."""
        known = self.digests_of(path)
        if known.items() >= digests.items():
            return
        stat = path.stat()
        line = {"path": self._key(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        self._append({**line, **known, **digests})

    def digest(
        self, path: Path, algorithms: Iterable[str] = (), on_bytes: Callable[[int], None] | None = None
    ) -> dict[str, str]:
        """SHA-256 and `algorithms` of a file, read only if they were not computed before."""
        wanted = {"sha256", *algorithms}
        known = self.digests_of(path)
        if not wanted <= set(known):
            known = file_digests(path, sorted(wanted), on_bytes)
            self.stamp(path, known)
        return known

    def _key(self, path: Path) -> str:
        """Files in the cache by their path in it, so that the cache can be moved; others by full path."""
        if path.is_relative_to(self.cache):
            return path.relative_to(self.cache).as_posix()
        return path.resolve().as_posix()

    def _append(self, line: dict[str, Any]) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        data = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._turn, exclusive(self.cache, "lock.jsonl"), self.path.open("ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":  # a line cut off by a crash; close it, it is skipped when read
                    data = b"\n" + data
            stream.write(data)
        self._reload()

    def _reload(self) -> None:
        """Read the lines that were added since the last call, by this process or another."""
        with self._turn:
            self._read_tail()

    def _read_tail(self) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._read_to:  # somebody edited the file
            self._seen, self._local, self._read_to = {}, {}, 0
        if size == self._read_to:
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read_to)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        for line in data[:whole].splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if "url" in entry:
                self._seen[entry["url"]] = Seen(int(entry["size"]), entry["sha256"], entry["first_seen"])
            elif "path" in entry:
                digests = {name: str(entry[name]) for name in LENGTHS if name in entry}
                self._local[entry["path"]] = (int(entry["size"]), int(entry["mtime_ns"]), digests)
        except (ValueError, KeyError, TypeError):
            if line.strip():
                log.warning("%s: skipping a line that cannot be read: %.60r", self.path, line)
