"""Zip archives: plain, split over several files (``.z01 … .zip``), or lying inside another archive.

Everything is read in place through the central directory; nothing is unpacked. The layout is PKWARE's
APPNOTE 6.3.10 (4.3.14-16: end records, 4.4.22-24: offsets count from the disk an entry starts on).
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from openus.archives.limits import Budget, refused
from openus.archives.names import decoded, is_litter, safe_name
from openus.archives.store import Item, Store, joined, length_of, rim, spooled
from openus.errors import ArchiveError

END = b"PK\x05\x06"
LOCATOR64 = b"PK\x06\x07"
UNICODE_PATH = 0x7075
UTF8_FLAG, ENCRYPTED_FLAG, STRONG_FLAG = 0x800, 0x1, 0x40
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstd",
    95: "xz",
    98: "ppmd",
    99: "AES",
}


@dataclass(frozen=True, slots=True)
class EndRecord:
    """What a reader needs of the end of central directory record (and its zip64 form)."""

    disk: int
    directory_disk: int
    entries: int
    locator: int | None
    """Position of the zip64 locator in the file, if there is one."""


def read_end(reader: BinaryIO, label: str) -> EndRecord:
    """Find the end record. Raises `ArchiveError` if there is none, as in a file that was cut."""
    size = length_of(reader)
    window = min(size, 22 + 20 + 65535)
    reader.seek(size - window)
    tail = reader.read(window)
    at = tail.rfind(END)
    if at < 0 or at + 22 > len(tail):
        raise ArchiveError(
            f"{label}: truncated: {size:,} bytes without the zip's closing record; "
            "delete the file and fetch it again"
        )
    disk, directory_disk, _, entries = struct.unpack_from("<4H", tail, at + 4)
    if at >= 20 and tail[at - 20 : at - 16] == LOCATOR64:
        locator = size - window + at - 20
        end64 = _end64(reader, locator)
        if end64 is not None:
            disk, directory_disk, entries = end64
        return EndRecord(disk, directory_disk, entries, locator)
    return EndRecord(disk, directory_disk, entries, None)


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in Info-ZIP's Unicode Path field (APPNOTE 4.6.9), if there is one and it belongs to this name.

    Packers on systems with another code page (GBK, Shift-JIS) put it beside a name that nobody else can read.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if (
            kind == UNICODE_PATH
            and len(field) > 5
            and struct.unpack_from("<L", field, 1)[0] == zlib.crc32(raw)
        ):
            return field[5:].decode("utf-8", "replace")
        at += 4 + length
    return None


def has_end(opener: Callable[[], BinaryIO]) -> bool:
    """True if the file ends as a zip does, however it begins."""
    with opener() as reader:
        try:
            read_end(reader, "")
        except ArchiveError:
            return False
    return True


def _end64(reader: BinaryIO, locator: int) -> tuple[int, int, int] | None:
    # The zip64 record lies right before its locator (56 bytes, without extensible data).
    if locator < 56:
        return None
    reader.seek(locator - 56)
    record = reader.read(56)
    if record[:4] != b"PK\x06\x06":
        return None
    disk, directory_disk, _, entries = struct.unpack_from("<2L2Q", record, 16)
    return disk, directory_disk, entries


class ZipStore(Store):
    """A zip. `opener` gives its parts in order, each as a fresh seekable reader (one part if not split)."""

    random = True

    def __init__(
        self, label: str, opener: Callable[[], Sequence[BinaryIO]], budget: Budget, split: bool
    ) -> None:
        self.label, self._opener, self._budget, self._split = label, opener, budget, split
        self._zip: zipfile.ZipFile | None = None
        self._file: BinaryIO | None = None
        self._starts: list[int] = [0]
        self._shift = 0

    def _fresh(self) -> BinaryIO:
        """The whole archive as one new reader."""
        parts = self._opener()
        end = read_end(parts[-1], self.label)
        self._check_parts(end, len(parts))
        self._budget.check_count(self.label, end.entries)
        return self._splice(parts, end) if self._split else parts[0]

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:
            with rim(self.label):
                self._file = self._fresh()
                self._zip = zipfile.ZipFile(self._file)
        return self._zip

    def _check_parts(self, end: EndRecord, parts: int) -> None:
        needed = end.disk + 1
        if needed != parts and end.disk != 0xFFFF:
            raise ArchiveError(
                f"{self.label}: this is a zip in {needed} parts (.z01 … .zip), {parts} of them found; "
                "put all parts into one folder"
            )

    def _splice(self, parts: Sequence[BinaryIO], end: EndRecord) -> BinaryIO:
        """Join split parts into one file that zipfile accepts.

        zipfile takes what stands before the directory's own disk for a prefix and adds its length to each
        offset (`self._shift`); `_located` puts the true disk's start in its place. It refuses a zip64
        locator that counts several disks, so those twelve bytes are overlaid.
        """
        lengths = [length_of(part) for part in parts]
        self._starts = [sum(lengths[:index]) for index in range(len(parts))]
        self._shift = self._starts[end.directory_disk]
        pieces = [(part, 0, length) for part, length in zip(parts, lengths, strict=True)]
        if end.locator is not None:
            last, length = parts[-1], lengths[-1]
            where = self._starts[-1] + end.locator - 56
            locator = io.BytesIO(LOCATOR64 + struct.pack("<LQL", 0, where, 1))
            after = end.locator + 20
            pieces[-1:] = [(last, 0, end.locator), (locator, 0, 20), (last, after, length - after)]
        return joined(pieces)

    def items(self) -> list[Item]:
        archive = self._opened()
        found: dict[str, zipfile.ZipInfo] = {}
        stored = expanded = 0
        for info in archive.infolist():
            name = safe_name(self._name(info), self.label)
            mode = info.external_attr >> 16
            if info.is_dir() or stat.S_ISDIR(mode) or not name or is_litter(name):
                continue
            self._check(info, name, mode)
            if name in found:
                self._same_or_refuse(found[name], info, name)
                continue
            self._budget.charge(self.label, name, info.file_size)
            expanded += info.file_size
            stored += info.compress_size
            found[name] = info
        assert self._file is not None
        size = length_of(self._file)
        if stored > size:
            raise ArchiveError(
                f"{self.label}: refused: its members claim {stored:,} stored bytes, the archive has {size:,} "
                "(overlapping members are an archive bomb); get the archive from its official page"
            )
        self._budget.check_ratio(self.label, expanded, size)
        return [Item(name, info.file_size, self._located(info)) for name, info in found.items()]

    @staticmethod
    def _name(info: zipfile.ZipInfo) -> str:
        if info.flag_bits & UTF8_FLAG:
            return info.orig_filename
        raw = info.orig_filename.encode("cp437")
        return _unicode_path(info.extra, raw) or decoded(raw)

    def _check(self, info: zipfile.ZipInfo, name: str, mode: int) -> None:
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
            raise refused(self.label, name, f"it is {kind}, not a plain file")
        if info.flag_bits & (ENCRYPTED_FLAG | STRONG_FLAG):
            raise ArchiveError(
                f"{self.label}: member {name!r} is encrypted; ask the dataset's page for the password, "
                "unpack the archive by hand and give the folder"
            )
        if info.compress_type not in READABLE:
            method = METHODS.get(info.compress_type, f"number {info.compress_type}")
            raise ArchiveError(
                f"{self.label}: member {name!r} is compressed with {method}, which is not read here; "
                "unpack the archive by hand (7-Zip) and give the folder"
            )

    def _same_or_refuse(self, first: zipfile.ZipInfo, again: zipfile.ZipInfo, name: str) -> None:
        if (first.CRC, first.file_size) != (again.CRC, again.file_size):
            raise refused(self.label, name, "two different files of this archive have this name")

    def _located(self, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
        if not self._split:
            return info
        # A copy without the end offset zipfile worked out from the offsets that are not yet true.
        true = zipfile.ZipInfo(info.filename, info.date_time)
        for field in (
            "orig_filename",
            "compress_type",
            "flag_bits",
            "CRC",
            "compress_size",
            "file_size",
            "extra",
        ):
            setattr(true, field, getattr(info, field))
        if info.volume >= len(self._starts):
            raise ArchiveError(
                f"{self.label}: damaged: member {info.filename!r} starts on a part that is missing"
            )
        true.header_offset = info.header_offset - self._shift + self._starts[info.volume]
        return true

    def open(self, item: Item) -> BinaryIO:
        archive = self._opened()
        with rim(self.label, item.name), archive.open(item.token) as reader:
            return spooled(reader, item.size)  # to the end, so that the checksum is verified

    def viewable(self, item: Item) -> bool:
        info: zipfile.ZipInfo = item.token
        return info.compress_type == zipfile.ZIP_STORED

    def view(self, item: Item) -> BinaryIO:
        info: zipfile.ZipInfo = item.token
        with rim(self.label, item.name):
            file = self._fresh()
            file.seek(info.header_offset)
            header = file.read(30)
            if header[:4] != b"PK\x03\x04":
                raise ArchiveError(
                    f"{self.label}: damaged: no header where member {item.name!r} should begin"
                )
            start = info.header_offset + 30 + sum(struct.unpack_from("<2H", header, 26))
        return joined([(file, start, info.file_size)])

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None
        if self._file is not None:
            self._file.close()
            self._file = None
