"""The bytes of a still picture, to be stored again as they are: nothing is lost by coding it twice.

Only what makes the picture travels: notes of the camera or the scanner (EXIF, comments, text, thumbnails, anything
after the end) are left out, for they may name a person. A file without any passes untouched, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_STRUCTURE = {0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD}  # frame (baseline, extended, progressive), tables, restarts
_NOTES = {*range(0xE0, 0xF0), 0xFE}  # application segments, comment
_JFIF = b"JFIF\0"
_JFIF_LENGTH = 18  # marker, length, and 14 bytes of content: no thumbnail


def original(data: bytes, form: str) -> bytes | None:
    """A grey 8-bit JPEG or PNG without its notes, if that is what `data` is and `form` ("jpg", "png") asks for.

    The pixels it decodes to are those of `data` with no EXIF orientation applied. None where it cannot be told
    that nothing but the picture would travel.
    """
    if form == "jpg" and data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if form == "png" and data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    return None


def header_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG before its first scan (ITU-T T.81, B.1); stops at damage."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        yield marker, at, end
        if marker == _SOS or end > len(data):
            return
        at = end


def _jpeg(data: bytes) -> bytes | None:
    kept = [data[:2]]
    for marker, start, end in header_segments(data):
        if marker == _SOS:
            scans = _scans(data, start)
            return None if scans is None else b"".join([*kept, data[start:scans]])
        jfif = marker == 0xE0 and data[start + 4 : start + 9] == _JFIF and end - start == _JFIF_LENGTH
        if marker in _STRUCTURE or jfif:
            kept.append(data[start:end])
        elif marker not in _NOTES:
            return None
        if marker in (0xC0, 0xC1, 0xC2) and (data[start + 4], data[start + 9]) != (8, 1):
            return None  # not 8 bits, not grey
    return None


def _scans(data: bytes, at: int) -> int | None:
    """The end of the picture whose first scan begins at `at`, its end marker included."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 2 <= len(data):
        marker = data[at + 1]
        if marker == _EOI:
            return at + 2
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD7:  # a stuffed byte, a fill byte, a restart
            at += 1 if marker == 0xFF else 2
        elif marker == _SOS or marker in _STRUCTURE:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            return None
    return None


def _png(data: bytes) -> bytes | None:
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        end = at + 12 + length
        if kind == b"IHDR" and data[at + 16 : at + 18] != b"\x08\x00":  # 8 bits, grey
            return None
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        elif kind in (b"tRNS", b"eXIf", b"acTL"):  # they change what is shown
            return None
        if kind == b"IEND":
            return b"".join(kept) if end <= len(data) else None
        at = end
    return None
