"""The one engine that moves bytes: from a host or a mirror to a verified file on this machine.

A file arrives in ``CACHE/.partial/FOLDER/NAME.part``; ``NAME.part.json`` beside it keeps what identifies the
remote file (ETag, Last-Modified), so that a download goes on where it stopped, in a later process too, and
only if the file is still the same (RFC 9110, sections 13.1.5 If-Range and 14 Range). When it is complete and
its size and checksum are right it is renamed to ``CACHE/FOLDER/NAME``.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

import requests

from openus.checksum import file_digests, split_hash
from openus.errors import ChecksumError, OfflineError, SourceError, TransferError
from openus.hosts.base import RemoteFile
from openus.net import InterruptionError, Retrier, RetryPolicy, check_address, new_session, open_url, redact
from openus.transfer.lock import LockFile, exclusive
from openus.transfer.mirrors import Mirrors, mirror_path
from openus.transfer.partial import Part, announced, body
from openus.transfer.sniff import refuse_message
from openus.transfer.tally import OnBytes, Tally

log = logging.getLogger(__name__)

REPLACED = (
    "it was replaced at the host, damaged on the way, or the manifest is out of date: run it again, and compare "
    "with the dataset's page if it stays so"
)
_AT_ONCE = 4  # files of one route
DAMAGED = "the file was damaged on the way: run it again"


class Transfer:
    """Fetches files into `cache`, from `mirrors` first.

    mirrors:  folders or http(s) addresses under which HOST/PATH of a file is looked for. Files in a folder
              are used in place.
    offline:  no network at all; what is neither in the cache nor in a mirror folder raises `OfflineError`.
    on_bytes: called with (file, bytes so far, total or None) while bytes arrive or are checked.
    timeout:  seconds to connect, and between two pieces of an answer.
    """

    def __init__(
        self,
        cache: Path,
        *,
        mirrors: Sequence[str] = (),
        offline: bool = False,
        on_bytes: OnBytes | None = None,
        retry: RetryPolicy | None = None,
        timeout: tuple[float, float] = (15.0, 60.0),
    ) -> None:
        self.cache = cache.expanduser().absolute()
        self.mirrors = Mirrors(mirrors)
        self.offline = offline
        self.on_bytes = on_bytes or (lambda file, have, total: None)
        self._sessions = threading.local()
        self._stop = threading.Event()
        self.retry = retry or RetryPolicy()
        self.timeout = timeout
        self.lock = LockFile(self.cache)

    @property
    def session(self) -> requests.Session:
        """One of the calling thread's own."""
        if not hasattr(self._sessions, "own"):
            self._sessions.own = new_session()
        own: requests.Session = self._sessions.own
        return own

    def fetch_all(self, files: Sequence[RemoteFile], folder: str) -> list[Path]:
        """`fetch` for several files, a few at a time; paths in the order of `files`.

        The first failure stops the others; what arrived is kept, so that the next call goes on from there.
        `on_bytes` hears of all of them as one file (`openus.transfer.tally`).
        """
        if len(files) < 2:
            return [self.fetch(file, folder) for file in files]
        one_by_one, self.on_bytes = self.on_bytes, Tally(files, self.on_bytes)
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")
        try:
            running = [pool.submit(self._fetch_told, file, folder) for file in files]
            for ended in as_completed(running):
                ended.result()
            return [one.result() for one in running]
        finally:  # also on Ctrl-C
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()
            self.on_bytes = one_by_one

    def _fetch_told(self, file: RemoteFile, folder: str) -> Path:
        path = self.fetch(file, folder)
        size = path.stat().st_size
        self.on_bytes(file, size, size)
        return path

    def fetch(self, file: RemoteFile, folder: str) -> Path:
        """The verified local file: ``cache/folder/name``, or the file inside a mirror folder in place.

        Raises `TransferError` (the bytes did not arrive), `ChecksumError` (other bytes than expected),
        `OfflineError`, or `SourceError` for an unsafe name or a malformed checksum.
        """
        with self._claim(file, folder) as target:
            local = self._local(file, target)
            if local is not None:
                return local
            if self.offline:
                raise OfflineError(
                    f"{file.name}: not in the cache ({target}) nor in a mirror folder, and the network is "
                    "switched off; run it online once, or give a copy with --local"
                )
            for url in self.mirrors.urls(file):
                try:
                    return self._download(replace(file, headers={}), url, target)
                except TransferError as error:
                    log.warning("the mirror did not give %s, trying its host: %s", file.name, error)
            return self._download(file, file.url, target)

    def find(self, file: RemoteFile, folder: str) -> Path | None:
        """Like `fetch`, but only what is on this machine already: in a mirror folder or in the cache."""
        with self._claim(file, folder) as target:
            return self._local(file, target)

    def probe(self, file: RemoteFile) -> int | None:
        """The length the host announces, from its first bytes; None where it announces none.

        Raises what `fetch` would for a dead address, a web page in place of the file, or another size.
        """
        check_address(file.url)
        retrier = Retrier(self.retry, redact(file.url))
        while True:
            try:
                headers = {**file.headers, "Range": "bytes=0-2047"}
                with open_url(self.session, file.url, headers=headers, timeout=self.timeout) as response:
                    total = announced(response)
                    head = next(body(response, file.url, self.timeout[1]), b"")
                break
            except InterruptionError as error:
                retrier.failed(error)
        refuse_message(file.name, head[:2048], response.headers.get("Content-Type", ""), redact(file.url))
        _check_size(file, redact(file.url), total, REPLACED)
        return total

    @contextmanager
    def _claim(self, file: RemoteFile, folder: str) -> Iterator[Path]:
        """Keep other processes off a file; failures of the disk become one clear line."""
        if file.hash is not None:
            split_hash(file.hash)
        check_address(file.url)
        relative = safe_name(f"{folder}/{safe_name(file.name)}")
        try:
            with exclusive(self.cache, relative):
                yield self.cache / relative
        except OSError as error:
            _explain(error, file, self.cache)

    def _local(self, file: RemoteFile, target: Path) -> Path | None:
        for found in self.mirrors.files(file):
            self._verify(file, found)
            if found.name == file.name:
                return found
            # Members are called after their archive, so a file that is named otherwise in the mirror is
            # brought under its own name.
            return _place(found, target)
        if target.is_file():
            self._verify(file, target)
            return target
        return None

    def _verify(self, file: RemoteFile, path: Path) -> None:
        """Check a file that is here; its checksum is computed once, until its size or time changes."""
        size = path.stat().st_size
        if size == 0 and file.size != 0:
            raise ChecksumError(f"{path}: the file is empty; remove or replace it and run it again")
        with path.open("rb") as stream:
            refuse_message(file.name, stream.read(2048), "", str(path))
        hint = "remove or replace this file and run it again"
        _check_size(file, str(path), size, hint)
        algorithms = [split_hash(file.hash)[0]] if file.hash else []
        found = self.lock.digest(path, algorithms, lambda have: self.on_bytes(file, have, size))
        _check_hash(file, str(path), found, hint)
        self._remember(file, size, found["sha256"], str(path))

    def _remember(self, file: RemoteFile, size: int, sha256: str, what: str) -> None:
        """Trust on first use: compare with what the address gave before, where no checksum is published."""
        key = f"https://{mirror_path(file)}" if file.mirror else redact(file.url)
        if file.hash is None:
            self.lock.check(key, size, sha256, stable=file.stable, what=what)
            return
        # A published checksum was compared already, and is worth more than the memory of what was there.
        known = self.lock.seen(key)
        if known is None or known.sha256 != sha256:
            self.lock.record(key, size, sha256)

    def _download(self, file: RemoteFile, url: str, target: Path) -> Path:
        part = Part(self.cache / ".partial" / target.relative_to(self.cache))
        retrier = Retrier(self.retry, redact(url), self._stop.wait)
        whole_again = False
        while True:
            if self._stop.is_set():
                raise _stopped(file)
            try:
                resumed = self._receive(file, url, part, retrier)
            except InterruptionError as error:
                retrier.failed(error)
                continue
            try:
                digests = self._check(file, url, part)
            except ChecksumError:
                part.discard()
                if resumed and not whole_again:  # the pieces may stem from different files: once more, whole
                    whole_again = True
                    continue
                raise
            part.finish(target)
            self.lock.stamp(target, digests)
            return target

    def _receive(self, file: RemoteFile, url: str, part: Part, retrier: Retrier) -> bool:
        """One attempt at the rest of a file; return whether it was put together from pieces."""
        algorithms = {"sha256"} | ({split_hash(file.hash)[0]} if file.hash else set())
        shown = redact(url)
        ranges = part.ask(
            shown,
            algorithms,
            file.size,
            lambda have: self.on_bytes(file, have, file.size),
            safe=file.hash is not None,
        )
        response = open_url(
            self.session,
            url,
            headers={**file.headers, **ranges},
            timeout=self.timeout,
            accept=frozenset({416}),
        )
        with response:
            resumed, total = part.begin(response, shown)
            if not resumed:
                part.truncate(algorithms, total if total is not None else file.size)
            if response.status_code == 416:  # the part holds everything already
                return True
            self._check_room(file, total if total is not None else file.size, part.digests.length)
            self._copy(file, url, response, part, total, retrier)
        return resumed

    def _copy(
        self,
        file: RemoteFile,
        url: str,
        response: requests.Response,
        part: Part,
        total: int | None,
        retrier: Retrier,
    ) -> None:
        digests = part.digests
        with part.path.open("ab") as stream:
            for data in body(response, url, self.timeout[1]):
                if digests.length == 0:
                    refuse_message(file.name, data, response.headers.get("Content-Type", ""), redact(url))
                    _check_size(file, redact(url), total, REPLACED)
                stream.write(data)
                digests.update(data)
                if digests.length > part.furthest:
                    retrier.progressed(digests.length - part.furthest)
                    part.furthest = digests.length
                self.on_bytes(file, digests.length, total if total is not None else file.size)
                if self._stop.is_set() and digests.length != total:
                    raise _stopped(file)
                if file.stable and file.size is not None and digests.length > file.size:
                    break  # longer than it may be; the size check says so
            stream.flush()
            os.fsync(stream.fileno())
        if total is not None and digests.length < total:
            raise InterruptionError(
                f"{redact(url)}: the connection ended after {digests.length} of {total} bytes"
            )

    def _check(self, file: RemoteFile, url: str, part: Part) -> dict[str, str]:
        """Judge a complete download; return its checksums."""
        shown, size, found = redact(url), part.digests.length, part.digests.results()
        if size == 0 and file.size != 0:
            raise TransferError(f"{shown}: the host sent an empty file; try again later, or fetch it by hand")
        _check_size(file, shown, size, REPLACED)
        if part.told is not None and part.told != found["md5"]:
            raise ChecksumError(
                f"{shown}: the host says md5:{part.told}, found md5:{found['md5']}; {DAMAGED}"
            )
        algorithm = split_hash(file.hash)[0] if file.hash else "sha256"
        if algorithm not in found:  # a git blob whose length was not known beforehand
            found |= file_digests(part.path, [algorithm])
        _check_hash(file, shown, found, REPLACED)
        self._remember(file, size, found["sha256"], file.name)
        return found

    def _check_room(self, file: RemoteFile, length: int | None, have: int) -> None:
        free = shutil.disk_usage(self.cache).free
        if length is not None and length - have > free:
            raise TransferError(
                f"{file.name}: {length - have:,} more bytes are needed in {self.cache}, {free:,} are free; make "
                "room, or choose another folder with --cache"
            )


