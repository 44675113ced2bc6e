"""A zoo of malformed files, made from a seed: whatever the internet may hold under the name of a picture."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from tests.archives.test_tree import PACKERS, tar_bytes, zip_bytes
from tests.archives.test_unpacked import rar, rar_file, seven
from tests.decode.test_array import hdf5, mat, mat73, npy, npz
from tests.decode.test_dicom import dicom
from tests.decode.test_image import colour, encode, speckle
from tests.decode.test_video import FORMATS, smooth, write
from tests.decode.test_volume import WRITERS, nifti, volume

MIB = 1 << 20
BOMB = 600 * MIB  # expanded; more than the floor below which a ratio is not looked at


class Payload:
    """Unpickled, it writes a file. Nothing here may ever unpickle it."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


def sound(folder: Path) -> dict[str, bytes]:
    """One good file of every kind the decoders read."""
    stack = np.stack([speckle(seed=seed) for seed in range(4)])
    files = {
        "png": encode(speckle(), "PNG"), "rgb.png": encode(colour(), "PNG"), "jpg": encode(speckle(), "JPEG"),
        "gif": encode(speckle(), "GIF"), "bmp": encode(colour(), "BMP"), "tiff": encode(speckle(), "TIFF"),
        "webp": encode(speckle(), "WEBP"), "jp2": encode(speckle(), "JPEG2000"),
        "lzw.tiff": encode(speckle(), "TIFF", compression="tiff_lzw"),
        "deep.png": encode(Image.fromarray(speckle().astype(np.uint16) * 200), "PNG"),
        "dcm": dicom(stack), "h5": hdf5(frames=stack), "mat": mat(frames=stack), "mat73.mat": mat73(frames=stack),
        "npy": npy(stack), "npz": npz(frames=stack),
        "jpeg.dcm": dicom(stack[:1], JPEGBaseline8Bit, pixels=_encapsulated(encode(speckle(), "JPEG"))),
    }  # fmt: skip
    for kind, make in WRITERS.items():
        files[f"v.{kind.replace('-', '.')}"] = make(volume(3, 24, 28), folder)
    for name, arguments in FORMATS.items():
        files[f"{name}.{arguments[0]}"] = write(smooth(6), *arguments)
    return files


def _encapsulated(data: bytes) -> bytes:
    from pydicom.encaps import encapsulate

    return bytes(encapsulate([data]))


