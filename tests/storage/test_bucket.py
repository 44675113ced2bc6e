"""Corpora in object storage: the bytes of a local build, one builder at a time, inputs from there too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.errors import CorpusError
from openus.storage import claim
from openus.storage.bucket import Bucket, bring
from openus.storage.pieces import Pieces
from tests.helpers import toys
from tests.helpers.storage import s3

URL = "s3://corpora/toys"


@pytest.fixture(scope="module")
def storage() -> Iterator[Any]:
    with s3() as system:
        yield system


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return toys.near_copies_sought(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, toy: tuple[Path, dict[str, Path]]) -> Path:
    out = tmp_path_factory.mktemp("local") / "out"
    assert toys.run(toys.command(out, *toy, "--workers", "0")).returncode == 0
    return out


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.2)


def to_storage(url: str, folder: Path, toy: tuple[Path, dict[str, Path]], *more: str) -> list[str]:
    words = toys.command(folder / "out", *toy, "--scratch", str(folder / "scratch"), *more)
    return [url if word == str(folder / "out") else word for word in words]


def digests(storage: Any, url: str, folder: Path) -> dict[str, str]:
    storage.get(url, str(folder), recursive=True)
    return toys.digests(folder)


def test_a_corpus_in_storage_is_the_local_one(
    tmp_path: Path, storage: Any, toy: tuple[Path, dict[str, Path]], local: Path
) -> None:
    words = to_storage(URL, tmp_path, toy, "--workers", "1")
    done = toys.run(words)
    assert done.returncode == 0, done.stderr
    assert f"openus verify {URL}" in done.stdout
    assert digests(storage, URL, tmp_path / "got") == toys.digests(local)
    assert not list((tmp_path / "scratch").rglob("*.tar")) and not storage.exists(f"{URL}/.work/claim.json")
    assert toys.run([sys.executable, "-m", "openus.cli", "verify", URL, "--deep"]).returncode == 0
    # Again, on a machine that knows nothing: no stage is redone, and what does not belong goes.
    before = {name: facts["LastModified"] for name, facts in storage.find(URL, detail=True).items()}
    storage.pipe_file(f"{URL}/pretrain/pretrain-000099.tar", b"of an older plan")
    check = toys.run([sys.executable, "-m", "openus.cli", "verify", URL])
    assert (
        check.returncode == 1
        and "pretrain-000099.tar: a shard that corpus.json does not know" in check.stdout
    )
    assert toys.run(words).returncode == 0
    after = {name: facts["LastModified"] for name, facts in storage.find(URL, detail=True).items()}
    assert after.keys() == before.keys()
    assert {
        name for name in before if after[name] != before[name] and name.endswith((".bin", ".tar"))
    } == set()
    assert digests(storage, URL, tmp_path / "again") == toys.digests(local)


def test_a_second_builder_says_so_and_leaves(
    tmp_path: Path, storage: Any, toy: tuple[Path, dict[str, Path]]
) -> None:
    with claim.claimed("s3://corpora/busy"):
        done = toys.run(to_storage("s3://corpora/busy", tmp_path, toy))
    assert done.returncode == 1
    assert "s3://corpora/busy: another build is at work here (process" in done.stderr
    assert list(storage.find("s3://corpora/busy")) == []


def test_a_claim_that_stands_still_is_taken_over(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://corpora/dead"
    storage.pipe_file(
        f"{url}/.work/claim.json", json.dumps({"id": "x", "count": 3, "host": "elsewhere"}).encode()
    )
    began = time.monotonic()
    with claim.claimed(url):
        assert time.monotonic() - began > 6 * claim.BEAT
        assert json.loads(storage.cat_file(f"{url}/.work/claim.json"))["id"] != "x"
    assert storage.find(url) == []


@pytest.mark.parametrize("how", [signal.default_int_handler, signal.SIG_IGN])
def test_a_builder_that_stood_still_notices_its_successor(storage: Any, how: Any) -> None:
    """Also one that a script began in the background, where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, how)
    try:
        _stand_still(storage, "s3://corpora/lost")
    finally:
        signal.signal(signal.SIGINT, before)


