"""rar and 7z: unpacked once, under numbers, with a marker; what is missing is said before a download."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import py7zr
import pytest

from openus.archives import Limits, Tree, required_tools
from openus.errors import ArchiveError
from tests.archives.test_tree import FILES, content, make_folder, noise, prefixed, zip_bytes


def rar_block(kind: int, flags: int, body: bytes) -> bytes:
    rest = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest


def rar_file(
    name: str, data: bytes, *, whole: bytes | None = None, flags: int = 0, method: int = 0x30
) -> bytes:
    whole = data if whole is None else whole
    raw = name.encode()
    head = struct.pack(
        "<LLBLLBBHL", len(data), len(whole), 3, zlib.crc32(whole), 0, 20, method, len(raw), 0o100644
    )
    return rar_block(0x74, 0x8000 | flags, head + raw) + data


def rar(members: bytes, flags: int = 0) -> bytes:
    """A version 4 archive (RAR technote, 'Rar 1.5 to 4.x archive format') around ready members."""
    return b"Rar!\x1a\x07\x00" + rar_block(0x73, flags, bytes(6)) + members + rar_block(0x7B, 0x4000, b"")


def stored_rar(files: dict[str, bytes]) -> bytes:
    return rar(b"".join(rar_file(name.replace("ä", "ae"), data) for name, data in files.items()))


def seven(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with py7zr.SevenZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(data, name)
    return out.getvalue()


ASCII_FILES = {name.replace("ä", "ae"): data for name, data in FILES.items()}
PACKERS = {"rar": stored_rar, "7z": seven}


@pytest.mark.parametrize("suffix", PACKERS)
def test_unpacked_once_into_the_work_folder(tmp_path: Path, suffix: str) -> None:
    path, work = tmp_path / f"a.{suffix}", tmp_path / "work"
    path.write_bytes(PACKERS[suffix](ASCII_FILES | {"__MACOSX/._x": b"litter"}))
    assert content(Tree([path], work=work)) == prefixed("a/", ASCII_FILES)
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*")}
    assert len(before) == 1 + 1 + len(ASCII_FILES), "a folder, its marker, numbered files"
    tree = Tree([path], work=work)
    assert content(tree) == prefixed("a/", ASCII_FILES)
    assert all(entry.random and not entry.unit for entry in tree.entries())
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*")} == before
    path.write_bytes(PACKERS[suffix]({"new.png": b"new"}))
    os.utime(path, ns=(1, 1))
    assert content(Tree([path], work=work)) == {"a/new.png": b"new"}, "a changed archive is unpacked again"


@pytest.mark.parametrize("suffix", PACKERS)
def test_without_work_folder_and_nested(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix](ASCII_FILES))
    tree = Tree([path])
    assert content(tree) == prefixed("a/", ASCII_FILES)
    assert not any(entry.random for entry in tree.entries())
    (tmp_path / "outer.zip").write_bytes(zip_bytes({f"x/in.{suffix}": path.read_bytes()}))
    assert content(Tree([tmp_path / "outer.zip"])) == prefixed("outer/x/in/", ASCII_FILES)
    path.write_bytes(PACKERS[suffix]({"in.zip": zip_bytes(FILES)}))
    assert content(Tree([path])) == prefixed("a/in/", FILES)


def test_seven_in_cut_parts(tmp_path: Path) -> None:
    data = seven(FILES)
    (tmp_path / "a.7z.001").write_bytes(data[:500])
    (tmp_path / "a.7z.002").write_bytes(data[500:])
    assert content(Tree([tmp_path])) == prefixed("a/", FILES)


@pytest.mark.parametrize("names", [("a.part1.rar", "a.part2.rar"), ("a.rar", "a.r00")])
def test_rar_in_volumes(tmp_path: Path, names: tuple[str, str]) -> None:
    new = 0x10 if "part" in names[0] else 0
    data = noise(5000)
    first = rar_file("big.bin", data[:3000], whole=data, flags=0x02)
    second = rar_file("big.bin", data[3000:], whole=data, flags=0x01)
    (tmp_path / names[0]).write_bytes(
        rar(rar_file("s.png", b"s") + first, 0x101 | new)[:-7] + rar_block(0x7B, 0x4001, b"")
    )
    (tmp_path / names[1]).write_bytes(rar(second, 0x01 | new))
    assert content(Tree([tmp_path])) == {"a/s.png": b"s", "a/big.bin": data}
    (tmp_path / names[0]).unlink()
    with pytest.raises(ArchiveError, match="part 1 missing" if new else "no file"):
        Tree([tmp_path]).open("a/big.bin")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil"])
def test_bad_names_in_rar(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.rar").write_bytes(stored_rar({"ok.png": b"1", name: b"2"}))
    with pytest.raises(ArchiveError, match="refused"):
        content(Tree([tmp_path / "a.rar"], work=tmp_path / "work"))
    assert not any(p.is_file() for p in (tmp_path / "work").rglob("*"))


def test_bad_names_and_links_in_7z(tmp_path: Path) -> None:
    out = io.BytesIO()
    with py7zr.SevenZipFile(out, "w") as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"1", "xx/evil.png")
    data = bytearray(out.getvalue().replace("xx/".encode("utf-16-le"), "../".encode("utf-16-le")))
    start, size = struct.unpack_from("<QQ", data, 12)
    struct.pack_into("<L", data, 28, zlib.crc32(data[32 + start : 32 + start + size]))
    struct.pack_into("<L", data, 8, zlib.crc32(data[12:32]))
    (tmp_path / "a.7z").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"climbs out|outside"):
        content(Tree([tmp_path / "a.7z"], work=tmp_path / "work"))
    folder = make_folder(tmp_path / "src", {"real.png": b"1"})
    (folder / "link.png").symlink_to("real.png")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(folder, "src")
    with pytest.raises(ArchiveError, match="link"):
        content(Tree([tmp_path / "a.7z"], work=tmp_path / "work"))
    assert not any(p.is_file() for p in (tmp_path / "work").rglob("*"))


def test_encrypted(tmp_path: Path) -> None:
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="secret") as archive:
        archive.writestr(b"x", "x.png")
    (tmp_path / "a.rar").write_bytes(rar(rar_file("x.png", b"x" * 16, flags=0x04)))
    for suffix in PACKERS:
        with pytest.raises(ArchiveError, match="encrypted"):
            content(Tree([tmp_path / f"a.{suffix}"]))


@pytest.mark.parametrize("suffix", PACKERS)
def test_bombs_and_limits_before_unpacking(tmp_path: Path, suffix: str) -> None:
    path, work = tmp_path / f"a.{suffix}", tmp_path / "work"
    path.write_bytes(PACKERS[suffix]({"a.png": b"1" * 100, "b.png": b"2" * 100}))
    for limits in (Limits(members=1), Limits(member_bytes=99), Limits(total_bytes=199)):
        with pytest.raises(ArchiveError, match=r"limit|more than"):
            content(Tree([path], limits, work))
        assert not any(p.is_file() for p in work.rglob("*"))
    if suffix == "7z":
        path.write_bytes(seven({"zeros.bin": bytes(8 << 20)}))
        with pytest.raises(ArchiveError, match="bomb"):
            content(Tree([path], Limits(ratio_floor=1 << 20), work))


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    data = PACKERS[suffix]({"noise.bin": noise(100_000)})
    (tmp_path / f"a.{suffix}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArchiveError, match="fetch it again"):
        content(Tree([tmp_path / f"a.{suffix}"]))


def test_wrong_checksum(tmp_path: Path) -> None:
    for suffix, pack in PACKERS.items():
        data = bytearray(pack({"noise.bin": noise(100_000)}))
        data[50_000] ^= 1
        (tmp_path / f"a.{suffix}").write_bytes(data)
        with pytest.raises(ArchiveError, match="fetch it again"):
            content(Tree([tmp_path / f"a.{suffix}"]))


def test_missing_tool_is_said_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert required_tools(["a.zip", "b.z01", "c.tar.zst", "d.7z", "e.change2zip"]) == []
    (message,) = required_tools(["images.PART1.rar", "images.part2.rar"])
    assert "external tool" in message and "unar" in message
    (tmp_path / "a.rar").write_bytes(rar(rar_file("x.png", b"packed", whole=b"x" * 100, method=0x33)))
    with pytest.raises(ArchiveError, match="external tool"):
        content(Tree([tmp_path / "a.rar"]))
    tool = tmp_path / "unrar"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert required_tools(["images.part1.rar"]) == []
