"""Tar archives: plain ones by offset, compressed ones (gz, bz2, xz, zst) as one pass of a stream."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, BinaryIO, cast

from openus.archives.limits import Budget, refused
from openus.archives.names import decoded, is_litter, safe_name
from openus.archives.store import CHUNK, Item, Readable, Store, joined, length_of, rim, spooled
from openus.errors import ArchiveError

BLOCK = 512
MAX_HEADER = 16 << 20
"""tarfile reads an extended header in one piece; a larger single read is a bomb, not a header."""


class Guarded(io.RawIOBase):
    """A tar's bytes as tarfile wants them: `tell`, forward `seek`, bounded `read`.

    Also over a decompressor that cannot seek back: the last bytes read are kept, because tarfile steps back
    one byte before each header. Counts what was expanded, so that a bomb is stopped while it expands.
    """

    def __init__(self, source: Any, seekable: bool, on_progress: Callable[[int], None]) -> None:
        super().__init__()
        self._source, self._seekable, self._on_progress = source, seekable, on_progress
        self._at = self._front = 0  # position of the reader, and of the source
        self._tail = b""  # the bytes just before the front

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise tarfile.ReadError("bad offset in a header")
        if self._seekable:
            self._at = self._front = self._source.seek(offset)
            return self._at
        if offset < self._front - len(self._tail):
            raise tarfile.ReadError("a compressed tar is read forwards only")
        self._at = min(offset, self._front)
        while self._at < offset and self.read(min(CHUNK, offset - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        back = self._front - self._at
        pieces = [self._tail[len(self._tail) - back :][:size]] if back else []
        left = size - sum(map(len, pieces))
        while left:
            more = self._source.read(min(left, CHUNK))
            if not more:
                break
            pieces.append(more)
            left -= len(more)
            self._front += len(more)
            self._tail = more[-BLOCK:] if len(more) >= BLOCK else (self._tail + more)[-BLOCK:]
        self._at += size - left
        self._on_progress(self._front)
        return b"".join(pieces)


class TarStore(Store):
    """A tar. `opener` gives a fresh seekable reader of the (compressed) file; `compression` "" for none."""

    def __init__(self, label: str, opener: Callable[[], BinaryIO], budget: Budget, compression: str) -> None:
        self.label, self._opener, self._budget, self._compression = label, opener, budget, compression
        self.random = not compression

    def items(self) -> list[Item]:
        items: dict[str, Item] = {}
        for item, _ in self._pass():
            if item.name in items:
                raise refused(self.label, item.name, "two files of this archive have this name")
            self._budget.charge(self.label, item.name, item.size)
            items[item.name] = item
        return list(items.values())

    def open(self, item: Item) -> BinaryIO:
        if self.random:
            return joined([(self._opener(), item.token, item.size)])
        with contextlib.closing(self._pass()) as members:
            for found, reader in members:
                if found.name == item.name:
                    return spooled(reader, item.size)
        raise ArchiveError(f"{self.label}: member {item.name!r} has vanished since the archive was listed")

    def viewable(self, item: Item) -> bool:
        return self.random

    def stream(self, wanted: Collection[Item]) -> Generator[tuple[Item, BinaryIO], None, None]:
        if self.random:
            yield from super().stream(wanted)
            return
        names = {item.name for item in wanted}
        with contextlib.closing(self._pass()) as members:
            for item, reader in members:
                if item.name in names:
                    names.discard(item.name)
                    yield item, reader
                    if not names:
                        return

    def _pass(self) -> Generator[tuple[Item, BinaryIO], None, None]:
        """Every regular file in the archive's order, with a reader valid until the next step."""
        raw = self._opener()
        size = length_of(raw)
        check = self._budget.check_ratio

        def progress(expanded: int) -> None:
            if self._compression:
                check(self.label, expanded, size)

        try:
            with rim(self.label):
                source = _decompressed(raw, self._compression)
            yield from self._members(Guarded(source, not self._compression, progress))
        finally:
            raw.close()

    def _members(self, guarded: Guarded) -> Iterator[tuple[Item, BinaryIO]]:
        with rim(self.label):
            archive = tarfile.open(fileobj=guarded, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        while True:
            with rim(self.label):
                info = archive.next()
            if info is None:
                break
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
            name = safe_name(decoded(info.name.encode("utf-8", "surrogateescape")), self.label)
            if info.isdir() or not name or is_litter(name):
                continue
            self._check(info, name)
            with rim(self.label, name):
                reader = archive.extractfile(info)
                assert reader is not None
            yield Item(name, info.size, info.offset_data), cast(BinaryIO, _Reading(reader, self.label, name))
        self._check_end(archive, guarded)

    def _check(self, info: tarfile.TarInfo, name: str) -> None:
        if info.issym() or info.islnk():
            raise refused(self.label, name, "it is a link, not a plain file")
        if not info.isreg():
            raise refused(self.label, name, "it is a device or another special file")
        if info.issparse():
            raise refused(self.label, name, "it is a sparse file")

    def _check_end(self, archive: tarfile.TarFile, guarded: Guarded) -> None:
        """tarfile takes a cut or garbled header for the end; the true end is a block of zeros."""
        with rim(self.label):
            guarded.seek(archive.offset)
            closing = guarded.read(BLOCK)
            whole = len(closing) == BLOCK and closing.count(0) == BLOCK
            # gz, bz2 and xz say themselves where they end, so a tar without the closing block is whole too.
            whole = whole or (not closing and self._compression in ("gz", "bz2", "xz"))
            while whole and self._compression and guarded.read(CHUNK):
                pass  # to the very end, so that the compression's checksum is verified
        if not whole:
            kind = (
                "damaged: a header is garbled"
                if len(closing) == BLOCK
                else "truncated: its closing block is missing"
            )
            raise ArchiveError(f"{self.label}: {kind}; delete the file and fetch it again")


class _Reading(io.RawIOBase):
    """The bytes of one member while the pass stands on it, with the archive's errors made plain."""

    def __init__(self, reader: Readable, label: str, name: str) -> None:
        super().__init__()
        self._reader, self._label, self._name = reader, label, name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        with rim(self._label, self._name):
            return self._reader.read(min(size, CHUNK))


def _decompressed(raw: BinaryIO, compression: str) -> Readable:
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == "bz2":
        return bz2.BZ2File(raw)
    if compression == "xz":
        return lzma.LZMAFile(raw)
    if compression == "zst":
        import pyarrow  # heavy, and few archives are compressed so

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")  # type: ignore[no-any-return]
    return raw