def files(seed: int, folder: Path, marker: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of malformed files; `folder` is for scratch, `marker` what a pickle would write."""
    rng = random.Random(seed)
    for kind, data in sound(folder).items():
        for share in (0.05, 0.4, 0.97):
            yield f"cut-{share}-{kind}", data[: max(1, int(share * len(data)))]
        for number in range(3):
            yield f"flip-{number}-{kind}", flipped(rng, data, 1 + 3 * number, len(data))
        yield f"flip-head-{kind}", flipped(rng, data, 8, min(256, len(data)))
        yield f"spliced-{kind}", data[: len(data) // 2] + rng.randbytes(200) + data[len(data) // 2 :]
    yield from _headers()
    yield from _values()
    yield from _pickles(marker)
    yield from _bombs()


def flipped(rng: random.Random, data: bytes, count: int, within: int) -> bytes:
    """`data` with `count` bits turned among the first `within` bytes, but for the four that tell the kind."""
    out = bytearray(data)
    for _ in range(count):
        out[rng.randrange(min(4, within - 1), within)] ^= 1 << rng.randrange(8)
    return bytes(out)


def png(width: int, height: int, body: bytes = b"", depth: int = 8, kind: int = 0) -> bytes:
    """A PNG with any header before any pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = body or zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def npy_header(header: str, body: bytes = bytes(64)) -> bytes:
    text = header.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def _headers() -> Iterator[tuple[str, bytes]]:
    """Headers that promise what is not there, or what no machine could hold."""
    for width, height in ((0, 5), (65_535, 65_535), (30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)):
        yield f"header-{width}x{height}.png", png(width, height)
        yield f"header-{width}x{height}.bmp", _bmp(width, height)
    yield "header-depth-7.png", png(10, 10, depth=7)
    yield "header-negative-height.bmp", _bmp(10, -10)
    yield "header-negative-width.bmp", _bmp(-10, 10)
    jpeg = encode(speckle(), "JPEG")
    at = jpeg.index(b"\xff\xc0")
    yield "header-65500x65500.jpg", jpeg[: at + 5] + struct.pack(">HH", 65_500, 65_500) + jpeg[at + 9 :]
    yield "header-0x0.jpg", jpeg[: at + 5] + bytes(4) + jpeg[at + 9 :]
    gif = encode(speckle(), "GIF")
    yield "header-65535x65535.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    tiff = bytearray(encode(speckle(), "TIFF"))
    entries = struct.unpack_from("<L", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, entries)[0]
    looped = bytearray(tiff)
    struct.pack_into("<L", looped, entries + 2 + 12 * count, entries)  # the next directory is this one
    yield "directory-loop.tiff", bytes(looped)
    for number in range(count):
        odd = bytearray(tiff)
        struct.pack_into("<L", odd, entries + 2 + 12 * number + 8, 0xFFFFFFF0)
        yield f"tag-{number}.tiff", bytes(odd)
    stack = np.stack([speckle(seed=seed) for seed in range(2)])
    for tag, value in (
        ("NumberOfFrames", 65_535), ("NumberOfFrames", 0), ("NumberOfFrames", -3), ("Rows", 65_535), ("Columns", 0),
        ("BitsAllocated", 64), ("BitsAllocated", 7), ("SamplesPerPixel", 4), ("PhotometricInterpretation", "MOON"),
        ("PixelRepresentation", 9), ("PlanarConfiguration", 7), ("BitsStored", 40),
    ):  # fmt: skip
        try:
            yield f"{tag}-{value}.dcm", dicom(stack, **{tag: value})
        except (ValueError, TypeError, OverflowError, struct.error):  # pydicom itself refuses to write some
            continue
    plain = nifti(volume(2, 20, 20))
    for at, size, value in (
        (40, "h", 32_767), (40, "h", -1), (42, "h", 32_767), (42, "h", -5), (46, "h", 32_767), (48, "h", 32_767),
        (70, "h", 9_999), (72, "h", 4_000), (108, "f", 1e30), (108, "f", -7.0), (108, "f", float("nan")),
        (76, "f", -1.0), (0, "i", 7), (112, "f", float("nan")),
    ):  # fmt: skip
        odd = bytearray(plain)
        struct.pack_into(f"<{size}", odd, at, value)
        yield f"field-{at}-{value}.nii", bytes(odd)
    meta = (
        "ObjectType = Image\nNDims = {n}\nDimSize = {sizes}\nElementType = {kind}\nElementDataFile = {file}\n"
    )
    for number, fields in enumerate((
        {"n": 3, "sizes": "64 64 65535", "kind": "MET_UCHAR", "file": "LOCAL"},
        {"n": 3, "sizes": "65535 65535 65535", "kind": "MET_DOUBLE", "file": "LOCAL"},
        {"n": 3, "sizes": "-4 -4 -4", "kind": "MET_UCHAR", "file": "LOCAL"},
        {"n": 99, "sizes": "1", "kind": "MET_UCHAR", "file": "LOCAL"},
        {"n": 2, "sizes": "8 8", "kind": "MET_MOON", "file": "LOCAL"},
        {"n": 2, "sizes": "8 8", "kind": "MET_UCHAR", "file": "/etc/passwd"},
        {"n": 2, "sizes": "8 8", "kind": "MET_UCHAR", "file": "../../../../etc/passwd"},
        {"n": 2, "sizes": "8 8", "kind": "MET_UCHAR", "file": "%03d.raw 1 9 1"},
        {"n": 2, "sizes": "8 8", "kind": "MET_UCHAR", "file": "LIST"},
    )):  # fmt: skip
        yield f"meta-{number}.mha", meta.format(**fields).encode() + bytes(64)
    nrrd = "NRRD0004\ntype: {kind}\ndimension: {n}\nsizes: {sizes}\nencoding: {how}\n{more}\n"
    for number, fields in enumerate((
        {"kind": "uchar", "n": 3, "sizes": "64 64 65535", "how": "raw", "more": ""},
        {"kind": "double", "n": 3, "sizes": "99999 99999 99999", "how": "gzip", "more": ""},
        {"kind": "uchar", "n": 2, "sizes": "8 8", "how": "raw", "more": "data file: /etc/passwd\n"},
        {"kind": "uchar", "n": 2, "sizes": "8 8", "how": "raw", "more": "data file: ../../../etc/passwd\n"},
        {"kind": "uchar", "n": 2, "sizes": "8 8", "how": "raw", "more": "data file: LIST\n/etc/passwd\n"},
        {"kind": "block", "n": 2, "sizes": "8 8", "how": "raw", "more": "block size: 999999999999\n"},
        {"kind": "uchar", "n": 2, "sizes": "8 8", "how": "raw", "more": "byte skip: -99999999\n"},
        {"kind": "uchar", "n": 2, "sizes": "8 8", "how": "raw", "more": "line skip: 99999999999\n"},
        {"kind": "uchar", "n": 16, "sizes": " ".join(["2"] * 16), "how": "raw", "more": ""},
    )):  # fmt: skip
        yield f"fields-{number}.nrrd", nrrd.format(**fields).encode() + bytes(64)
    for number, header in enumerate((
        "{'descr': '|u1', 'fortran_order': False, 'shape': (65535, 64, 64), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 16), }",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (0, 16), }",
        "{'descr': '|V4294967295', 'fortran_order': False, 'shape': (8, 8), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2, 4), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (2, 4), }",
        "{'descr': '<c16', 'fortran_order': False, 'shape': (2, 2), }",
        "__import__('os').mkdir('evil')", "{" * 60, "{'descr': 1, 'shape': 2}",
    )):  # fmt: skip
        yield f"header-{number}.npy", npy_header(header)
    yield "length.npy", b"\x93NUMPY\x02\x00" + struct.pack("<L", 2**32 - 1) + bytes(100)


