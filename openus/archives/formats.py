"""From a group of files (or readers) to the store that reads them, by content rather than by suffix."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from openus.archives.limits import Budget
from openus.archives.store import CHUNK, Store, joined, length_of, rim
from openus.archives.tars import TarStore
from openus.archives.unpacked import UnpackedStore, fill_7z, fill_rar
from openus.archives.zips import ZipStore, has_end
from openus.errors import ArchiveError

MAGIC = (
    (b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip"), (b"PK\x07\x08", "zip"), (b"PK00PK\x03\x04", "zip"),
    (b"Rar!\x1a\x07", "rar"), (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zst"),
)  # fmt: skip
Opener = Callable[[], BinaryIO]


def sniff(head: bytes) -> str:
    """The format that begins with these 512 bytes: zip, rar, 7z, tar, gz, bz2, xz, zst, or "" for none."""
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    return "tar" if head[257:262] == b"ustar" or _is_old_tar(head) else ""


def _is_old_tar(head: bytes) -> bool:
    # A pre-POSIX header has no magic; its checksum (octal, bytes 148-155) is the sum with that field blank.
    if len(head) < 512 or not head[0]:
        return False
    try:
        stated = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * 32 + sum(head[156:512])


class Workspace:
    """Where things are spooled and unpacked: a given folder, kept, or a temporary one of this process."""

    def __init__(self, folder: Path | None) -> None:
        self._given, self._own = folder, Path()

    @property
    def shared(self) -> bool:
        """True where other processes find what this one unpacked."""
        return self._given is not None

    def place(self, key: str) -> Path:
        """A path below the workspace for what `key` names; its parent exists."""
        if self._given is not None:
            folder = self._given
        else:
            if self._own == Path():
                self._own = Path(tempfile.mkdtemp(prefix="openus-"))
                weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
            folder = self._own
        folder.mkdir(parents=True, exist_ok=True)
        return folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]

    def spool(self, key: str, name: str, reader: BinaryIO) -> Path:
        """Copy `reader` once to a file called `name`; later calls with the same key find it."""
        folder = self.place(key)
        path = folder / PurePosixPath(name).name
        if not path.is_file():
            folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as out:
                try:
                    shutil.copyfileobj(reader, out, CHUNK)
                except BaseException:
                    Path(out.name).unlink()
                    raise
            Path(out.name).rename(path)
        return path


def open_store(
    label: str, openers: Sequence[Opener], split: bool, budget: Budget, workspace: Workspace, key: str,
    paths: Callable[[], Sequence[Path]],
) -> Store:  # fmt: skip
    """The store for one archive.

    label:   how messages call it.
    openers: its parts in order, each call a fresh seekable reader.
    split:   parts of a split zip (offsets per part) rather than of a file that was merely cut.
    paths:   the parts as files on disk, for external tools; called only where they are needed.
    """

    def whole() -> BinaryIO:
        readers = [opener() for opener in openers]
        if len(readers) == 1:
            return readers[0]
        return joined([(reader, 0, length_of(reader)) for reader in readers])

    with openers[0]() as first, rim(label):
        head = first.read(512)
        stored = length_of(first)
    kind = sniff(head)
    if split or kind == "zip":
        parts = (lambda: [opener() for opener in openers]) if split else (lambda: [whole()])
        return ZipStore(label, parts, budget, split)
    if kind == "rar":
        return UnpackedStore(label, workspace.place(f"{key}\0rar"), budget, fill_rar(label, paths, budget))
    if kind == "7z":
        return UnpackedStore(label, workspace.place(f"{key}\0{kind}"), budget, fill_7z(label, whole, budget))
    if kind:
        return TarStore(label, whole, budget, "" if kind == "tar" else kind)
    if label.lower().endswith((".zip", ".change2zip", ".zip.001")) and has_end(whole):
        # A self-extracting zip begins with a program; its directory at the end is what counts.
        return ZipStore(label, lambda: [whole()], budget, False)
    raise _not_an_archive(label, head, stored)


def _is_html(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--"))


def _not_an_archive(label: str, head: bytes, size: int) -> ArchiveError:
    if not size:
        return ArchiveError(f"{label}: is empty (0 bytes); delete it and fetch it again")
    if _is_html(head):
        return ArchiveError(
            f"{label}: is a web page ({size:,} bytes), not an archive: the host answered with a sign-in, "
            "quota or error page; delete it and fetch again, or download the file by hand in a browser"
        )
    return ArchiveError(
        f"{label}: is not an archive of any known kind ({size:,} bytes, beginning {head[:8].hex(' ')}); "
        "delete it and fetch it again"
    )
