"""Remote shards: fetched once for all, checked, kept within bounds, and failures said as they are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from openus.errors import CorpusError, UsageError
from tests.stream.conftest import Server
from usfmae.stream.ahead import ShardsAhead
from usfmae.stream.cache import ShardCache
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Loader
from usfmae.stream.mixture import make_plan

Serve = Callable[[Path], Server]


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def load(index: Index, cache: ShardCache | None = None, **options: Any) -> list[Any]:
    plan = make_plan(index, 3, order="blocks", lanes=2)
    options = {
        "batch_size": 8,
        "size": 32,
        "seed": 3,
        "epochs": 2,
        "plan": plan,
        "shard_cache": cache,
    } | options
    return [batch.images.clone() for batch in Loader(index, **options)]


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def shards_served(server: Server) -> list[int]:
    return [count for name, count in server.served.items() if name.endswith(".tar")]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_shard_is_fetched_once_over_epochs_and_runs(
    corpus: Path, tmp_path: Path, serve: Serve, workers: int
) -> None:
    server = serve(corpus)
    cache = ShardCache(tmp_path / "cache")
    expected = load(open_index(corpus))
    for _ in range(2):
        assert same(load(open_index(server.url), cache, workers=workers), expected)
    assert shards_served(server) == [1, 1, 1]
    assert not server.ranged
    kept = sorted(path.name[17:] for path in (tmp_path / "cache").glob("*.tar"))
    assert kept == open_index(corpus).shards
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_processes_of_one_machine_share_what_is_fetched(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(corpus)
    command = [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "cache"), "3"]
    ranks = [subprocess.Popen(command) for _ in range(4)]
    assert [rank.wait(120) for rank in ranks] == [0] * 4
    assert shards_served(server) == [1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_stays_within_its_bounds(corpus: Path, tmp_path: Path, serve: Serve, workers: int) -> None:
    index = open_index(serve(corpus).url)
    limit = 2 * max(shard.bytes for shard in index.shard_info) + 100
    cache = ShardCache(tmp_path / "cache", limit)
    plan = make_plan(index, 3, order="blocks", lanes=2)
    loader = Loader(
        index,
        batch_size=4,
        size=32,
        seed=3,
        epochs=4,
        plan=plan,
        shard_cache=cache,
        workers=workers,
        prefetch=1,
    )
    sizes = [_kept(cache) for _ in loader]
    assert len(sizes) == 40 and max(sizes) <= limit
    assert max(sizes) > limit // 2  # it is used


def _kept(cache: ShardCache) -> int:
    """Bytes of shards in the cache. Under its lock nothing is removed, so no shard is counted with its successor."""
    with (cache.folder / ".locks" / "room").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in cache.folder.glob("*.tar"))


def test_fetches_under_way_count_too(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    """While another process fetches, its shard's room is taken; when it is gone, the room is free again."""
    index = open_index(serve(corpus).url)
    first, second, _ = index.shard_info
    cache = ShardCache(tmp_path / "cache", first.bytes + second.bytes - 1)
    path = tmp_path / "cache" / ".locks" / f"{cache.path(first).name}.lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(str(first.bytes))
        other.flush()
        assert not cache.fetch(second)
    assert cache.fetch(second)


