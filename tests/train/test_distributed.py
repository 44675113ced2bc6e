"""Two processes: copies (DDP) and shards (FSDP2), changed world sizes, a process that dies. Real processes, gloo."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openus.errors import UsageError
from tests.train.conftest import TINY
from usfmae.model.layouts import WeightsError
from usfmae.model.runs import fault as checkpoint_fault
from usfmae.model.weights import load_weights
from usfmae.train.checkpoint import load_state
from usfmae.train.data import local_batch
from usfmae.train.distributed import World
from usfmae.train.log import read_log
from usfmae.train.loop import pretrain
from usfmae.train.recipe import load_recipe
from usfmae.train.sharded import load_shards

Lines = list[tuple[float, float, dict[str, float]]]


def arguments(corpus: Path, run: Path, *more: str) -> list[str]:
    settings = [part for change in [*TINY, *more] for part in ("--set", change)]
    return ["-m", "usfmae.cli", "pretrain", str(corpus), "--recipe", "demo", "--out", str(run), "--device", "cpu",
            *settings]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(corpus: Path, run: Path, steps: int, *more: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [*arguments(corpus, run, *more), "--max-steps", str(steps)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step ") == 1  # one process speaks
    return done.stderr


def lines(run: Path) -> Lines:
    return [(v["loss"], v["grad_norm"], v["loss_by_source"]) for v in read_log(run)]


def assert_same(found: Lines, expected: Lines) -> None:
    """Equal but for the order in which sums were rounded."""
    assert len(found) == len(expected)
    for (loss, norm, sources), (loss1, norm1, sources1) in zip(found, expected, strict=True):
        assert loss == pytest.approx(loss1, rel=2e-5) and norm == pytest.approx(norm1, rel=2e-4)
        assert sources == pytest.approx(sources1, rel=1e-4)  # the same samples: another order would show here


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    run = tmp_path_factory.mktemp("alone") / "run"
    pretrain(corpus, load_recipe("demo", TINY), run, device="cpu", quiet=True)
    return lines(run)


def test_two_processes_then_one_continue_the_same_order(corpus: Path, tmp_path: Path, whole: Lines) -> None:
    torchrun(corpus, tmp_path / "run", 8, "training.ema=0.9", "training.micro_batch=3")
    pretrain(
        corpus, load_recipe("demo", [*TINY, "training.ema=0.9"]), tmp_path / "run", device="cpu", quiet=True
    )
    assert_same(lines(tmp_path / "run"), whole)


def test_shards_then_copies_then_one(corpus: Path, tmp_path: Path, whole: Lines) -> None:
    run = tmp_path / "run"
    torchrun(corpus, run, 7, "training.shard=true", "training.ema=0.9", "training.micro_batch=2")
    assert (run / "latest" / "sharded" / ".metadata").is_file()
    assert load_state(run / "latest")["sharded"] and not load_state(run / "latest")["moments"]
    assert {v.dtype for v in load_weights(run).state.values()} == {torch.float32}
    torchrun(corpus, run, 10, "training.ema=0.9")
    pretrain(corpus, load_recipe("demo", [*TINY, "training.ema=0.9"]), run, device="cpu", quiet=True)
    assert_same(lines(run), whole)
    _hostile_metadata_is_refused(corpus, tmp_path)


def _hostile_metadata_is_refused(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    target = tmp_path / "harm"

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (target,)

    (folder / ".metadata").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(WeightsError, match="refused"):
        load_shards(folder, {"x": torch.zeros(2)})
    assert not target.exists()


def test_torchrun_passes_sigterm_on_and_all_save_the_same_step(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, *arguments(corpus, run, "training.epochs=4000")], env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ((run / "log.jsonl").exists() and len(read_log(run)) >= 6):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
    reached = len(read_log(run))
    assert f"terminated at step {reached}: saved; run the same command again to go on" in err
    assert checkpoint_fault(run / "latest") == "" and load_state(run / "latest")["step"] == reached
    assert not (run / "done").exists()


def test_when_a_process_dies_the_other_ends_with_an_error(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OPENUS_TIMEOUT": "60"}
    command = [sys.executable, *arguments(corpus, run, "training.epochs=4000"), "--quiet"]
    processes = [
        subprocess.Popen(
            command, env=environment(**common, RANK=str(rank), LOCAL_RANK=str(rank)), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ((run / "log.jsonl").exists() and len(read_log(run)) >= 6):
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, err = processes[0].communicate(timeout=90)
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - began < 60 and processes[0].returncode == 1
    assert "lost another process" in err and "Traceback" not in err


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    recipe = load_recipe("demo", TINY)
    device = torch.device("cpu")
    assert local_batch(recipe, World(4, 0, 0, device)) == 2
    with pytest.raises(UsageError, match="batch_size 8 cannot be shared evenly by 3 processes"):
        local_batch(recipe, World(3, 0, 0, device))


FULL = """
import sys
from pathlib import Path
import torch
from tests.train.conftest import TINY
from usfmae.train import trainer as module
from usfmae.train.data import Reading, open_data
from usfmae.train.distributed import join
from usfmae.train.recipe import load_recipe
from usfmae.train.state import whole

def trip(block, inputs, output):  # its gradient comes late: other blocks were gathered and reduced by then
    if output.requires_grad:
        output.register_hook(lambda gradient: exec("raise torch.OutOfMemoryError") if room < tried[-1] else None)

def stand_in(*arguments, made=module.stand_in):
    twin = made(*arguments)
    twin.blocks[0].register_forward_hook(trip)
    return twin

recipe = load_recipe("demo", [*TINY, "training.shard=" + sys.argv[3]])
with join("cpu") as world:
    trainer = module.Trainer(open_data(sys.argv[1], recipe), recipe, Path(sys.argv[2]), world, Reading())
    trainer.resume()
    tried, room = [], 8 if world.leads else 2
    module.stand_in = stand_in
    hook = trainer.mae.blocks[0].register_forward_hook(trip)
    attempt = trainer._try
    trainer._try = lambda size, silent: tried.append(size) or attempt(size, silent)
    trainer.feeder.micro_batch = 8
    found = trainer._fitting()
    hook.remove()
    trainer.feeder.micro_batch = found
    trainer.take(next(trainer.batches()))
    sums = [p.double().sum().item() for p in whole(dict(trainer.mae.named_parameters())).values()]
    Path(sys.argv[2] + str(world.rank)).write_text(f"{found} {tried} {sum(sums):.9g}")
"""


def test_a_process_that_runs_full_leaves_no_other_waiting(corpus: Path, tmp_path: Path, repo: Path) -> None:
    """Copied or sharded, all find the same number, and then take the same step."""
    (tmp_path / "full.py").write_text(FULL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env, found = environment(PYTHONPATH=str(repo), OPENUS_TIMEOUT="30"), []
    for shard in ("false", "true"):
        script = [str(tmp_path / "full.py"), str(corpus), str(tmp_path / shard), shard]
        done = subprocess.run([*command, *script], env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
        found += [(tmp_path / f"{shard}{rank}").read_text() for rank in (0, 1)]
    assert set(found) == {found[0]} and found[0].startswith("2 [8, 4, 2] ")
