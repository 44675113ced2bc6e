"""The same files under the same paths, however they are packed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import multiprocessing
import pickle
import random
import shutil
import struct
import subprocess
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from openus.archives import Tree
from openus.archives.store import rim
from openus.errors import ArchiveError

FILES = {
    "images/benign (1).png": b"\x89PNG one",
    "images/ähnlich.png": b"\x89PNG two" * 1000,
    "masks/benign (1).png": b"mask",
    "labels.csv": b"name,label\n",
    "deep/er/and/deeper.dcm": bytes(range(256)) * 5000,
}
LITTER = ["__MACOSX/images/._benign (1).png", ".DS_Store", "images/Thumbs.db", "images/desktop.ini", "._x"]


def make_folder(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The same bytes at any hour: a name alone would be packed with the time of day."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o40775 << 16) | 0x10 if name.endswith("/") else 0o600 << 16
            archive.writestr(info, data, method)
    return out.getvalue()


def tar_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def noise(size: int) -> bytes:
    """What no compressor makes smaller."""
    return random.Random(size).randbytes(size)


def zst(data: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": zip_bytes,
    "tar": tar_bytes,
    "tar.gz": lambda files: gzip.compress(tar_bytes(files), mtime=0),
    "tgz": lambda files: gzip.compress(tar_bytes(files), mtime=0),
    "tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "tar.zst": lambda files: zst(tar_bytes(files)),
    "change2zip": zip_bytes,
}


def content(tree: Tree) -> dict[str, bytes]:
    """Everything a tree yields through `read`, each member exactly once."""
    paths = [entry.path for entry in tree.entries()]
    found: dict[str, bytes] = {}
    for member in tree.read(paths):
        assert member.path not in found
        with member.open() as reader:
            found[member.path] = reader.read()
            assert len(found[member.path]) == member.size
            reader.seek(0)
            assert reader.read(3) == found[member.path][:3]
    assert sorted(found) == paths
    return found


def prefixed(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {prefix + name: data for name, data in files.items()}


def test_folder(tmp_path: Path) -> None:
    tree = Tree([make_folder(tmp_path / "data")])
    assert content(tree) == FILES
    assert [entry.path for entry in tree.entries()] == sorted(FILES)
    assert all(entry.random and entry.unit == "" for entry in tree.entries())


@pytest.mark.parametrize("suffix", PACKERS)
def test_archive_prefixes_its_stem(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train.v1.{suffix}"
    path.write_bytes(PACKERS[suffix](FILES))
    tree = Tree([path])
    assert content(tree) == prefixed("train.v1/", FILES)
    assert {entry.size for entry in tree.entries()} == {len(data) for data in FILES.values()}
    sequential = suffix not in ("zip", "tar", "change2zip")
    assert {entry.random for entry in tree.entries()} == {not sequential}
    assert {entry.unit for entry in tree.entries()} == {str(path) if sequential else ""}


@pytest.mark.parametrize("suffix", PACKERS)
def test_random_access_and_subset(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix](FILES))
    tree = Tree([path])
    with tree.open("a/labels.csv") as reader:
        assert reader.read() == FILES["labels.csv"]
    wanted = ["a/masks/benign (1).png", "a/labels.csv"]
    assert sorted(member.path for member in tree.read(wanted)) == sorted(wanted)
    with pytest.raises(ArchiveError, match=r"no file 'a/label.csv'.*did you mean 'a/labels.csv'"):
        tree.open("a/label.csv")


@pytest.mark.parametrize("outer", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("inner", ["zip", "tar", "tar.xz"])
@pytest.mark.parametrize("shared_work", [False, True])
def test_nested(tmp_path: Path, outer: str, inner: str, shared_work: bool) -> None:
    files = {f"set/inside.{inner}": PACKERS[inner](FILES), "readme.txt": b"hello"}
    path = tmp_path / f"all.{outer}"
    path.write_bytes(PACKERS[outer](files))
    tree = Tree([path], work=tmp_path / "work" if shared_work else None)
    assert content(tree) == prefixed("all/set/inside/", FILES) | {"all/readme.txt": b"hello"}
    direct_inner = outer == "tar" or shared_work
    nested = [entry for entry in tree.entries() if "inside" in entry.path]
    assert {entry.random for entry in nested} == {direct_inner and inner != "tar.xz" and outer != "tar.gz"}


def test_stored_zip_in_zip_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "outer.zip"
    path.write_bytes(zip_bytes({"in.zip": zip_bytes({"deepest.tar": tar_bytes(FILES)}, 0)}, 0))
    tree = Tree([path], work=tmp_path / "work")
    assert content(tree) == prefixed("outer/in/deepest/", FILES)
    assert not (tmp_path / "work").exists()


def test_packed_and_unpacked_differ_by_a_prefix(tmp_path: Path) -> None:
    unpacked = make_folder(tmp_path / "plain" / "DS", FILES)
    make_folder(tmp_path / "plain" / "DS" / "more", {"x.png": b"x"})
    packed = tmp_path / "DS.zip"
    packed.write_bytes(zip_bytes(FILES | {"more.zip": zip_bytes({"x.png": b"x"})}))
    assert content(Tree([packed])) == prefixed("DS/", content(Tree([unpacked])))
    assert content(Tree([packed])) == content(Tree([unpacked.parent]))


def test_archive_kept_beside_what_was_unpacked_from_it(tmp_path: Path) -> None:
    for number, where in enumerate(("sub", "sub/DS", ".")):  # unpacked here, or into a folder of its name
        folder = tmp_path / str(number)
        (folder / "sub").mkdir(parents=True)
        (folder / ("sub/DS.zip" if where != "." else "DS.zip")).write_bytes(zip_bytes(FILES))
        make_folder(folder / where)
        assert sorted(content(Tree([folder]))) == sorted(prefixed("" if where == "." else where + "/", FILES))
        (folder / where / "labels.csv").write_bytes(b"edited since")
        if where == "sub/DS":
            with pytest.raises(ArchiveError, match="keep either the archive or what was unpacked"):
                Tree([folder]).entries()
        else:  # not the same data any more, and under other paths: both are shown
            assert len(Tree([folder]).entries()) == 2 * len(FILES)


def test_litter_and_empty_folders_left_out(tmp_path: Path) -> None:
    littered = FILES | dict.fromkeys(LITTER, b"litter") | {"empty/": b""}
    for suffix in ("zip", "tar.gz"):
        (tmp_path / f"a.{suffix}").write_bytes(
            PACKERS[suffix]({k: v for k, v in littered.items() if k != "empty/"})
        )
        assert content(Tree([tmp_path / f"a.{suffix}"])) == prefixed("a/", FILES)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("empty/", b"")
    assert content(Tree([tmp_path / "a.zip"])) == prefixed("a/", FILES)
    folder = make_folder(tmp_path / "f", FILES | dict.fromkeys(LITTER, b"litter"))
    (folder / "empty").mkdir()
    assert content(Tree([folder])) == FILES


def test_names_are_nfc_and_zip_names_without_flag_are_utf8(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "ähnlich.png")
    (tmp_path / "a.tar").write_bytes(tar_bytes({decomposed: b"1"}))
    assert list(content(Tree([tmp_path / "a.tar"]))) == ["a/ähnlich.png"]
    plain = zip_bytes({"aehnlich.png": b"2"})
    raw = "ähnlich.png".encode()
    assert len(raw) == len(
        b"aehnlich.png"
    )  # so that the bytes can be put in place: a zip without the UTF-8 flag
    (tmp_path / "b.zip").write_bytes(plain.replace(b"aehnlich.png", raw))
    assert list(content(Tree([tmp_path / "b.zip"]))) == ["b/ähnlich.png"]


def test_unicode_path_field_of_zip(tmp_path: Path) -> None:
    """A name in GBK without the UTF-8 flag, with the readable name in Info-ZIP's extra field."""
    raw, readable = "超声.png".encode("gbk"), "超声.png".encode()
    info = zipfile.ZipInfo("abcdefgh"[: len(raw) - 4] + ".png")
    field = struct.pack("<BL", 1, zlib.crc32(raw)) + readable
    info.extra = struct.pack("<2H", 0x7075, len(field)) + field
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"pixels")
    data = (tmp_path / "a.zip").read_bytes().replace(info.filename.encode(), raw)
    (tmp_path / "a.zip").write_bytes(data)
    assert content(Tree([tmp_path / "a.zip"])) == {"a/超声.png": b"pixels"}


