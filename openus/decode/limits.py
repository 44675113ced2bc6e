"""What one file may ask of this machine, and how foreign errors become `DecodeError`."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import math
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from openus.errors import DecodeError, OpenUSError

MIB = 1 << 20
IN_MEMORY = 64 * MIB
Item = TypeVar("Item")

# Errors of our own disk and process, which say nothing about the file that is being decoded.
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on one file, checked on its header before anything is allocated."""

    pixels: int = 64 * MIB
    """Pixels of one picture (8,192 x 8,192). The largest ultrasound screens have 4 million."""
    picture: int = 256 * MIB
    """Bytes of one picture as it is stored; wide values cost several times as much while they are scaled."""
    frames: int = 100_000
    """Pictures in one clip, volume or document."""
    memory: int = 512 * MIB
    """Bytes of formats that can only be read as a whole (compressed MHA, NRRD, MAT)."""
    spool: int = 16384 * MIB
    """Bytes a compressed volume may expand to in a temporary file."""
    ratio: float = 200.0
    """Expanded bytes per stored byte of one file; volumes with black borders stay below 50."""
    ratio_floor: int = 512 * MIB
    """The ratio is not looked at while a file expands to less than this."""

    def check_pixels(self, name: str, width: int, height: int, itemsize: int = 1) -> None:
        """Raise `DecodeError` for an empty or a too large picture, of `itemsize` bytes a pixel."""
        if width <= 0 or height <= 0:
            raise DecodeError(f"{name}: its header gives a picture of {width} x {height} pixels", "corrupt")
        if width * height > self.pixels:
            raise DecodeError(
                f"{name}: its header gives a picture of {width:,} x {height:,} pixels, more than the limit of "
                f"{self.pixels:,}",
                "too-large",
            )
        if width * height * itemsize > self.picture:
            raise DecodeError(
                f"{name}: its header gives a picture of {width * height * itemsize:,} bytes, more than the limit of "
                f"{self.picture:,}",
                "too-large",
            )

    def check_expanded(self, name: str, expanded: int, stored: int) -> None:
        """Raise `DecodeError` for a compressed file that has expanded too far for what it is."""
        if expanded > self.spool:
            raise DecodeError(f"{name}: it expands to more than {self.spool:,} bytes", "too-large")
        if expanded > self.ratio_floor and expanded > self.ratio * max(stored, 1):
            raise DecodeError(
                f"{name}: a bomb: its {stored:,} bytes expand to more than {expanded:,}", "too-large"
            )

    def check_frames(self, name: str, count: int) -> None:
        if count > self.frames:
            raise DecodeError(
                f"{name}: {count:,} frames, more than the limit of {self.frames:,}", "too-large"
            )

    def check_memory(self, name: str, size: int) -> None:
        if size > self.memory:
            raise DecodeError(
                f"{name}: it must be read as a whole and has {size:,} bytes, more than the limit of "
                f"{self.memory:,}",
                "too-large",
            )


@contextlib.contextmanager
def guard(name: str) -> Iterator[None]:
    """Run a third-party decoder without its warnings; what it raises becomes a `DecodeError` naming the file.

    A broad catch on purpose. On malformed input these raise, among others: Pillow OSError, SyntaxError,
    ValueError, struct.error, DecompressionBombError; pydicom AttributeError, KeyError, NotImplementedError,
    RuntimeError, BytesLengthException; PyAV FFmpegError; nibabel HeaderDataError, ImageFileError; SimpleITK
    RuntimeError; h5py OSError, KeyError, RuntimeError; scipy MatReadError, TypeError, zlib.error; OpenCV error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OpenUSError:
        raise
    except MemoryError as error:
        raise DecodeError(f"{name}: it asks for more memory than there is", "too-large") from error
    except OSError as error:
        if error.errno in _OURS:
            raise OpenUSError(
                f"{name}: cannot be decoded on this machine: {error.strerror}; mend that, and run it again to go on"
            ) from error
        raise _translated(name, error) from error
    except Exception as error:
        raise _translated(name, error) from error


def guarded(name: str, items: Iterator[Item]) -> Iterator[Item]:
    """Iterate under `guard`, without holding it while the consumer works."""
    while True:
        with guard(name):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


_CUT = ("truncated", "unexpected end", "premature", "end of file", "end-of-file", "eof", "not enough", "incomplete",
        "less than expected", "moov atom not found", "buffer too small")  # fmt: skip
_UNKNOWN = (
    "not supported",
    "unsupported",
    "not implemented",
    "does not support",
    "no decoder",
    "missing dependencies",
)


def _translated(name: str, error: Exception) -> DecodeError:
    text = " ".join(str(error).split()) or type(error).__name__
    lower = text.lower()
    if isinstance(error, EOFError) or any(word in lower for word in _CUT):
        reason = "truncated"
    elif "decompression bomb" in lower:
        reason = "too-large"
    elif isinstance(error, NotImplementedError) or any(word in lower for word in _UNKNOWN):
        reason = "unsupported"
    else:
        reason = "corrupt"
    return DecodeError(f"{name}: {reason}: {text[:300]}", reason)


def spooled(reader: BinaryIO | gzip.GzipFile, limits: DecodeLimits, name: str, stored: int) -> BinaryIO:
    """A seekable copy of what `stored` bytes expand to: in memory up to 64 MiB, else in a temporary file.

    Raises `DecodeError` as soon as it has expanded beyond the limits.
    """
    copy = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (lives as long as the media)
    expanded = 0
    while chunk := reader.read(MIB):
        expanded += len(chunk)
        try:
            limits.check_expanded(name, expanded, stored)
        except DecodeError:
            copy.close()
            raise
        copy.write(chunk)
    copy.seek(0)
    return copy  # type: ignore[return-value]  # a BinaryIO in all but name


def on_disk(reader: BinaryIO, folder: str, name: str) -> str:
    """Write a reader's bytes to `folder/name`, for libraries that want a path."""
    path = f"{folder}/{name}"
    with open(path, "wb") as out:  # noqa: PTH123
        shutil.copyfileobj(reader, out, MIB)
    return path


def gunzipped(reader: BinaryIO, limits: DecodeLimits, name: str) -> BinaryIO:
    """The content of a gzip file. Raises `DecodeError` for a truncated, broken or oversized one."""
    stored = size_of(reader)
    try:
        with gzip.GzipFile(fileobj=reader) as expanding:
            return spooled(expanding, limits, name, stored)
    except EOFError as error:
        raise DecodeError(f"{name}: truncated: its gzip stream ends early", "truncated") from error
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in _OURS:
            raise
        raise DecodeError(f"{name}: its gzip stream is broken ({error})", "corrupt") from error


def size_of(reader: BinaryIO) -> int:
    """Bytes of a seekable reader; its position becomes 0."""
    size = reader.seek(0, io.SEEK_END)
    reader.seek(0)
    return size


def product(shape: tuple[int, ...]) -> int:
    return math.prod(int(n) for n in shape)
