"""What every container of files offers, and the parts they share: views of a file, clear errors."""

from __future__ import annotations

import contextlib
import errno
import io
import lzma
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from openus.errors import ArchiveError, OpenUSError

IN_MEMORY = 64 << 20
"""Members up to this many bytes are held in memory while they are read, larger ones in a temporary file."""
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One regular file of a container: safe name, expanded size, and what its container finds it by."""

    name: str
    size: int
    token: Any


class Readable(Protocol):
    """The one thing needed of a decompressor."""

    def read(self, size: int = -1, /) -> bytes: ...


class Store(ABC):
    """One container: a folder, a file, a zip, a tar, an unpacked rar or 7z."""

    label: str
    """How messages call it: the path of a root, ``outer.zip/inner.zip`` for a nested archive."""
    random: bool
    """True where any item can be opened at any time at low cost."""

    @abstractmethod
    def items(self) -> list[Item]:
        """All regular files, checked, litter left out. Raises `ArchiveError`."""

    @abstractmethod
    def open(self, item: Item) -> BinaryIO:
        """A seekable reader of one item, independent of others."""

    def stream(self, wanted: Collection[Item]) -> Generator[tuple[Item, BinaryIO], None, None]:
        """The wanted items, in the order that suits the container; a reader is valid until the next one."""
        for item in wanted:
            with self.open(item) as reader:
                yield item, reader

    def viewable(self, item: Item) -> bool:
        """True where the item's bytes lie in the container as they are, so that `open` costs nothing."""
        return False

    def view(self, item: Item) -> BinaryIO:
        """A seekable reader of a viewable item without copying or checking it."""
        return self.open(item)

    def close(self) -> None:  # noqa: B027 (most stores hold nothing open)
        """Give file handles back; the store opens them again when needed."""


@contextlib.contextmanager
def rim(label: str, name: str = "") -> Iterator[None]:
    """Turn whatever a decompression library raises into one `ArchiveError` that names archive and member.

    A broad catch on purpose: zipfile, tarfile, zlib, lzma, bz2, Arrow, rarfile and py7zr raise some twenty
    types on malformed input (struct.error, KeyError, NotImplementedError …) and document few of them.
    """
    where = f"{label}: member {name!r}" if name else label
    try:
        yield
    except OpenUSError:
        raise
    except MemoryError as error:
        raise ArchiveError(
            f"{where}: it asks for more memory than there is; unpack the archive by hand and give the folder"
        ) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # our own disk, not the archive's content
            raise ArchiveError(f"{where}: cannot be read ({error.strerror})") from error
        raise _damaged(where, error) from error
    except Exception as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> ArchiveError:
    text = " ".join(str(error).split()) or type(error).__name__
    cut = isinstance(error, EOFError) or any(word in text.lower() for word in ("truncated", "unexpected end"))
    kind = "truncated" if cut else "damaged"
    if isinstance(error, NotImplementedError):
        return ArchiveError(f"{where}: {text}; unpack the archive by hand (7-Zip) and give the folder")
    if isinstance(error, zlib.error | lzma.LZMAError):
        text = f"its compressed data are broken ({text})"
    return ArchiveError(f"{where}: {kind}: {text}; delete the file and fetch it again")


def spooled(reader: Readable, size: int) -> BinaryIO:
    """A seekable copy of `reader`: in memory up to `IN_MEMORY` bytes, else in a temporary file."""
    if size <= IN_MEMORY:
        return io.BytesIO(reader.read())
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    shutil.copyfileobj(reader, copy, CHUNK)
    copy.seek(0)
    return copy


class Joined(io.RawIOBase):
    """Several byte ranges of files seen as one seekable read-only file.

    Each piece is (reader, start, length). Pieces may share a reader, so every read seeks first. Closing it
    closes the readers.
    """

    def __init__(self, pieces: Sequence[tuple[BinaryIO, int, int]]) -> None:
        super().__init__()
        self._pieces = list(pieces)
        self.starts = [0]
        for _, _, length in self._pieces:
            self.starts.append(self.starts[-1] + length)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.starts[-1]}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "seek before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        for (reader, start, length), begin in zip(self._pieces, self.starts, strict=False):
            inside = self._at - begin
            if 0 <= inside < length:
                reader.seek(start + inside)
                data = reader.read(min(len(view), length - inside))
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        if not self.closed:
            for reader, _, _ in self._pieces:
                reader.close()
        super().close()


def joined(pieces: Sequence[tuple[BinaryIO, int, int]]) -> BinaryIO:
    """A buffered, seekable reader of `Joined` pieces."""
    return io.BufferedReader(Joined(pieces), CHUNK >> 2)


def length_of(reader: BinaryIO) -> int:
    """Bytes of a seekable reader; its position is kept."""
    at = reader.tell()
    end = reader.seek(0, io.SEEK_END)
    reader.seek(at)
    return end
