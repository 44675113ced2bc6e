"""Builds on a real Ray cluster of two workers: the bytes of a local build, also when one of them is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.engine.local import WorkerLostError
from openus.errors import MissingExtraError
from openus.storage.depot import Depot
from tests.helpers import toys
from tests.helpers.cluster import cluster
from tests.helpers.storage import s3

pytest.importorskip("ray")
from openus.engine.ray import RayEngine


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Manifests and inputs: a large chunk of pictures and some others; near-copies are looked for."""
    return toys.near_copies_sought(tmp_path_factory.mktemp("toys"), images=200, clips=12)


def ancestors(pid: int) -> set[int]:
    """Processes above a process, itself included."""
    found = set()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells by /proc which worker does what")
def test_one_of_two_workers_is_killed_and_no_byte_changes(
    tmp_path: Path, two_workers: Any, toy: tuple[Path, dict[str, Path]]
) -> None:
    local, out = tmp_path / "local", tmp_path / "ray"
    assert toys.run(toys.command(local, *toy, "--workers", "0")).returncode == 0
    words = toys.command(out, *toy, "--engine", "ray", "--address", two_workers.address)
    build = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # The largest chunk is begun: the machine it runs on is the one that is lost.
    part: list[Path] = []
    while build.poll() is None and not part:
        part = list((out / ".work" / "sources" / "toy-images").glob("*.bin.*.part"))
        time.sleep(0.002)
    assert build.poll() is None
    busy = int(part[0].name.split(".")[-2])
    os.kill(busy, signal.SIGSTOP)  # else it may be done before its machine is gone
    above = ancestors(busy)
    nodes = {node.all_processes["raylet"][0].process.pid: node for node in two_workers.list_all_nodes()}
    (victim,) = (node for pid, node in nodes.items() if pid in above)
    two_workers.remove_node(victim, allow_graceful=False)
    try:
        _, told = build.communicate(timeout=300)
    finally:  # not before: the process alone would be lost first, then its machine, which makes two losses
        with contextlib.suppress(ProcessLookupError):
            os.kill(busy, signal.SIGKILL)
    two_workers.add_node(num_cpus=1, memory=4 << 30, object_store_memory=100 << 20)
    assert build.returncode == 0, told
    assert "Ray: 2 machines, 2 CPUs" in told
    assert "a worker was lost" in told
    assert toys.digests(out) == toys.digests(local)


def fragile(task: int) -> int:
    """A task of many kinds: it crashes, takes too much memory, or fails; else its square."""
    if task == -1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == -2:
        hoard = [bytes(64 << 20) for _ in range(1)]
        while True:
            hoard.append(b"x" * (64 << 20))
            time.sleep(0.02)
    if task == -3:
        raise ValueError("three")
    return task * task


def instead(task: int) -> int | None:
    return 100 if task in (-1, -2) else None


def counted(shared: list[int], task: int, threads: int) -> int:
    return sum(shared) + task


@pytest.fixture(scope="module")
def engine(two_workers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    depot = Depot(tmp_path_factory.mktemp("depot"))
    with RayEngine(2, depot, address=two_workers.address, memory=600 << 20) as started:
        yield started


@pytest.mark.long
def test_every_task_once_and_never_too_many_on_their_way(engine: RayEngine) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(60):
            taken.append(number)
            yield number

    for done, (task, result) in enumerate(engine.run(fragile, tasks())):
        assert result == task * task
        assert len(taken) - done <= 2 * 2 + 2  # two for each CPU, however many there are
    assert len(taken) == 60
    assert sorted(engine.spread(counted, [1, 2], range(5))) == [3, 4, 5, 6, 7]


@pytest.mark.long
def test_what_ends_its_process_is_replaced(engine: RayEngine) -> None:
    assert dict(engine.run(fragile, [1, -1, -2, 2], instead)) == {1: 1, -1: 10000, -2: 10000, 2: 4}
    with pytest.raises(WorkerLostError, match="SIGSEGV"):
        list(engine.run(fragile, [-1]))
    with pytest.raises(WorkerLostError, match=r"more than 0\.6 GiB of memory"):
        list(engine.run(fragile, [-2]))
    with pytest.raises(ValueError, match="three"):
        list(engine.run(fragile, [-3]))
    assert engine.lost == 0  # no worker of the cluster was lost by any of it


@pytest.mark.long
def test_on_ray_into_storage_with_a_worker_killed(
    tmp_path: Path, toy: tuple[Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    assert toys.run(toys.command(local, *toy, "--workers", "0")).returncode == 0
    url = "s3://corpora/ray"
    with s3() as storage, cluster() as workers:  # the workers have the storage's address from their start
        words = toys.command(tmp_path / "out", *toy, "--engine", "ray", "--address", workers.address)
        words = [url if word == str(tmp_path / "out") else word for word in words]
        words += ["--scratch", str(tmp_path / "scratch")]
        build = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while build.poll() is None and not storage.glob(f"{url}/.work/sources/*/*.parquet"):
            time.sleep(0.01)
        workers.remove_node(workers.list_all_nodes()[-1], allow_graceful=False)
        told = build.communicate(timeout=300)[1]
        assert build.returncode == 0, told
        storage.get(url, str(tmp_path / "got"), recursive=True)
    assert toys.digests(tmp_path / "got") == toys.digests(local)
    assert not list((tmp_path / "scratch").glob("*"))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--engine", "rya"], 2, "expected local or ray; did you mean 'ray'?"),
        (["--address", "auto"], 2, "--address auto: is of a cluster; add --engine ray"),
        (["--engine", "ray", "--task-memory", "12"], 2, "expected at least 256MB, as 1500MB or 2GB"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], 2, "no Ray cluster answers"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, more: list[str], code: int, words: str) -> None:
    manifests = toys.write_manifests(tmp_path / "manifests")
    done = toys.run(toys.command(tmp_path / "out", manifests, {}, *more))
    assert done.returncode == code
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_without_ray_a_hint_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'openus\[ray\]'"):
        RayEngine(1, Depot(tmp_path)).__enter__()
