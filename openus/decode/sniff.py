"""What a file is, by its content. The name decides nothing but the wording of messages."""

from __future__ import annotations

import re
import zlib

from openus.errors import DecodeError

HEAD = 4096
"""Bytes of the beginning that `sniff` wants."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"GIF87a", "gif"), (0, b"GIF89a", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tiff"), (0, b"MM\0*", "tiff"), (0, b"II+\0", "tiff"), (0, b"MM\0+", "tiff"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"), (0, b"\xff\x4f\xff\x51", "jp2"),
    (344, b"n+1\0", "nifti"), (344, b"ni1\0", "nifti"), (4, b"n+2\0\r\n\x1a\n", "nifti"),
    (0, b"NRRD000", "nrrd"),
    (4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (4, b"wide", "mp4"), (4, b"skip", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (0, b"\0\0\x01\xba", "mpg"), (0, b"\0\0\x01\xb3", "mpg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"), (512, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"MATLAB 5.0 MAT-file", "mat"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"PK\x03\x04", "npz"),
    (0, b"\x1f\x8b\x08", "gz"),
)  # fmt: skip
# A DICOM data set without preamble begins with an element of group 0002 or 0008, little endian.
_BARE_DICOM = re.compile(rb"(?s)\A(\x02\x00[\x00-\x20]\x00|\x08\x00[\x00-\x70]\x00)([A-Z]{2}|.{2}\x00\x00)")
_META_IMAGE = re.compile(rb"(?im)^\s*(ObjectType\s*=\s*Image|NDims\s*=)")


def sniff(head: bytes, name: str, size: int) -> str:
    """The format of a file of `size` bytes that begins with `head` (its first `HEAD` bytes, or all).

    Returns png, jpg, gif, bmp, tiff, webp, jp2, dicom, nifti, nrrd, mha, mp4, avi, mkv, mpg, wmv, hdf5, mat,
    npy, npz or gz. Raises `DecodeError` with reason ``empty-file``, ``truncated`` or ``not-an-image``.
    """
    if not size:
        raise DecodeError(f"{name}: is empty (0 bytes)", "empty-file")
    if head[128:132] == b"DICM":  # before TIFF: some DICOM files wear a TIFF header in their preamble
        return "dicom"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return "avi" if head[8:12] == b"AVI " else "webp"
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            if kind == "hdf5" and offset == 512 and not head.startswith(b"MATLAB"):
                continue
            return kind
    if head.startswith(b"MATLAB 7.3"):
        return "hdf5"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpg"
    if _BARE_DICOM.match(head):
        return "dicom"
    if _META_IMAGE.search(head[:1024]):
        return "mha"
    raise _unknown(head, name, size)


def sniff_gzip(head: bytes) -> bytes:
    """The first bytes of what a gzip file holds, as far as `head` goes."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD)
    except zlib.error:
        return b""


def _unknown(head: bytes, name: str, size: int) -> DecodeError:
    if len(head) < 12 and any(magic.startswith(head) for offset, magic, _ in _MAGIC if offset == 0):
        return DecodeError(f"{name}: truncated: only {size} bytes are left of it", "truncated")
    if head.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer; fetch the repository with its large files"
    elif re.match(rb"(?i)\s*(<!doctype html|<html|<\?xml)", head.lstrip(b"\xef\xbb\xbf")):
        what = "is a web page, not an image: the host answered with a sign-in, quota or error page"
    elif not head.strip(b"\0"):
        what = f"holds nothing but zeros ({size:,} bytes); fetch it again"
    elif _is_text(head):
        what = f"is text, not an image (beginning {head[:24]!r})"
    else:
        what = f"is of no kind that is read here ({size:,} bytes, beginning {head[:8].hex(' ')})"
    return DecodeError(f"{name}: {what}", "not-an-image")


def _is_text(head: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", head)
