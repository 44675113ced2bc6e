"""What makes a build resumable: fingerprints of inputs and code, and one builder at a time."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from openus import __version__
from openus.errors import CorpusError, OpenUSError
from openus.select import Selected

_CODE = (
    "archives",
    "archives.py",
    "area.py",
    "chunks.py",
    "chunkspec.py",
    "clean",
    "codecs.py",
    "decode",
    "dedup/hashes.py",
    "sources",
)


@functools.cache
def code_version() -> str:
    """Hash of the code that turns bytes into samples: work done by other code is done again."""
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        top = root / name
        for path in sorted([top] if top.is_file() else top.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def inputs_state(roots: Sequence[Path], entries: Collection[str]) -> str:
    """Identity of the archives among the roots of a source, and of those that lie in its folders.

    `entries` are the paths of all files of the dataset: a file in a folder that is none of them is an archive.
    Size and time are looked at, not the bytes; the name of the place is left out, so that moved data is known.
    """
    digest = hashlib.sha256(code_version().encode())
    for root in roots:
        if root.is_file():
            digest.update(root.name.encode() + _stat(root))
            continue
        start = len(str(root).rstrip("/")) + 1
        below = (f"{where.rstrip('/')}/{name}"[start:] for where, _, names in os.walk(root) for name in names)
        for name in sorted(name for name in below if name not in entries):
            if (path := root / name).is_file():
                digest.update(name.encode() + _stat(path))
    return digest.hexdigest()


def fingerprint(state: str, roots: Sequence[Path], members: Sequence[Selected]) -> str:
    """Identity of the bytes a chunk reads: the archives (`inputs_state`), and the files that lie unpacked."""
    digest = hashlib.sha256(state.encode())
    for root in roots:
        if root.is_dir():
            for member in members:
                digest.update(_stat(f"{root}/{member.path}"))
    return digest.hexdigest()


def _stat(path: Path | str) -> bytes:
    try:
        facts = os.stat(path)  # noqa: PTH116 (of very many paths, which need not be taken apart)
    except OSError:
        return b"-"
    return f"{facts.st_size} {facts.st_mtime_ns}\n".encode()


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def disk_told(out: Path) -> Iterator[None]:
    """Turn what a disk refuses into one clear line, and what to do.

    Raises:
        CorpusError: the disk of `out` is full, or `out` cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or out
        if error.errno in _FULL:
            raise CorpusError(
                f"{where}: the disk is full ({error.strerror}); what is done is kept: make room, and run the same "
                "command again to go on"
            ) from error
        if error.errno in _BARRED:
            raise CorpusError(
                f"{where}: cannot be written ({error.strerror}); make it writable, or choose another folder"
            ) from error
        raise


@contextmanager
def alone(path: Path, busy: OpenUSError) -> Iterator[None]:
    """Hold `path`, a folder or a file (made if absent), for this process, however it ends.

    Where a file system knows no locks, nothing is held. Raises `busy` where another process holds it.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def one_builder(work: Path) -> Iterator[None]:
    """Hold the work folder for one build; a second one says so and leaves.

    Raises:
        CorpusError: another process is building here.
    """
    work.mkdir(parents=True, exist_ok=True)
    said = f"{work.parent}: another build is at work here; wait for it to end, or build into another folder"
    with alone(work / "lock", CorpusError(said)):
        yield