def _stopped(file: RemoteFile) -> TransferError:
    return TransferError(f"{file.name}: stopped, because another file failed; run it again to go on")


def _check_size(file: RemoteFile, where: str, size: int | None, hint: str) -> None:
    if file.stable and file.size is not None and size is not None and size != file.size:
        raise ChecksumError(f"{where}: expected {file.size} bytes, found {size}; {hint}")


def _check_hash(file: RemoteFile, where: str, found: Mapping[str, str], hint: str) -> None:
    """Compare with the published checksum; of a file made on request it only tells of a difference."""
    if file.hash is None:
        return
    algorithm, expected = split_hash(file.hash)
    if found[algorithm] == expected:
        return
    message = f"{where}: expected {algorithm}:{expected}, found {algorithm}:{found[algorithm]}"
    if file.stable:
        raise ChecksumError(f"{message}; {hint}")
    log.warning("%s; the host makes this file on request, so other bytes are taken", message)


def _place(found: Path, target: Path) -> Path:
    """A file of a mirror under the name it has in the cache: a hard link where possible, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(found, fresh)
    except OSError:
        shutil.copyfile(found, fresh)
    fresh.replace(target)
    return target


def safe_name(name: str) -> str:
    """A relative POSIX path that stays inside the cache; raise `SourceError` for any other."""
    path = PurePosixPath(name)
    odd = "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
    if odd or path.is_absolute() or not path.parts or ".." in path.parts or name.endswith("/"):
        raise SourceError(f"{name!r}: not a safe file name inside the cache; correct 'name' in the manifest")
    if any(len(part.encode()) > 240 for part in path.parts):
        raise SourceError(
            f"{name!r}: the file name is longer than 240 bytes; give a shorter 'name' in the manifest"
        )
    return path.as_posix()


def _explain(error: OSError, file: RemoteFile, cache: Path) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise TransferError(
            f"{file.name}: the disk of {cache} is full ({error.strerror}); what has arrived is kept: make "
            "room and run it again, or choose another folder with --cache"
        ) from error
    where = error.filename or cache
    raise TransferError(
        f"{file.name}: cannot use {where} ({error.strerror}); choose another --cache"
    ) from error
