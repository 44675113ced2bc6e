"""From a source to its files: local copies, the drop folder, mirrors, routes, receipts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import ChecksumError, ManifestError, NeedsPersonError, OfflineError, SourceError
from openus.fetch import cached, default_cache, drop_folder, dropped_files, obtain
from openus.hosts.manual import instructions
from openus.net import RetryPolicy
from openus.transfer.download import Transfer
from openus.transfer.drop import _find
from tests.helpers.sources import toy
from tests.helpers.web import Fault, Site, serving

FAST = RetryPolicy(attempts=2, connect_attempts=2, base=0.01, cap=0.05)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def http(site: Site, *names: str, **facts: Any) -> dict[str, Any]:
    return {"host": "http", "files": [{"name": name, "url": f"{site.url}/{name}", **facts} for name in names]}


def images_zip(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x89PNG")
    return path


class TestLocal:
    def test_a_folder_or_an_archive(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "deep" / "er" / "images").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "images" / "a.png").write_bytes(b"1234")
        got = obtain(toy(), cache=cache, local=tmp_path / "deep")
        assert (got.roots, got.route, got.bytes) == ((tmp_path / "deep",), "local", 4)
        archive = images_zip(tmp_path / "a.zip", "images/a.png")
        assert obtain(toy(), cache=cache, local=archive).roots == (archive,)

    def test_one_folder_too_deep_names_the_right_one(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "set" / "images").mkdir(parents=True)
        (tmp_path / "set" / "images" / "a.png").write_bytes(b"1")
        with pytest.raises(SourceError, match=r"lies inside the dataset .*--local toy=.*/set$"):
            obtain(toy(), cache=cache, local=tmp_path / "set" / "images")

    def test_what_is_not_there(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "empty" / "sub").mkdir(parents=True)
        (tmp_path / "zero.zip").touch()
        for name, words in (
            ("no", "no such file"),
            ("empty", "holds no files"),
            ("zero.zip", "file is empty"),
        ):
            with pytest.raises(SourceError, match=words):
                obtain(toy(), cache=cache, local=tmp_path / name)


class TestDropFolder:
    sha = hashlib.sha256(b"PK right").hexdigest()
    manual = {"host": "manual", "access": "account", "files": [{"name": "A.zip", "bytes": 8, "sha256": sha}]}  # noqa: RUF012

    @pytest.mark.parametrize("where", ["A.zip", "a.ZIP", "one/A.zip", "one/two/A.zip"])
    def test_the_expected_file_wherever_it_was_left(self, cache: Path, where: str) -> None:
        path = cache / "toy" / where
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PK right")
        got = obtain(toy(self.manual), cache=cache)
        assert (got.roots, got.route, got.bytes) == ((cache / "toy",), "drop folder", 8)
        assert cached(toy(self.manual), cache) == "dropped"

    @pytest.mark.parametrize(
        "where", ["images/a.png", "set/images/a.png", "A/whatever/b.bmp", "Renamed download.zip"]
    )
    def test_unpacked_or_renamed(self, cache: Path, where: str) -> None:
        path = cache / "toy" / where
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
        assert obtain(toy(self.manual), cache=cache).roots == (cache / "toy",)

    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"PK rig", "expected 8 bytes, found 6"), (b"PK wrong", "found sha256:"), (b"", "found 0")],
    )
    def test_another_file_of_that_name(self, cache: Path, content: bytes, words: str) -> None:
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "A.zip").write_bytes(content)
        with pytest.raises(ChecksumError, match=words):
            obtain(toy(self.manual), cache=cache)
        assert cached(toy(self.manual), cache) == ""

    def test_what_is_still_missing_is_named(self, cache: Path) -> None:
        source = toy({"host": "manual", "files": [{"name": "train.zip"}, {"name": "test.zip"}]})
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "train.zip").write_bytes(b"PK")
        (cache / "toy" / "extra.zip").write_bytes(b"PK")  # stands for none of the others
        with pytest.raises(NeedsPersonError, match=r"holds train\.zip and still lacks test\.zip"):
            obtain(source, cache=cache)

    def test_what_is_missing_is_told_by_the_way_by_hand(self, cache: Path) -> None:
        routes = (
            {"host": "http", "files": [{"name": "web.zip", "url": "https://example.org/web.zip"}]},
            self.manual,
        )
        assert dropped_files(toy(*routes), cache).missing == ("A.zip",)
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "web.zip").write_bytes(b"PK")
        assert dropped_files(toy(*routes), cache).missing == ()  # of the route that the files are of

    def test_what_is_made_on_request_may_differ_but_never_be_empty(self, cache: Path) -> None:
        spec = {"name": "A.zip", "bytes": 9, "sha256": "0" * 64, "stable": False}
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "A.zip").write_bytes(b"PK right")
        assert dropped_files(toy({"host": "manual", "files": [spec]}), cache).complete
        (cache / "toy" / "A.zip").write_bytes(b"")
        for facts in (spec, {"name": "A.zip"}):
            with pytest.raises(ChecksumError, match="found 0 bytes"):
                dropped_files(toy({"host": "manual", "files": [facts]}), cache)

    def test_files_of_one_name_in_two_folders(self, cache: Path) -> None:
        files = [{"name": "a/list.bin", "bytes": 1}, {"name": "b/list.bin", "bytes": 2}]
        source = toy({"host": "manual", "files": files})
        for name, content in (("a", b"1"), ("b", b"22")):
            (cache / "toy" / "set" / name).mkdir(parents=True)
            (cache / "toy" / "set" / name / "list.bin").write_bytes(content)
        state = dropped_files(source, cache)
        assert state.complete and set(state.found) == {"a/list.bin", "b/list.bin"}

    def test_one_route_knows_another_version_of_the_file(self, cache: Path) -> None:
        other = {"host": "http", "files": [{"name": "A.zip", "url": "https://example.org/A.zip", "bytes": 9}]}
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "A.zip").write_bytes(b"PK right")
        assert dropped_files(toy(other, self.manual), cache).complete
        assert dropped_files(toy({"host": "manual"} | other, self.manual), cache).complete

    @pytest.mark.parametrize(
        ("name", "path", "found"),
        [
            ("A.zip", "one/two/a.ZIP", True), ("A.zip", "one/two/three/A.zip", False), ("A.zip", "BA.zip", False),
            ("A.zip", "a/b.bmp", True), ("A.zip", "one/A/b.bmp", True), ("A.zip", "one/two/A/b.bmp", False),
            ("A.txt", "A/b.bmp", False), ("in/A.zip", "one/two/three/in/A.zip", True),
        ],
    )  # fmt: skip
    def test_how_deep_a_file_may_lie(self, name: str, path: str, found: bool) -> None:
        assert _find(name, [path]) == (path if found else None)

    def test_an_archive_with_dots_in_its_name_was_unpacked(self, cache: Path) -> None:
        (cache / "toy" / "set.v1.0").mkdir(parents=True)
        (cache / "toy" / "set.v1.0" / "b.bmp").write_bytes(b"1")
        assert dropped_files(toy({"host": "manual", "files": [{"name": "set.v1.0.tar.gz"}]}), cache).complete

    def test_where_no_files_are_named_a_note_is_not_the_dataset(self, cache: Path) -> None:
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "notes.txt").write_text("asked on Monday")
        assert not dropped_files(toy({"host": "manual"}), cache).complete

    def test_running_downloads_and_other_things_are_not_taken(self, cache: Path) -> None:
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "A.zip.crdownload").write_bytes(b"PK")
        (cache / "toy" / ".DS_Store").write_bytes(b"x")
        with pytest.raises(NeedsPersonError, match=r"A\.zip\.crdownload in .* is not finished downloading"):
            obtain(toy(self.manual), cache=cache)
        (cache / "toy" / "A.zip").write_bytes(b"PK right")
        state = dropped_files(toy(self.manual), cache)
        assert state.unfinished == ("A.zip.crdownload",) and not state.complete
        (cache / "toy" / "A.zip.crdownload").unlink()
        (cache / "toy" / "notes.txt").write_text("from the web page")
        assert obtain(toy(self.manual), cache=cache).route == "drop folder"

    def test_masks_alone_are_not_images(self, cache: Path) -> None:
        source = toy({"host": "manual", "files": [{"name": "A.zip"}]}, exclude=["images/*_mask.png"])
        (cache / "toy" / "images").mkdir(parents=True)
        (cache / "toy" / "images" / "a_mask.png").write_bytes(b"1")
        with pytest.raises(NeedsPersonError):
            obtain(source, cache=cache)

    def test_it_goes_before_the_network(self, site: Site, cache: Path) -> None:
        site.put("/A.zip", b"PK from the network")
        (cache / "toy").mkdir(parents=True)
        (cache / "toy" / "A.zip").write_bytes(b"PK by hand")
        assert obtain(toy(http(site, "A.zip")), cache=cache).route == "drop folder"
        assert not site.requests


WATCH = """
import sys
from pathlib import Path
from openus.transfer.drop import wait_for_files
from openus.transfer.lock import LockFile
from tests.test_fetch import two_files
cache = Path(sys.argv[1])
for state in wait_for_files(two_files(), cache / "toy", LockFile(cache), poll=0.5, timeout=30):
    print(sorted(state.found), sorted(state.missing), state.complete, state.problem is not None, flush=True)