def _stand_still(storage: Any, url: str) -> None:
    with pytest.raises(CorpusError, match="another build is at work here"), claim.claimed(url):
        storage.pipe_file(f"{url}/.work/claim.json", json.dumps({"id": "y", "count": 0, "pid": 1}).encode())
        for _ in range(100):
            time.sleep(0.1)
        pytest.fail("nobody noticed")
    assert json.loads(storage.cat_file(f"{url}/.work/claim.json"))["id"] == "y"


def test_of_many_at_once_one_holds_the_claim(storage: Any) -> None:
    url, held, turned = "s3://corpora/race", [], []

    def enter() -> None:
        try:
            with claim.claimed(url):
                held.append(1)
                time.sleep(2)
        except CorpusError:
            turned.append(1)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(turned)) == (1, 3)


def test_inputs_come_from_storage(
    tmp_path: Path, storage: Any, toy: tuple[Path, dict[str, Path]], local: Path
) -> None:
    manifests, inputs = toy
    for slug, folder in inputs.items():
        storage.put(str(folder), f"s3://corpora/inputs/{slug}", recursive=True)
    words = toys.command(tmp_path / "out", manifests, {}, "--workers", "0")
    for slug in inputs:
        words += ["--local", f"{slug}=s3://corpora/inputs/{slug}"]
    assert toys.run(words).returncode == 0
    assert toys.digests(tmp_path / "out") == toys.digests(local)
    done = toys.run([*words[:-1], "toy-bench=s3://corpora/inputs/none"])
    assert done.returncode == 1 and "s3://corpora/inputs/none: there is nothing there" in done.stderr


def test_changed_inputs_are_other_files(tmp_path: Path, storage: Any) -> None:
    storage.pipe_file("s3://corpora/data/a.bin", b"one")
    first = bring("s3://corpora/data/a.bin", tmp_path)
    assert first.read_bytes() == b"one" and bring("s3://corpora/data/a.bin", tmp_path) == first
    storage.pipe_file("s3://corpora/data/a.bin", b"two")
    second = bring("s3://corpora/data/a.bin", tmp_path)
    assert second.read_bytes() == b"two" and second != first
    assert second.stat().st_mtime_ns != first.stat().st_mtime_ns


def test_pieces_are_read_where_they_are(tmp_path: Path, storage: Any) -> None:
    storage.pipe_file("s3://corpora/pieces/.work/x.bin", bytes(range(100)))
    bucket = Bucket("s3://corpora/pieces", tmp_path)
    with bucket.builder(), Pieces() as pieces:
        path = bucket.folder / ".work" / "x.bin"
        assert list(pieces.read([(path, 5, 3), (path, 90, 2), (path, 5, 3)])) == [b"\5\6\7", b"Z[", b"\5\6\7"]
        assert not path.exists()
        with pytest.raises(FileNotFoundError) as caught:
            list(pieces.read([(bucket.folder / "none.bin", 0, 1)]))
        assert caught.value.filename == str(bucket.folder / "none.bin")


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("s3://no-such-bucket-here/x", 1, "s3://no-such-bucket-here/x: cannot be written"),
        ("nonsense://x/y", 2, "addresses of this kind are not known here"),
    ],
)
def test_a_wrong_address_is_one_line(
    tmp_path: Path, storage: Any, toy: tuple[Path, dict[str, Path]], url: str, code: int, words: str
) -> None:
    done = toys.run(to_storage(url, tmp_path, toy, "--quiet"))
    assert done.returncode == code and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.long
def test_killed_at_three_moments_and_resumed_in_storage(
    tmp_path: Path, storage: Any, toy: tuple[Path, dict[str, Path]], local: Path
) -> None:
    url = "s3://corpora/killed"
    words = to_storage(url, tmp_path, toy, "--workers", "1")
    for moment in (
        ".work/sources/toy-images/*.parquet",
        ".work/sources/toy-clips/*.bin",
        ".work/pack/*.json",
    ):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not storage.glob(f"{url}/{moment}"):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = toys.run(words)
    assert done.returncode == 0, done.stderr
    assert digests(storage, url, tmp_path / "got") == toys.digests(local)
