"""Faults: bad samples, vanished shards, dead processes. Each is said clearly, and nothing is lost in silence."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from openus.errors import CorpusError, OpenUSError
from openus.shards.schema import ROW
from tests.helpers.corpus import make_corpus
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.mixture import Mixture, make_plan
from usfmae.stream.pool import SharedBatches


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def spoil(index: Index, rows: list[int]) -> None:
    """Overwrite the second half of pictures in their shard; sizes stay, so only decoding tells."""
    for row in rows:
        path = index.place.folder / index.set / index.shards[index.shard_of[row]]  # type: ignore[operator]
        with path.open("r+b") as file:
            start = int(index.offset[row] + index.size[row] // 2)
            file.seek(start)
            file.write(b"\xff\xd9" * int(index.size[row] // 4))


def load(index: Index, **options: object) -> tuple[Loader, list[Batch]]:
    loader = Loader(index, **({"batch_size": 8, "size": 32, "seed": 4, "epochs": 1} | options))  # type: ignore[arg-type]
    return loader, list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_named_counted_and_replaced_by_the_next(
    folder: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    index = open_index(folder)
    order = [row for batch in load(index)[1] for row in batch.indices.tolist()]
    good = {
        row: image for b in load(index)[1] for row, image in zip(b.indices.tolist(), b.images, strict=True)
    }
    wrong = {
        7: order[7],
        15: order[15],
        16: order[16],
        39: order[39],
    }  # within, at the end of a batch, the last
    spoil(index, list(wrong.values()))
    with caplog.at_level(logging.WARNING, "usfmae.stream"):
        loader, batches = load(index, workers=workers)
    found = [row for batch in batches for row in batch.indices.tolist()]
    expected = list(order)
    expected[7], expected[15], expected[16], expected[39] = order[8], order[17], order[17], order[0]
    assert found == expected
    for batch in batches:
        for row, image in zip(batch.indices.tolist(), batch.images, strict=True):
            assert torch.equal(image, good[row])
    assert loader.replaced == 4 and {bad.row for bad in loader.bad} == set(wrong.values())
    table = index.table.to_pylist()
    for bad in loader.bad:
        assert (bad.key, bad.shard) == (table[bad.row]["key"], table[bad.row]["shard"])
        assert any(bad.key in line and bad.shard in line for line in caplog.messages)


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_data_end_the_run(folder: Path, workers: int) -> None:
    index = open_index(folder)
    spoil(index, [11])
    with pytest.raises(CorpusError, match=index.row(11)["key"]):
        load(index, workers=workers, strict=True)


def test_nothing_but_bad_samples_ends_the_run(folder: Path) -> None:
    index = open_index(folder)
    spoil(index, list(range(40)))
    with pytest.raises(CorpusError, match="so are the next 39; run"):
        load(index)


def test_a_row_that_lies_about_its_bytes_is_a_bad_sample(folder: Path) -> None:
    path = folder / "manifest" / "pretrain-000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["width"] += 1
    rows[4]["offset"] += 100
    pq.write_table(pa.Table.from_pylist(rows, schema=ROW), path)
    loader, _ = load(open_index(folder))
    assert {bad.row: bad.reason for bad in loader.bad} == {3: "size", 4: "altered"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_or_shrinks_ends_the_run(folder: Path, workers: int) -> None:
    index = open_index(folder)
    shard = folder / "pretrain" / "pretrain-000002.tar"
    with shard.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CorpusError, match=r"pretrain-000002\.tar: ends at byte"):
        load(index, workers=workers)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"pretrain-000002\.tar: No such file"):
        load(index, workers=workers)


def test_a_set_without_samples_and_too_many_ranks_are_refused(tmp_path: Path) -> None:
    index = open_index(make_corpus(tmp_path, {"pretrain": 0, "bus-bra": 5}))
    assert index.count == 0 and index.table.num_rows == 0
    with pytest.raises(CorpusError, match="no samples"):
        Loader(index, batch_size=1, size=32, seed=0)
    small = open_index(tmp_path, "bus-bra")
    with pytest.raises(CorpusError, match="6 ranks; use at most 5"):
        Loader(small, batch_size=1, size=32, seed=0, world=6)
    with pytest.raises(CorpusError, match="one global batch of 6"):
        Loader(small, batch_size=3, size=32, seed=0, world=2)


def children(of: int | None = None) -> set[int]:
    """Loader workers of a process (this one)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == (of or os.getpid()) and b"usfmae.stream.worker" in line:
            found.add(int(path.name))
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes through /proc"
)


@needs_proc
def test_a_killed_worker_ends_the_run_with_its_signal(corpus: Path) -> None:
    before = children()
    batches = iter(Loader(open_index(corpus), batch_size=8, size=32, seed=4, workers=2))
    next(batches)
    os.kill(min(children() - before), signal.SIGKILL)
    with pytest.raises(OpenUSError, match=r"worker \d ended by signal 9"):
        for _ in range(50):
            next(batches)
    assert children() == before


@needs_proc
def test_a_signal_to_all_of_a_job_leaves_the_workers_to_the_main_process(corpus: Path) -> None:
    """SLURM and `timeout` send SIGTERM to every process; the main one still needs its batch to save after it."""
    before = children()
    loader = Loader(open_index(corpus), batch_size=8, size=32, seed=4, workers=2, epochs=2)
    batches = iter(loader)
    next(batches)
    for worker in children() - before:
        os.kill(worker, signal.SIGTERM)
    assert len(list(batches)) == 9
    assert children() == before


def test_a_batch_of_very_many_parts_does_not_stand_still(corpus: Path) -> None:
    """One worker, 256 parts a batch: answers that nobody reads must not stop the worker, nor it the main process."""
    index = open_index(corpus)
    plan = make_plan(index, 1, mixture=Mixture(samples=2 * 16384))
    alarm = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("the loader stands still"))
    signal.alarm(60)
    try:
        batches = Loader(index, batch_size=16384, size=4, seed=1, workers=1, epochs=1, plan=plan)
        assert sum(1 for _ in batches) == 2
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)


@needs_proc
def test_breaking_off_leaves_no_process(corpus: Path) -> None:
    before = children()
    for _ in Loader(open_index(corpus), batch_size=8, size=32, seed=4, workers=2):
        break
    deadline = time.monotonic() + 10
    while children() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == before


@needs_proc
def test_a_killed_run_leaves_neither_workers_nor_memory(corpus: Path) -> None:
    script = (
        "import sys, time; from usfmae.stream.index import open_index; from usfmae.stream.loader import Loader\n"
        "it = iter(Loader(open_index(sys.argv[1]), batch_size=8, size=32, seed=4, workers=2)); next(it)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(corpus)], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        workers = children(run.pid)
        assert len(workers) == 2
        run.kill()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers)
    assert not shared.is_dir() or not [
        path for path in set(shared.iterdir()) - before if "usfmae" in path.name
    ]


def _alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody has waited for yet does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_batches_that_fit_nowhere_are_refused() -> None:
    with pytest.raises(OpenUSError, match="no room for"):
        SharedBatches(4, 1 << 20, 4096)