"""


def two_files() -> Any:
    sha = hashlib.sha256(b"PK right").hexdigest()
    return toy(
        {"host": "manual", "files": [{"name": "a.zip", "sha256": sha}, {"name": "b.zip", "bytes": 40}]}
    )


def test_files_are_noticed_as_they_appear(cache: Path, repo: Path) -> None:
    drop = cache / "toy"
    drop.mkdir(parents=True)
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(cache)], stdout=subprocess.PIPE, text=True, cwd=repo
    )
    assert watcher.stdout is not None
    lines = [watcher.stdout.readline()]
    (drop / "a.zip").write_bytes(b"PK wrong")
    lines.append(watcher.stdout.readline())
    (drop / "a.zip").write_bytes(b"PK right")
    lines.append(watcher.stdout.readline())
    with (drop / "b.zip").open("wb") as stream:  # grows for a while: not judged before it rests
        for _ in range(20):
            stream.write(b"PK")
            stream.flush()
            time.sleep(0.06)
    rest, _ = watcher.communicate(timeout=30)
    lines += rest.splitlines(keepends=True)
    assert [line.strip() for line in lines] == [
        "[] ['a.zip', 'b.zip'] False False",
        "[] ['a.zip', 'b.zip'] False True",
        "['a.zip'] ['b.zip'] False False",
        "['a.zip', 'b.zip'] [] True False",
    ]
    assert watcher.returncode == 0


class TestMirror:
    def test_all_files_in_a_mirror_folder_ask_nobody(self, site: Site, tmp_path: Path, cache: Path) -> None:
        kept = tmp_path / "mirror" / "zenodo.org" / "records" / "7" / "files" / "a.zip"
        images_zip(kept, "images/a.png")
        source = toy({"host": "zenodo", "id": "7", "files": [{"name": "a.zip"}]})
        got = obtain(source, cache=cache, mirrors=[str(tmp_path / "mirror")])
        assert got.roots == (kept,)
        assert [entry.path for entry in Tree(got.roots).entries()] == ["a/images/a.png"]

    def test_a_mirror_with_only_some_files_falls_back_to_the_host(
        self, site: Site, tmp_path: Path, cache: Path
    ) -> None:
        kept = tmp_path / "mirror" / "127.0.0.1" / "a.zip"
        images_zip(kept, "images/a.png")
        site.put("/b.zip", b"PK b")
        got = obtain(toy(http(site, "a.zip", "b.zip")), cache=cache, mirrors=[str(tmp_path / "mirror")])
        assert got.roots == (kept, cache / "fetched" / "toy" / "b.zip")
        assert [request.path for request in site.requests] == ["/b.zip"]

    def test_nested_names_keep_their_folders(self, site: Site, tmp_path: Path, cache: Path) -> None:
        for name in ("d/a.txt", "top.txt"):
            path = tmp_path / "mirror" / "127.0.0.1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        got = obtain(toy(http(site, "d/a.txt", "top.txt")), cache=cache, mirrors=[str(tmp_path / "mirror")])
        assert [entry.path for entry in Tree(got.roots).entries()] == ["d/a.txt", "top.txt"]

    def test_a_wrong_file_in_the_mirror_is_said(self, tmp_path: Path, cache: Path) -> None:
        kept = tmp_path / "mirror" / "host.example" / "a.zip"
        images_zip(kept, "images/a.png")
        route = {
            "host": "http",
            "files": [{"name": "a.zip", "url": "https://host.example/a.zip", "md5": "0" * 32}],
        }
        with pytest.raises(ChecksumError, match=r"mirror/host\.example/a\.zip: expected md5:0+, found md5:"):
            obtain(toy(route), cache=cache, mirrors=[str(tmp_path / "mirror")], offline=True)

    def test_a_missing_file_in_the_mirror_is_said(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "mirror").mkdir()
        route = {"host": "http", "files": [{"name": "a.zip", "url": "https://host.example/a.zip"}]}
        with pytest.raises(OfflineError, match=r"a\.zip: not in the cache .* nor in a mirror folder"):
            obtain(toy(route), cache=cache, mirrors=[str(tmp_path / "mirror")], offline=True)


class TestReceipts:
    def test_a_complete_route_is_not_asked_again(self, site: Site, cache: Path) -> None:
        site.put("/b.zip", b"PK b")
        dead = {"host": "http", "id": "dead", "files": [{"name": "a.zip", "url": f"{site.url}/gone.zip"}]}
        source = toy(dead, http(site, "b.zip"))
        assert cached(source, cache) == ""
        first = obtain(source, cache=cache)
        requests = len(site.requests)
        assert obtain(source, cache=cache, offline=True) == first
        assert len(site.requests) == requests
        assert cached(source, cache) == "fetched"

    def test_a_moved_cache_is_still_one(self, site: Site, tmp_path: Path, cache: Path) -> None:
        site.put("/b.zip", b"PK b")
        source = toy(http(site, "b.zip"))
        obtain(source, cache=cache)
        cache.rename(tmp_path / "moved")
        assert obtain(source, cache=tmp_path / "moved", offline=True).roots[0].read_bytes() == b"PK b"

    def test_an_altered_file_or_route_is_noticed(self, site: Site, cache: Path) -> None:
        site.put("/b.zip", b"PK b")
        source = toy(http(site, "b.zip"))
        path = obtain(source, cache=cache).roots[0]
        path.write_bytes(b"PK c")
        with pytest.raises(ChecksumError, match="first fetched"):
            obtain(source, cache=cache)
        path.unlink()
        assert obtain(source, cache=cache).roots[0].read_bytes() == b"PK b"
        other = toy(http(site, "b.zip", md5="0" * 32))
        assert cached(other, cache) == ""

    def test_a_new_version_leaves_nothing_of_the_old(self, site: Site, cache: Path) -> None:
        entries = [{"key": "d/a.txt", "size": 1}, {"key": "e/b.txt", "size": 1}]
        site.put("/api/records/7/files/d/a.txt/content", b"a")
        site.put("/api/records/7/files/e/b.txt/content", b"b")
        site.api("/api/records/7", {"files": entries})
        source = toy({"host": "zenodo", "id": "7"})
        os.environ["OPENUS_ENDPOINT_ZENODO"] = site.url
        try:
            (root,) = obtain(source, cache=cache).roots
            (root / "e" / "b.txt").unlink()
            site.api("/api/records/7", {"files": entries[1:]})
            obtain(source, cache=cache)
        finally:
            del os.environ["OPENUS_ENDPOINT_ZENODO"]
        assert [entry.path for entry in Tree((root,)).entries()] == ["e/b.txt"]


class TestSeveralFiles:
    def test_progress_is_told_as_one(self, site: Site, cache: Path) -> None:
        names = [f"{index}.zip" for index in range(12)]
        for name in names:
            site.put(f"/{name}", b"PK" * 50_000)
        seen: list[tuple[str, int, int | None]] = []
        obtain(
            toy(http(site, *names)),
            cache=cache,
            on_bytes=lambda file, *facts: seen.append((file.name, *facts)),
        )
        assert {name for name, _, _ in seen} == {"12 files"}
        assert [have for _, have, _ in seen] == sorted(have for _, have, _ in seen)
        assert seen[-1] == ("12 files", 1_200_000, 1_200_000)

    def test_one_failure_stops_the_rest_soon_and_keeps_what_arrived(self, site: Site, cache: Path) -> None:
        site.put("/slow.zip", b"PK" * 500_000, always=Fault(drop=300_000, pause=2))
        site.put("/fast.zip", b"PK")
        source = toy(http(site, "slow.zip", "fast.zip", "gone.zip"))
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"gone\.zip: HTTP 404"):
            obtain(source, cache=cache, transfer=Transfer(cache, retry=FAST))
        assert time.monotonic() - began < 10
        site.put("/gone.zip", b"PK")
        site.files["/slow.zip"].always = Fault()
        obtain(source, cache=cache)
        assert (len(site.asked("/fast.zip")), site.asked("/slow.zip")[1].status) == (1, 206)

    def test_two_files_of_one_name(self, site: Site, cache: Path) -> None:
        files = [{"name": "a.zip", "url": f"{site.url}/{number}"} for number in (1, 2)]
        with pytest.raises(SourceError, match=r"two different files called 'a\.zip'"):
            obtain(toy({"host": "http", "files": files}), cache=cache)


def test_a_malformed_route_is_never_passed_over(site: Site, cache: Path) -> None:
    site.put("/b.zip", b"PK b")
    with pytest.raises(ManifestError, match="no 'revision'"):
        obtain(toy({"host": "github", "id": "o/n"}, http(site, "b.zip")), cache=cache)


def test_a_source_without_routes(cache: Path) -> None:
    with pytest.raises(
        SourceError, match=r"no routes; give a copy with --local toy=PATH, or put it into .*cache/toy"
    ):
        obtain(toy(), cache=cache)


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENUS_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("OPENUS_CACHE")
    assert default_cache() == Path.home() / ".cache" / "openus"
    assert drop_folder(toy(), tmp_path) == tmp_path / "toy"


def test_every_source_has_steps_for_a_person() -> None:
    for source in Catalogue().sources():
        route = next((route for route in source.routes if route.host == "manual"), source.routes[0])
        steps = instructions(source, route)
        assert any("https://" in step or "http://" in step for step in steps), source.slug


@pytest.mark.realdata
@pytest.mark.parametrize(("slug", "size"), [("covid-blues", 72_525_656), ("stu-hospital", 571_211)])
def test_the_real_mirror_is_used_in_place(shared: Path, cache: Path, slug: str, size: int) -> None:
    source = Catalogue().source(slug)
    got = obtain(source, cache=cache, mirrors=[str(shared / "mirror")])
    assert got.bytes == size
    assert got.roots[0].is_relative_to(shared / "mirror" / "github.com")
    assert not (cache / "fetched" / slug).exists()


@pytest.mark.realdata
def test_the_real_unpacked_copy(shared: Path, cache: Path) -> None:
    source = Catalogue().source("bus-bra")
    assert obtain(source, cache=cache, local=shared / "data" / "bus-bra").bytes == 133_584_013
    with pytest.raises(SourceError, match=r"--local bus-bra=.*/BUSBRA$"):
        obtain(source, cache=cache, local=shared / "data" / "bus-bra" / "BUSBRA" / "Images")


def test_a_missing_tool_is_said_before_the_download(
    site: Site, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("/a.rar", b"Rar!" * 1000)
    site.put("/a.zip", b"PK a")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"nothing was downloaded, because a\.rar: .*apt install unar"):
        obtain(toy(http(site, "a.rar")), cache=cache)
    assert not site.requests, "nobody was asked for a byte"
    assert obtain(toy(http(site, "a.rar"), http(site, "a.zip")), cache=cache).roots[0].name == "a.zip"
    assert not site.asked("/a.rar")


def test_the_command_waits_for_a_person(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    manual = 'routes: [{host: manual, url: "https://example.org", steps: ["Ask."], files: [{name: a.zip, bytes: 6}]}]'
    (tmp_path / "mine" / "toy.yaml").write_text(
        "schema: 1\nslug: toy\nname: Toy\ntitle: A toy\nanatomy: none\nkind: image\nimages: ['images/*.png']\n"
        f"licence: {{name: unknown, redistribution: recipe-only}}\n{manual}\n"
    )
    command = [
        sys.executable,
        "-m",
        "openus.cli",
        "fetch",
        "toy",
        "--wait",
        "--manifests",
        str(tmp_path / "mine"),
    ]
    with subprocess.Popen(
        [*command, "--cache", str(cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        told = [waiting.stderr.readline()]
        while "still missing: a.zip" not in told[-1] and told[-1]:
            told.append(waiting.stderr.readline())
        assert any("1. " in line for line in told), "the steps come first"
        (cache / "toy" / "a.zip").write_bytes(b"PK    ")
        out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and "drop folder" in out