def _bmp(width: int, height: int) -> bytes:
    info = struct.pack("<LllHHLLllLL", 40, _wrapped(width), _wrapped(height), 1, 24, 0, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<LHHL", 54 + 300, 0, 0, 54) + info + bytes(300)


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _values() -> Iterator[tuple[str, bytes]]:
    """Arrays that are well formed and no pictures."""
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 1e308)):
        bad = np.full((3, 20, 24), value)
        yield f"{name}.nii", nifti(bad)
        yield f"{name}.npy", npy(bad)
        yield f"{name}.h5", hdf5(frames=bad)
        yield f"{name}.mat", mat(frames=bad)
        yield f"{name}.f32.npy", npy(bad.astype(np.float32) if value != 1e308 else bad * 0)
    yield "negative-strides.npy", npy(np.stack([speckle()] * 2)[:, ::-1, ::-1] * 0)
    yield "strings.npy", npy(np.array([["a", "b"], ["c", "d"]]))
    yield "empty.npy", npy(np.zeros((0, 5, 5)))
    yield "five-dimensions.npy", npy(np.zeros((2, 2, 2, 2, 2)))
    yield "one-pixel.png", png(1, 1, zlib.compress(bytes(2)))
    yield "one-row.png", png(30_000, 1, zlib.compress(bytes(30_001)))
    yield "one-column.png", png(1, 30_000, zlib.compress(bytes(60_000)))
    yield "text.h5", hdf5(notes="nothing but text")
    yield "empty-group.h5", hdf5()
    yield "external.h5", _external()
    yield "nothing.bin", b""
    yield "zeros.bin", bytes(5_000)
    yield "page.png", b"<!DOCTYPE html><title>Quota exceeded</title>"
    yield "pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def _external() -> bytes:
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        with h5py.File(path, "w") as file:
            file["frames"] = h5py.ExternalLink("/etc/passwd", "/x")
            file.create_dataset("raw", (40, 40), "u1", external=[("/etc/passwd", 0, 1600)])
            file["loop"] = h5py.SoftLink("/loop")
        return path.read_bytes()


