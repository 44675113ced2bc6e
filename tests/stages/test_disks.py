"""Disks that are full, read-only, elsewhere, or whose clocks are wrong: one clear line, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openus.catalogue import Catalogue
from openus.errors import CorpusError
from openus.hosts.base import RemoteFile
from openus.stages.build import BuildOptions, build
from openus.transfer.download import Transfer
from tests.helpers import toys
from tests.helpers.web import serving


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 100 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", folder)
    ):
        pytest.skip("needs a Linux where this user may mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(*words: object) -> int:
    return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("disks")
    toys.write_manifests(place / "manifests")
    toys.write_inputs(place / "inputs", images=12, clips=1)
    make(place, place / "out")
    return place


def make(place: Path, out: Path, workers: int = 0, cache: Path | None = None) -> None:
    catalogue = Catalogue(place / "manifests")
    names = {"toy-images": "images", "toy-clips": "clips", "toy-bench": "bench"}
    local = {slug: place / "inputs" / name for slug, name in names.items()}
    options = BuildOptions(cache=cache or place / "cache", local=local, workers=workers)
    build(out, catalogue.corpus("toys"), catalogue, options)


def test_a_disk_that_fills_up_at_any_moment_of_a_build(place: Path, small_disk: Path) -> None:
    """The disk grows until the build fits: it fails in decoding, in packing, at the end, and each time goes on."""
    out, failures = small_disk / "out", []
    for size in range(100, 4000, 150):
        assert mount("-o", f"remount,size={size}k", small_disk) == 0
        try:
            make(place, out)
            break
        except CorpusError as error:
            failures.append(str(error))
    assert len(failures) >= 3
    for message in failures:
        assert str(small_disk) in message and "the disk is full" in message
        assert "what is done is kept: make room, and run the same command again" in message
    assert toys.digests(out) == toys.digests(place / "out")


def test_a_full_disk_in_a_worker(place: Path, small_disk: Path) -> None:
    with pytest.raises(CorpusError, match=r"the disk is full .*make room"):
        make(place, small_disk / "out", workers=1)


def test_a_read_only_folder(place: Path, small_disk: Path) -> None:
    assert mount("-o", "remount,ro", small_disk) == 0
    with pytest.raises(
        CorpusError, match=r"cannot be written \(Read-only file system\); make it writable, or choose"
    ):
        make(place, small_disk / "out")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(place: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    with pytest.raises(CorpusError, match="cannot be written"):
        make(place, tmp_path / "theirs" / "out")


def test_a_cache_on_another_file_system(place: Path, small_disk: Path, tmp_path: Path) -> None:
    """Nothing is renamed from one file system to another."""
    assert small_disk.stat().st_dev != tmp_path.stat().st_dev
    data = os.urandom(40_000)
    with serving() as site:
        site.put("/a.zip", data)
        path = Transfer(small_disk / "cache").fetch(RemoteFile("a.zip", f"{site.url}/a.zip"), "set")
    assert path.read_bytes() == data and path.stat().st_dev == small_disk.stat().st_dev
    make(place, tmp_path / "out", cache=small_disk / "cache")
    assert toys.digests(tmp_path / "out") == toys.digests(place / "out")


@pytest.mark.parametrize("year", [0, 4_000_000_000])
def test_a_clock_that_jumped(place: Path, year: int) -> None:
    """What a build did in 1970 or will have done in 2096 counts: it is known by content, not by age."""
    out = place / "out"
    before = toys.digests(out)
    work = [path for path in (out / ".work").rglob("*") if path.is_file()]
    for path in work:
        os.utime(path, (year, year))
    make(place, out)
    assert toys.digests(out) == before
    chunks = [
        path for path in work if path.parent.parent.name == "sources" and path.suffix in (".bin", ".parquet")
    ]
    assert chunks and all(int(path.stat().st_mtime) == year for path in chunks), "decoded again for its age"
