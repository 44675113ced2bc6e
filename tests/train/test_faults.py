"""Bad input and faults as a whole run meets them. What single parts do with them stands in their own tests."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch._inductor.exc import InvalidCxxCompiler

from openus.errors import CorpusError, OpenUSError, UsageError
from tests.helpers.corpus import make_corpus
from tests.train.conftest import TINY
from usfmae.model.layouts import WeightsError
from usfmae.model.runs import fault, newest_whole
from usfmae.model.weights import load_weights
from usfmae.stream.index import open_index
from usfmae.stream.plan import Cursor
from usfmae.train.boards import Appended
from usfmae.train.checkpoint import held
from usfmae.train.data import Reading, make_loader
from usfmae.train.distributed import World
from usfmae.train.log import RunLog, read_log
from usfmae.train.loop import pretrain
from usfmae.train.optim import clip_gradients
from usfmae.train.recipe import load_recipe
from usfmae.train.share import compiler_told


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go(corpus: Path, out: Path, *changes: str, **options: Any) -> dict[str, Any]:
    recipe = load_recipe("demo", [*TINY, *changes])
    return pretrain(corpus, recipe, out, device="cpu", quiet=True, **options)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run) if "loss" in line]


def spoil(corpus: Path, row: int) -> str:
    """Change a byte in the middle of a picture; returns the sample's key."""
    index = open_index(corpus)
    shard = corpus / "pretrain" / index.shards[int(index.shard_of[row])]
    data = bytearray(shard.read_bytes())
    data[int(index.offset[row]) + int(index.size[row]) // 2] ^= 0xFF
    shard.write_bytes(data)
    return str(index.row(row)["key"])


def test_an_empty_set_and_more_processes_than_samples(tmp_path: Path) -> None:
    empty = make_corpus(tmp_path / "empty", {"pretrain": 0}, size=48)
    with pytest.raises(CorpusError, match="the set has no samples"):
        go(empty, tmp_path / "run")
    few = open_index(make_corpus(tmp_path / "few", {"pretrain": 12}, size=48))
    recipe = load_recipe("demo", [*TINY, "training.batch_size=16"])
    with pytest.raises(CorpusError, match="12 samples cannot feed 16 ranks; use at most 12 ranks"):
        make_loader(few, recipe, World(16, 3, 3, torch.device("cpu")), Reading(), Cursor())
    with pytest.raises(
        CorpusError, match=r"12 samples are fewer than one global batch of 16 .* lower the batch size"
    ):
        go(tmp_path / "few", tmp_path / "run", "training.batch_size=16")
    assert not (tmp_path / "run").exists()  # what could not begin is not in the way


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_samples_are_counted_named_and_do_not_move_the_rest(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = make_corpus(tmp_path / "corpus", {"pretrain": 24}, size=48)
    key = spoil(corpus, 5)
    summary = go(corpus, tmp_path / "run", reading=Reading(workers=workers))
    lines = read_log(tmp_path / "run")
    assert summary["bad_samples"] == lines[-1]["bad_samples"] == 3  # once an epoch
    named = [text for text in caplog.messages if key in text]
    assert len(named) == 1 and "SHA-256 differs" in named[0] and "replaced by the next" in named[0]
    assert "pretrain-000000.tar" in named[0]
    again = go(corpus, tmp_path / "again")
    assert again["bad_samples"] == 3 and losses(tmp_path / "again") == losses(tmp_path / "run")
    with pytest.raises(CorpusError, match=f"{key}.*data are strict, so the run ends"):
        go(corpus, tmp_path / "strict", reading=Reading(workers=workers, strict=True))


def test_a_shard_that_shrinks_mid_run_ends_it_and_it_goes_on_when_mended(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path / "corpus", {"pretrain": 24}, size=48), tmp_path / "run"
    settings = [part for change in [*TINY, "training.epochs=4000"] for part in ("--set", change)]
    process = subprocess.Popen(
        [sys.executable, "-m", "usfmae.cli", "pretrain", str(corpus), "--recipe", "demo", "--out", str(run), "--quiet",
         "--device", "cpu", "--workers", "1", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not (newest_whole(run) if (run / "checkpoints").is_dir() else None):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    shard = corpus / "pretrain" / "pretrain-000000.tar"
    whole = shard.read_bytes()
    os.truncate(shard, 2000)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "cut short" in err and "Traceback" not in err
    with pytest.raises(CorpusError, match=r"2000 bytes, corpus\.json says"):
        go(corpus, run, "training.epochs=4000")
    shard.write_bytes(whole)
    step = json.loads((run / "latest" / "config.json").read_text())["step"]
    assert go(corpus, run, "training.epochs=4000", max_steps=step + 2)["steps"] == step + 2


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
def test_a_checkpoint_cut_by_a_crash_is_passed_over_aloud(
    corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    go(corpus, tmp_path / "whole")
    run = tmp_path / "run"
    go(corpus, run, max_steps=8)
    newest = run / "checkpoints" / "step-00000008"
    os.truncate(newest / name, (newest / name).stat().st_size // 2)
    assert fault(newest)
    capsys.readouterr()
    go(corpus, run)
    err = capsys.readouterr().err
    assert f"damaged checkpoint, {name} has" in err and "using the one before it" in err
    assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.parametrize("blocks", [60, 150])  # of 1 KiB: the weights do not fit, or the state
def test_a_checkpoint_that_finds_the_disk_full(corpus: Path, tmp_path: Path, blocks: int) -> None:
    """The disk ends after so much of a file, which the system enforces as it would a full disk."""
    run = tmp_path / "run"
    settings = [part for change in TINY for part in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", "usfmae.cli", "pretrain", str(corpus), "--recipe", "demo", "--out", str(run), "--quiet",
         "--device", "cpu", "--max-steps", "5", *settings],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (blocks << 10, blocks << 10)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the checkpoint of step 4 cannot be written (File too large); make room there" in done.stderr
    assert list((run / "checkpoints").iterdir()) == []
    assert go(corpus, run)["steps"] == 18


def test_a_log_that_finds_the_disk_full_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file says it once; what was refused is written when there is room, and no line is left in part."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, load_recipe("demo").report, step=0, config={})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    long = {f"loss_by_source/{number}": 1.0 for number in range(40)}
    for step in range(1, 7):
        if step in (
            2,
            4,
        ):  # the system refuses what goes beyond, as it would on a full disk, in the midst of a line
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if step == 2 else before[0], before[1]))
        log.write(step, {"loss": step / 2, **long})
        if step == 3:
            assert [line["step"] for line in read_log(tmp_path)] == [1]
    log.close()
    assert [(line["step"], line["loss"]) for line in read_log(tmp_path)] == [(s, s / 2) for s in range(1, 7)]
    board = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(s, s / 2) for s in range(1, 7)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "log.jsonl: cannot be written now (File too large); the run goes on" in said[0]
    assert "tfevents" in said[1]


def test_a_log_that_finds_no_room_to_its_end_says_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    file = Appended(tmp_path / "full")
    file.write(b"a line\n")
    file.close()
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in said] == [
        "cannot be written now (No space left on device); the run goes on, and its lines wait for room",
        "its last 7 bytes found no room and are lost",
    ]


def test_weights_of_another_number_of_channels(corpus: Path, tmp_path: Path) -> None:
    """Grey and colour fold into one another; four channels mean something nobody said."""
    go(corpus, tmp_path / "run", max_steps=1)
    state = dict(load_weights(tmp_path / "run").state)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].repeat(1, 4, 1, 1)
    safetensors.torch.save_file(state, tmp_path / "four.safetensors")
    with pytest.raises(WeightsError, match=r"four\.safetensors.*images of 4 channels"):
        go(corpus, tmp_path / "x", f"model.init={tmp_path / 'four.safetensors'}")
    with pytest.raises(UsageError, match="in_chans must be 1 or 3"):
        go(corpus, tmp_path / "y", "model.in_chans=4")


def test_a_leap_of_the_loss_goes_back_and_on_with_the_next_data(corpus: Path, tmp_path: Path) -> None:
    """With a bound this tight, ordinary noise counts as leaps: each is undone and said, and the run reaches its end."""
    run = tmp_path / "run"
    go(corpus, run, "training.epochs=16", "guard.spike=1.05", "guard.rollbacks=90", "optim.lr=1e-6")
    lines = read_log(run)
    events = [line for line in lines if "event" in line]
    assert events and all("leapt to" in line["event"] for line in events)
    assert all("back to the weights of step-" in line["event"] for line in events)
    kept = {line["step"] for line in lines if "loss" in line}
    undone = {line["step"] for line in events}
    assert kept | undone == set(range(1, 97)) and not kept & undone
    assert fault(run / "latest") == ""


def test_a_gradient_that_is_no_number_never_reaches_a_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is that of the weights before it: at the step that spoils them it is still sound."""
    seen = 0

    def spoilt(model: torch.nn.Module, limit: float) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == 8:  # the step of a checkpoint
            next(model.parameters()).grad[...] = torch.inf  # type: ignore[index]
        return clip_gradients(model, limit)

    monkeypatch.setattr("usfmae.train.trainer.clip_gradients", spoilt)
    run = tmp_path / "run"
    assert go(corpus, run)["steps"] == 18
    events = [line for line in read_log(run) if "event" in line]
    assert [line["step"] for line in events] == [8] and "norm of the gradient is" in events[0]["event"]
    assert all(value.isfinite().all() for value in load_weights(run).state.values())


def test_two_processes_never_write_one_run(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(corpus, run, max_steps=1)
    with held(run), pytest.raises(UsageError, match="another process is at work in this run"):
        go(corpus, run)
    assert go(corpus, run)["steps"] == 18  # free again


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_goes_on_with_its_own_data_only(corpus: Path, tmp_path: Path, begun: bool) -> None:
    """Also before its first checkpoint, when there is no place in the data yet that would tell them apart."""
    other = make_corpus(tmp_path / "other", {"pretrain": 24}, size=48)
    go(corpus, tmp_path / "run", max_steps=1)
    if not begun:
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises((UsageError, CorpusError), match="other"):
        go(other, tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    assert go(moved, tmp_path / "run")["steps"] == 18  # the same data elsewhere are the same data


def test_a_missing_compiler_is_one_line() -> None:
    """The recipe `base` compiles, and is what is taken where none is named."""
    said = r"no C\+\+ compiler works here; install one .* training\.compile=false"
    with pytest.raises(OpenUSError, match=said), compiler_told():
        raise InvalidCxxCompiler
    with pytest.raises(RuntimeError, match="something else"), compiler_told():
        raise RuntimeError("something else")


def test_a_corpus_of_benchmarks_alone_says_how_to_pretrain_on_one(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", {"bus-bra": 12}, size=48)
    with pytest.raises(CorpusError, match=r"no set 'pretrain'; it has: bus-bra.*--set data\.set=NAME"):
        go(corpus, tmp_path / "run")
