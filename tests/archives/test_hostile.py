"""Archives that must be refused, each with one clear error that names archive, member and rule."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openus.archives import Limits, Tree
from openus.archives.names import safe_name
from openus.errors import ArchiveError
from tests.archives.test_tree import (
    FILES,
    PACKERS,
    content,
    make_folder,
    noise,
    prefixed,
    tar_bytes,
    zip_bytes,
)

MIB = 1 << 20
DEFAULT = Limits()
BAD_NAMES = {
    "/etc/passwd": "absolute",
    "../../evil.png": "climbs out",
    "a/../../evil.png": "climbs out",
    "C:/evil.png": "drive letter",
    "a\\..\\evil.png": "backslash",
    "a/\x1b[2Jevil.png": "control characters",
    "a" * 5000: "longer than",
}


def refusal(path: Path, limits: Limits = DEFAULT) -> str:
    """The one-line message with which the archive is refused, by listing or at the latest by reading."""
    with pytest.raises(ArchiveError) as caught:
        content(Tree([path], limits))
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_bad_names(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix]({"good.png": b"1", name: b"2"}))
    assert BAD_NAMES[name] in refusal(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_nul_in_name(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="NUL"):
        safe_name("a.png\0.exe", "x.zip")
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes({"a.png_b.exe": b"1"}).replace(b"a.png_b.exe", b"a.png\0b.exe"))
    assert "NUL" in refusal(path)


@given(st.text())
def test_safe_names_stay_inside(raw: str) -> None:
    try:
        name = safe_name(raw, "x")
    except ArchiveError:
        return
    assert not name.startswith("/") and ".." not in name.split("/") and "\\" not in name and "\0" not in name
    assert safe_name(name, "x") == name or not name


def test_links_and_devices_in_tar(tmp_path: Path) -> None:
    kinds = {
        tarfile.SYMTYPE: "a link",
        tarfile.LNKTYPE: "a link",
        tarfile.CHRTYPE: "a device",
        tarfile.FIFOTYPE: "a device",
    }
    for kind, message in kinds.items():
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("x.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        assert message in refusal(tmp_path / "a.tar")


def test_symlink_in_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "symbolic link" in refusal(tmp_path / "a.zip")


def test_links_in_folders(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "alias.csv").symlink_to("labels.csv")
    (folder / "again").symlink_to("images")
    (folder / "loop").symlink_to(".")
    assert content(Tree([folder])) == FILES | {"alias.csv": FILES["labels.csv"]}
    (folder / "out.png").symlink_to("../secret.png")
    assert "leaves the folder" in refusal(folder)
    (folder / "out.png").unlink()
    (folder / "all").symlink_to(tmp_path)
    assert "leaves the folder" in refusal(folder)
    (folder / "all").unlink()
    os.mkfifo(folder / "pipe.png")
    assert "not a plain file" in refusal(folder)


def test_bomb_by_ratio(tmp_path: Path) -> None:
    zeros = bytes(8 * MIB)
    limits = Limits(ratio_floor=4 * MIB)
    for suffix in ("zip", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(PACKERS[suffix]({"zeros.dcm": zeros}))
        assert "bomb" in refusal(path, limits)
        assert len(content(Tree([path]))) == 1, "below the default floor small sets of zeros are welcome"


def test_bomb_with_overlapping_members(tmp_path: Path) -> None:
    """Many directory entries for the same stored bytes (as in zbsm.zip): sizes claimed exceed the file."""
    data = zip_bytes({"a.bin": noise(50_000)}, zipfile.ZIP_STORED)
    end = data.rfind(b"PK\x05\x06")
    size, offset = struct.unpack_from("<2L", data, end + 12)
    entry = data[offset : offset + size]
    directory = b"".join(entry.replace(b"a.bin", b"%05d" % n) for n in range(200))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 200, 200, len(directory), offset, 0)
    (tmp_path / "a.zip").write_bytes(data[:offset] + directory + tail)
    assert "overlapping" in refusal(tmp_path / "a.zip")


def test_limits_of_size_count_and_depth(tmp_path: Path) -> None:
    for suffix in ("zip", "tar.gz", "tar"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(PACKERS[suffix]({f"{n}.png": b"x" * 100 for n in range(20)}))
        assert "20 files" in refusal(path, Limits(members=19)) or "limit is 19" in refusal(
            path, Limits(members=19)
        )
        assert "expands to 100 bytes" in refusal(path, Limits(member_bytes=99))
        assert "more than 1,999 bytes" in refusal(path, Limits(total_bytes=1999))
        content(Tree([path], Limits(members=20, member_bytes=100, total_bytes=2000)))
    inner = zip_bytes({"x.png": b"x"})
    for _ in range(5):
        inner = zip_bytes({"in.zip": inner})
    (tmp_path / "deep.zip").write_bytes(inner)
    assert "nested 5 deep" in refusal(tmp_path / "deep.zip")


def test_folder_limits(tmp_path: Path) -> None:
    assert "limit is 3" in refusal(make_folder(tmp_path / "f"), Limits(members=3))


def test_size_in_directory_is_not_trusted(tmp_path: Path) -> None:
    """A directory that claims fewer bytes than the data expand to: the checksum finds it, no byte more is read."""
    data = bytearray(zip_bytes({"a.bin": bytes(1_000_000)}))
    entry = data.rfind(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + 24, 1000)
    (tmp_path / "a.zip").write_bytes(data)
    assert "a.bin" in refusal(tmp_path / "a.zip")


def test_huge_tar_header_is_not_read_into_memory(tmp_path: Path) -> None:
    """A pax header may claim any size; tarfile would read it whole."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 200 * MIB
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(200 * MIB), 1)
    )
    assert "header of 209,715,200 bytes" in refusal(tmp_path / "a.tar.gz")