def test_plain_files_as_roots(tmp_path: Path) -> None:
    make_folder(tmp_path, {"volume.nii.gz": gzip.compress(b"nifti"), "table.xlsx": zip_bytes({"x": b"y"})})
    (tmp_path / "a.zip").write_bytes(zip_bytes({"p.png": b"p"}))
    tree = Tree([tmp_path / "volume.nii.gz", tmp_path / "table.xlsx", tmp_path / "a.zip"])
    assert [entry.path for entry in tree.entries()] == ["a/p.png", "table.xlsx", "volume.nii.gz"]


def test_archive_without_suffix_and_with_the_wrong_one(tmp_path: Path) -> None:
    (tmp_path / "4126fc3").write_bytes(zip_bytes(FILES))
    (tmp_path / "wrong.zip").write_bytes(gzip.compress(tar_bytes(FILES)))
    assert content(Tree([tmp_path / "4126fc3"])) == prefixed("4126fc3/", FILES)
    assert content(Tree([tmp_path / "wrong.zip"])) == prefixed("wrong/", FILES)


def test_merely_cut_zip(tmp_path: Path) -> None:
    data = zip_bytes(FILES)
    third = len(data) // 3 + 1
    for number in range(3):
        (tmp_path / f"set.zip.{number + 1:03}").write_bytes(data[number * third : (number + 1) * third])
    assert content(Tree([tmp_path])) == prefixed("set/", FILES)
    assert content(Tree([tmp_path / "set.zip.001"])) == prefixed("set/", FILES)
    (tmp_path / "set.zip.002").unlink()
    with pytest.raises(ArchiveError, match="part 2 missing"):
        Tree([tmp_path]).entries()