def test_what_is_in_use_stays_and_the_longest_unused_goes(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    index = open_index(serve(corpus).url)
    first, second, third = index.shard_info
    cache = ShardCache(tmp_path / "cache", first.bytes + second.bytes, patience=0.3)
    held = cache.open(first)
    os.close(cache.open(second))
    os.close(cache.open(third))
    assert cache.path(first).exists() and not cache.path(second).exists() and cache.path(third).exists()
    other = cache.open(third)
    with pytest.raises(CorpusError, match=r"no room for pretrain-000001\.tar within"):
        cache.open(second)
    assert os.pread(held, 100, 0) == (corpus / "pretrain" / first.name).read_bytes()[:100]
    os.close(other)
    os.close(cache.open(second, release=lambda: os.close(held)))


def test_a_shard_that_was_read_again_outlives_one_that_was_fetched_later(
    corpus: Path, tmp_path: Path, serve: Serve
) -> None:
    index = open_index(serve(corpus).url)
    first, second, third = index.shard_info
    cache = ShardCache(tmp_path / "cache", first.bytes + second.bytes)
    for age, shard in ((100, first), (50, second)):
        cache.fetch(shard)
        then = time.time() - age
        os.utime(cache.path(shard), (then, then))
    os.close(cache.open(first))
    cache.fetch(third)
    assert cache.path(first).exists() and not cache.path(second).exists() and cache.path(third).exists()


def test_room_is_counted_by_one_process_at_a_time(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    shard = open_index(serve(corpus).url).shard_info[0]
    cache = ShardCache(tmp_path / "cache")
    fetching = threading.Thread(target=cache.fetch, args=(shard,))
    with (cache.folder / ".locks" / "room").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        fetching.start()
        fetching.join(0.3)
        assert fetching.is_alive() and not cache.path(shard).exists()
    fetching.join(30)
    assert cache.path(shard).exists()


def test_a_cache_that_cannot_hold_a_shard_for_each_worker_is_refused(
    corpus: Path, tmp_path: Path, serve: Serve
) -> None:
    index = open_index(serve(corpus).url)
    cache = ShardCache(tmp_path / "cache", limit=100_000)
    with pytest.raises(UsageError, match="too small for 3 reading processes"):
        Loader(index, batch_size=4, size=32, seed=0, workers=3, shard_cache=cache)
    with pytest.raises(CorpusError, match="the cache may hold 1,000"):
        ShardCache(tmp_path / "tiny", limit=1000).fetch(index.shard_info[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_altered_and_cut_shards_are_refused_on_arrival(
    folder: Path, tmp_path: Path, serve: Serve, workers: int
) -> None:
    index = open_index(serve(folder).url)
    shard = folder / "pretrain" / "pretrain-000000.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    cache = ShardCache(tmp_path / "cache")
    with pytest.raises(CorpusError, match=r"SHA-256 .* came, the corpus lists"):
        load(index, cache, workers=workers)
    shard.write_bytes(bytes(data) + b"more")
    with pytest.raises(CorpusError, match="bytes came, the corpus lists"):
        load(index, cache, workers=workers)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"pretrain-000000\.tar cannot be fetched: .* answers 404"):
        load(index, cache, workers=workers)
    left = [path.name for path in cache.folder.iterdir() if path.is_file()]
    assert not any("pretrain-000000" in name for name in left)


def test_a_broken_connection_goes_on_where_it_stopped(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(corpus)
    index = open_index(server.url)
    name = "/pretrain/pretrain-000001.tar"
    server.cut.add(name)
    cache = ShardCache(tmp_path / "cache")
    assert cache.fetch(index.shard_info[1])
    found = hashlib.sha256(cache.path(index.shard_info[1]).read_bytes()).hexdigest()
    assert found == index.shard_info[1].sha256
    assert server.served[name] == 1 and server.ranged[name] == 1


def test_a_reset_before_the_first_byte_and_a_server_without_ranges(
    corpus: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(corpus)
    server.ranges = False
    index = open_index(server.url)
    reset, cut = (f"/pretrain/{shard.name}" for shard in index.shard_info[:2])
    server.reset.add(reset)
    server.cut.add(cut)
    cache = ShardCache(tmp_path / "cache")
    assert cache.fetch(index.shard_info[0]) and cache.fetch(index.shard_info[1])
    assert server.served[reset] == 2
    assert server.served[cut] == 3  # cut, asked for the rest, asked for all of it
    for shard in index.shard_info[:2]:
        assert hashlib.sha256(cache.path(shard).read_bytes()).hexdigest() == shard.sha256


def test_a_copy_cut_when_the_machine_lost_its_power_is_fetched_again(
    corpus: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(corpus)
    shard = open_index(server.url).shard_info[0]
    cache = ShardCache(tmp_path / "cache")
    for length in (0, shard.bytes // 2):
        cache.fetch(shard)
        os.truncate(cache.path(shard), length)
        handle = cache.open(shard)
        assert os.fstat(handle).st_size == shard.bytes
        os.close(handle)
    assert server.served[f"/pretrain/{shard.name}"] == 3


def test_another_version_of_a_shard_does_not_meet_the_old_one(
    corpus: Path, tmp_path: Path, serve: Serve
) -> None:
    index = open_index(serve(corpus).url)
    cache = ShardCache(tmp_path / "cache")
    shard = index.shard_info[0]
    assert cache.path(shard) != cache.path(replace(shard, sha256="0" * 64))


def test_what_a_killed_fetch_left_is_cleared(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    index = open_index(serve(corpus).url)
    cache = ShardCache(tmp_path / "cache", limit=300_000)
    cache.fetch(index.shard_info[0])
    lock = next((tmp_path / "cache" / ".locks").glob("*000000.tar.lock"))
    lock.write_text("250000")
    part = tmp_path / "cache" / f".{cache.path(index.shard_info[0]).name}.part"
    part.write_bytes(bytes(1000))
    assert cache.fetch(index.shard_info[1]) and cache.fetch(index.shard_info[2])
    assert not part.exists() and cache.path(index.shard_info[0]).exists()


SCRIPT = """
import sys
from usfmae.stream.cache import ShardCache
from usfmae.stream.index import open_index
for shard in open_index(sys.argv[1]).shard_info[: int(sys.argv[3])]:
    assert ShardCache(sys.argv[2]).fetch(shard)
"""


def test_a_full_disk_is_said_and_leaves_nothing(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    """The disk ends at 64 KiB for this process, which the system enforces as it would a full disk."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, serve(corpus).url, str(tmp_path / "cache"), "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert "CorpusError" in run.stderr and "the disk is full while fetching pretrain-000000.tar" in run.stderr
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_file()] == []


def test_through_fsspec_with_shards_that_lie_elsewhere(corpus: Path, tmp_path: Path) -> None:
    """A corpus in the memory file system whose `corpus.json` names the address of each shard itself."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(corpus / "manifest"), "/elsewhere/manifest", recursive=True)
    memory.put(str(corpus / "pretrain"), "/tars", recursive=True)
    summary = json.loads((corpus / "corpus.json").read_text())
    for entry in summary["sets"]["pretrain"]["shards"]:
        entry["url"] = f"memory://tars/{entry['file']}"
    memory.pipe("/elsewhere/corpus.json", json.dumps(summary).encode())
    index = open_index("memory://elsewhere")
    assert same(load(index, ShardCache(tmp_path / "cache")), load(open_index(corpus)))
    memory.rm("/tars/pretrain-000001.tar")
    with pytest.raises(CorpusError, match="cannot be read"):
        load(index, ShardCache(tmp_path / "fresh"))


def test_looking_ahead_keeps_pace_with_the_loader(corpus: Path, tmp_path: Path, serve: Serve) -> None:
    """Also where all shards are here already: the order of a long run is not worked out long before it is wanted."""
    index = open_index(serve(corpus).url)
    drawn = 0

    def rows() -> Iterator[NDArray[np.int64]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield np.arange(8)

    ahead = ShardsAhead(index, ShardCache(tmp_path / "cache"), rows(), steps=4)
    for taken in range(6):
        deadline = time.monotonic() + 20
        while drawn < taken + 6:  # the steps it may look at, and the next, before which it waits
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
        assert drawn == taken + 6
        ahead.advance()
    ahead.close()
    assert drawn <= 12