def _pickles(marker: Path) -> Iterator[tuple[str, bytes]]:
    payload = pickle.dumps(Payload(marker))
    boxed = np.empty((2, 2), object)
    boxed[:] = Payload(marker)
    pickled = npy(boxed, allow_pickle=True)
    yield "payload.pkl", payload
    yield "payload.npy", pickled
    yield "payload.npz", zip_bytes({"frames.npy": pickled})
    yield "beside.npz", zip_bytes({"frames.npy": npy(np.zeros((8, 9), np.uint8)), "x.npy": pickled})
    yield (
        "payload.pt",
        zip_bytes({"archive/data.pkl": payload, "archive/version": b"3\n", "archive/data/0": bytes(64)}),
    )
    yield "legacy.pt", pickle.dumps(0x1950A86A20F9469CFC6C) + payload
    yield "payload.mat", mat(frames=np.array(["pickle"], object), raw=np.frombuffer(payload, np.uint8))
    yield "payload.h5", hdf5(frames=np.void(payload))


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that expand to what would fill memory or disk."""
    zeros = gzip.compress(bytes(64 * MIB), 1)
    header = nifti(np.zeros((1, 8, 8), np.uint8))[:348]
    yield "bomb.nii.gz", gzip.compress(header, 1) + zeros * (BOMB // (64 * MIB))
    squeezed = _zlib_zeros(BOMB)
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 4096 4096 64\nElementType = MET_UCHAR\nCompressedData = True\n"
    yield "bomb.mha", (meta + "ElementDataFile = LOCAL\n").encode() + squeezed
    nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4096 4096 64\nencoding: gzip\n\n"
    yield "bomb.nrrd", nrrd.encode() + zeros * (BOMB // (64 * MIB))
    yield "bomb.npz", zip_bytes({"frames.npy": npy_header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (80, 1024, 1024), }", b"") + bytes(BOMB)})  # fmt: skip
    yield "bomb.mat", _mat_bomb(BOMB)
    yield "bomb-below-the-limit.mat", _mat_bomb(60 * MIB)
    yield (
        "bomb-below-the-limit.nrrd",
        (b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4096 4096 30\nencoding: gzip\n\n")
        + gzip.compress(bytes(480 * MIB), 1),
    )
    yield (
        "bomb-wide.npy.gz",
        gzip.compress(
            npy_header(
                "{'descr': '<f8', 'fortran_order': False, 'shape': (5700, 5800), }", bytes(5700 * 5800 * 8)
            ),
            1,
        ),
    )
    yield "bomb.h5", _hdf5_bomb()
    yield "bomb.png", png(12_000, 11_000, _zlib_zeros(11_000 * 12_001))
    yield "bomb-16.png", png(8_000, 8_000, _zlib_zeros(8_000 * 16_001), depth=16)
    yield "bomb-rgb.png", png(8_000, 8_000, _zlib_zeros(8_000 * 24_001), kind=2)
    yield "bomb-text.png", _text_bomb()


def _zlib_zeros(size: int) -> bytes:
    squeezer, block = zlib.compressobj(1), bytes(8 * MIB)
    pieces = [squeezer.compress(block[: size - start]) for start in range(0, size, len(block))]
    return b"".join([*pieces, squeezer.flush()])


def _mat_bomb(size: int) -> bytes:
    """A MATLAB 5 file with one compressed element that claims, and holds, `size` bytes of one uint8 matrix."""
    side = size // 1024 // 1024
    flags = struct.pack("<LLLL", 6, 8, 9, 0)
    dims = struct.pack("<LLlll4x", 5, 12, 1024, 1024, side)
    name = struct.pack("<LL8s", 1, 6, b"frames")
    body = flags + dims + name + struct.pack("<LL", 2, size)
    inner = struct.pack("<LL", 14, len(body) + size) + body
    squeezer = zlib.compressobj(1)
    data = squeezer.compress(inner)
    for _ in range(size // MIB):
        data += squeezer.compress(bytes(MIB))
    data += squeezer.flush()
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<LL", 15, len(data)) + data


def _hdf5_bomb() -> bytes:
    """One chunk of a terabyte that was never written: reading it would fill it with zeros."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_dataset("frames", (1, 8_000, 8_000), "f8", chunks=(1, 8_000, 8_000), compression="gzip")
        file.create_dataset("more", (1 << 20, 1 << 10, 1 << 10), "u1", chunks=(1, 1 << 10, 1 << 10))
    return out.getvalue()


def _text_bomb() -> bytes:
    data = zlib.compress(bytes(64 * MIB))
    body = b"key\0\0" + data
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = encode(speckle(), "PNG")
    return whole[:33] + chunk * 20 + whole[33:]