def test_sparse_tar_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("hole.png")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    block[386:410] = b"00000000000\0" + b"00000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    assert "sparse" in refusal(tmp_path / "a.tar") or "expands to" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_duplicate_names(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix]({"x.png": b"one", "./x.png": b"two"}))
    assert "this name" in refusal(path)
    if suffix == "zip":  # the very same file twice is a slip of the packer, not an attack
        path.write_bytes(zip_bytes({"x.png": b"one", "./x.png": b"one"}))
        assert content(Tree([path])) == {"a/x.png": b"one"}
    path.write_bytes(PACKERS[suffix]({"x.png": b"one", "X.PNG": b"two"}))
    assert content(Tree([path])) == {"a/x.png": b"one", "a/X.PNG": b"two"}, (
        "nothing is unpacked: case may differ"
    )


def test_same_path_from_two_archives(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zip_bytes({"x.png": b"one"}))
    make_folder(tmp_path / "set", {"x.png": b"other"})
    assert "keep either the archive" in refusal(tmp_path)


def test_encrypted_zip(tmp_path: Path) -> None:
    data = bytearray(zip_bytes(FILES))
    position = data.find(b"PK\x01\x02")
    data[position + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "encrypted" in refusal(tmp_path / "a.zip")


def test_unreadable_compression(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"x.png": b"x" * 100}))
    struct.pack_into("<H", data, data.find(b"PK\x01\x02") + 10, 6)
    (tmp_path / "a.zip").write_bytes(data)
    assert "implode" in refusal(tmp_path / "a.zip") and "7-Zip" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.97])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    data = PACKERS[suffix](FILES | {"noise.bin": noise(200_000)})
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    message = refusal(path)
    assert "truncated" in message and "fetch it again" in message


def test_tar_cut_between_members(tmp_path: Path) -> None:
    data = tar_bytes({"a.png": b"1" * 512, "b.png": b"2" * 512})
    (tmp_path / "a.tar").write_bytes(data[:1024])
    assert "truncated" in refusal(tmp_path / "a.tar")


# Not tar.zst: zstd writes no checksum unless asked to, so a flip in incompressible data stays unseen.
@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_flipped_byte_in_compressed_data(tmp_path: Path, suffix: str) -> None:
    data = bytearray(PACKERS[suffix]({"noise.bin": noise(200_000)}))
    data[len(data) // 2] ^= 0x40
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert "fetch it again" in refusal(tmp_path / f"a.{suffix}")


def test_garbled_tar_header(tmp_path: Path) -> None:
    data = bytearray(tar_bytes({"a.png": b"1", "b.png": b"2", "c.png": b"3"}))
    data[1024] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "a.tar")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data))
    assert "damaged" in refusal(tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>" * 20, "web page"),
        (b"\n  <html><head><title>Sign in</title>" + b" " * 600, "web page"),
        (b"", "empty (0 bytes)"),
        (b"just some text, no archive" * 40, "not an archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7", "not an archive"),
    ],
)
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "rar", "7z"])
def test_not_an_archive(tmp_path: Path, data: bytes, words: str, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert words in refusal(tmp_path / f"a.{suffix}")


def test_missing_root(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "gone.zip")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mangled_archives_never_leak_a_foreign_error(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(["zip", "tar", "tar.gz", "tar.zst"]))
    packed = bytearray(PACKERS[suffix]({"a.png": b"12345" * 50, "b/in.zip": zip_bytes({"c.png": b"67"})}))
    for _ in range(data.draw(st.integers(1, 5))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))] if data.draw(st.booleans()) else packed
    (tmp_path / f"a.{suffix}").write_bytes(packed)
    with contextlib.suppress(ArchiveError):
        content(Tree([tmp_path / f"a.{suffix}"]))


def test_self_extracting_zip_and_trailing_comment(tmp_path: Path) -> None:
    out = io.BytesIO(zip_bytes(FILES))
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"made by hand " * 100
    (tmp_path / "a.zip").write_bytes(b"MZ a program in front" * 100 + out.getvalue())
    assert content(Tree([tmp_path / "a.zip"])) == prefixed("a/", FILES)


def test_checksum_of_a_member(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.bin": b"abcdefgh" * 100}, zipfile.ZIP_STORED))
    assert zlib.crc32(b"abcdefgh" * 100)
    data[60] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "CRC" in refusal(tmp_path / "a.zip")
