"""One process at a time in a folder, and what a disk refuses, said as one clear line."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openus.errors import CorpusError, OpenUSError

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