@pytest.fixture(params=["zip", "zip64"])
def split_zip(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A zip split by Info-ZIP: ds.z01, ds.z02, …, ds.zip; also with the records of archives above 4 GiB."""
    if shutil.which("zip") is None:
        pytest.skip("Info-ZIP's zip is not on this machine")
    loud = {f"noise/{n}.bin": noise(40_000 + n) for n in range(6)} | FILES
    make_folder(tmp_path / "src", loud)
    (tmp_path / "split").mkdir()
    command = [
        "zip",
        "-q",
        "-r",
        *(["-fz"] if request.param == "zip64" else []),
        "-s",
        "64k",
        str(tmp_path / "split" / "ds.zip"),
        ".",
    ]
    subprocess.run(command, cwd=tmp_path / "src", check=True)
    assert len(list((tmp_path / "split").glob("ds.z0*"))) >= 3
    return tmp_path / "split"


def test_split_zip(split_zip: Path) -> None:
    expected = prefixed("ds/", content(Tree([split_zip.parent / "src"])))
    assert content(Tree([split_zip])) == expected
    assert content(Tree([split_zip / "ds.zip"])) == expected
    assert content(Tree(sorted(split_zip.iterdir()))) == expected
    (split_zip / "ds.zip").rename(split_zip / "ds.change2zip")  # what Kaggle makes of it
    assert content(Tree([split_zip])) == expected


def test_split_zip_inside_a_zip(split_zip: Path, tmp_path: Path) -> None:
    parts = {path.name: path.read_bytes() for path in split_zip.iterdir()}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (tmp_path / "kaggle.zip").write_bytes(zip_bytes(parts, method))
        expected = prefixed("kaggle/ds/", content(Tree([tmp_path / "src"])))
        assert content(Tree([tmp_path / "kaggle.zip"])) == expected


def test_split_zip_with_parts_missing(split_zip: Path) -> None:
    (split_zip / "ds.z02").unlink()
    with pytest.raises(ArchiveError, match="part 2 missing; put all parts"):
        Tree([split_zip]).entries()
    for part in split_zip.glob("ds.z0*"):
        part.unlink()
    with pytest.raises(ArchiveError, match=r"a zip in \d parts .* 1 of them found"):
        Tree([split_zip]).entries()
    (split_zip / "ds.zip").rename(split_zip / "ds.z01")
    with pytest.raises(ArchiveError, match=r"ds.zip \(the last part\) missing"):
        Tree([split_zip]).entries()


def _digest(tree: Tree) -> dict[str, bytes]:
    return content(tree)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_tree_travels_to_workers(tmp_path: Path, method: str) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes(FILES))
    tree = Tree([tmp_path / "a.zip"])
    expected = content(tree)  # the parent's handles are open when the workers start
    assert pickle.loads(pickle.dumps(tree)).roots == tree.roots
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_digest, [tree, tree]) == [expected, expected]


def test_many_archives_do_not_keep_all_files_open(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:03}.zip").write_bytes(zip_bytes({"x.png": b"%d" % number}))
    tree = Tree([tmp_path])
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.is_dir() else 0
    assert len(tree.entries()) == 60
    if before:
        assert len(list(handles.iterdir())) - before < 40
    assert content(tree) == {f"{number:03}/x.png": b"%d" % number for number in range(60)}
    tree.close()
    assert len(tree.entries()) == 60


def test_lookup_opens_only_what_is_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "good.zip").write_bytes(zip_bytes(FILES))
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 cut")
    tree = Tree([tmp_path])
    with tree.open("good/labels.csv") as reader:
        assert reader.read() == FILES["labels.csv"]
    with pytest.raises(ArchiveError, match=r"bad.zip: truncated"):
        tree.entries()


def test_memory_an_archive_asks_for_is_no_damage() -> None:
    with (
        pytest.raises(ArchiveError, match=r"^a.7z: member 'b': it asks for more memory") as caught,
        rim("a.7z", "b"),
    ):
        raise MemoryError
    assert "fetch it again" not in str(caught.value)


@pytest.mark.realdata
def test_real_zip(shared: Path) -> None:
    (path,) = (shared / "mirror/github.com/NinaWie/COVID-BLUES/archive").glob("*.zip")
    tree = Tree([path])
    entries = tree.entries()
    clips = [entry.path for entry in entries if entry.path.endswith(".mp4")]
    assert len(entries) == 369 and len(clips) == 362 and sum(entry.size for entry in entries) == 73_064_643
    with zipfile.ZipFile(path) as archive:
        for member in tree.read(clips[::40]):
            with member.open() as reader:
                assert reader.read() == archive.read(member.path.split("/", 1)[1])