def archives(seed: int, outside: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of malformed archives; each tries to write into `outside` if it can."""
    rng = random.Random(seed)
    good = {f"pictures/{n}.png": encode(speckle(seed=n), "PNG") for n in range(3)}
    packers: dict[str, Any] = dict(PACKERS)
    packers["7z"] = seven
    packers["rar"] = lambda members: rar(b"".join(rar_file(name, data) for name, data in members.items()))
    for kind in ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "7z", "rar"):
        whole = packers[kind](good)
        for share in (0.1, 0.6, 0.98):
            yield f"cut-{int(100 * share)}.{kind}", whole[: int(share * len(whole))]
        for number in range(3):
            yield f"flip-{number}.{kind}", flipped(rng, whole, 2, len(whole))
        yield f"flip-end.{kind}", whole[:-60] + flipped(rng, whole[-60:], 4, 60)
        for number, name in enumerate(_names(outside)):
            if kind in ("zip", "tar", "tar.gz") or number < 2:
                try:
                    yield f"name-{number}.{kind}", packers[kind]({**good, name: b"x"})
                except (ValueError, UnicodeError, OSError, TypeError):
                    continue
    for link in ("sym", "hard", "device", "fifo"):
        yield f"link-{link}.tar", _tar_link(good, link, outside)
    yield "symlink.zip", _zip_symlink(good, outside)
    yield "twice.zip", zip_bytes({**good, "./pictures/0.png": b"other"})
    yield "encrypted.zip", _encrypted(zip_bytes(good))
    yield "overlap.zip", _overlapping()
    nested = zip_bytes(good)
    for _ in range(8):
        nested = zip_bytes({"in.zip": nested})
    yield "deep.zip", nested
    yield "folders.zip", zip_bytes({"a/" * 900 + "x.png": good["pictures/0.png"]})
    yield "many.tar.gz", gzip.compress(tar_bytes({f"{n:05}.png": b"" for n in range(300)}))
    yield "bomb.tar.gz", gzip.compress(_tar_of_zeros(), 1)
    yield "pax.tar", _pax_bomb()
    yield "page.zip", b"<!DOCTYPE html><html><title>Sign in</title></html>"
    yield "empty.zip", b""
    yield "nothing.zip", zip_bytes({})


def _names(outside: Path) -> list[str]:
    return [
        "../../escaped.png", f"{outside}/absolute.png", "a/../../../escaped.png", "C:/escaped.png",
        "a\\..\\escaped.png", "pictures/0.png/x.png", "x\x1b[2J.png", "x\u202egnp.exe.png",
        "\u2024\u2024/\u2215etc.png", "con.png", "a" * 300 + ".png", "e\u0301.png", "\ufeff.png", "x\n.png",
        "~/x.png", "-rf.png", "$(touch escaped).png", ".png",
    ]  # fmt: skip


def _tar_link(good: dict[str, bytes], kind: str, outside: Path) -> bytes:
    out = io.BytesIO(tar_bytes(good))
    with tarfile.open(fileobj=out, mode="a") as archive:
        info = tarfile.TarInfo("pictures/link.png")
        info.type = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
                     "fifo": tarfile.FIFOTYPE}[kind]  # fmt: skip
        info.linkname = str(outside / "secret.png")
        archive.addfile(info)
    return out.getvalue()


def _zip_symlink(good: dict[str, bytes], outside: Path) -> bytes:
    out = io.BytesIO(zip_bytes(good))
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo("pictures/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, str(outside / "secret.png"))
    return out.getvalue()


def _encrypted(data: bytes) -> bytes:
    out = bytearray(data)
    at = out.find(b"PK\x01\x02")
    out[at + 8] |= 1
    return bytes(out)


def _overlapping() -> bytes:
    data = zip_bytes({"a.bin": random.Random(1).randbytes(50_000)}, zipfile.ZIP_STORED)
    end = data.rfind(b"PK\x05\x06")
    size, offset = struct.unpack_from("<2L", data, end + 12)
    directory = b"".join(data[offset : offset + size].replace(b"a.bin", b"%05d" % n) for n in range(500))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 500, 500, len(directory), offset, 0)
    return data[:offset] + directory + tail


def _tar_of_zeros() -> bytes:
    info = tarfile.TarInfo("pictures/zeros.png")
    info.size = 64 * MIB
    return info.tobuf() + bytes(64 * MIB + 1024)


def _pax_bomb() -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8**11 - 1
    return header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096)
