"""The command itself, in processes of its own: killed, interrupted, asked to end, misused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.conftest import TINY
from usfmae.cli import main
from usfmae.train.command import parse_time
from usfmae.train.log import read_log


def start(*args: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENUS_DEBUG": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "usfmae.cli", *map(str, args)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(corpus: Path, run: Path, *more: str) -> list[str | Path]:
    settings = [part for change in [*TINY, "training.epochs=20", *more] for part in ("--set", change)]
    return ["pretrain", corpus, "--recipe", "demo", "--out", run, "--quiet", "--device", "cpu", *settings]


def finish(*args: str | Path) -> tuple[int, str, str]:
    process = start(*args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "log.jsonl").exists() and len(read_log(run)) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"the run did not reach step {step}: {process.communicate()}")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    run = tmp_path_factory.mktemp("cli") / "run"
    code, out, err = finish(*command(corpus, run), "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 120
    return [line["loss"] for line in read_log(run)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_mid_epoch_and_resumed_gives_the_same_losses(
    corpus: Path, tmp_path: Path, whole: list[float], how: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(*command(corpus, run), "--workers", "2")
    wait_for_step(run, 33, process)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how], (
        out,
        err,
    )
    reached = len(read_log(run))
    assert 33 <= reached < 120
    if how != signal.SIGKILL:
        assert json.loads((run / "latest" / "config.json").read_text())["step"] == reached
        assert "saved" in err and "run the same command again" in err and "Traceback" not in err
    if how == signal.SIGTERM:  # saved by the same path as SIGINT
        return
    code, _, err = finish(*command(corpus, run))
    assert code == 0, err
    assert [line["loss"] for line in read_log(run)] == whole


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "demo", "--set", "training.epoch=1"], 2, "did you mean 'epochs'"),
        (["--recipe", "demo", "--device", "tpu"], 2, "--device tpu"),
        (["--recipe", "demo", "--max-time", "soon"], 2, "--max-time soon"),
    ],
)
def test_wrong_use_is_one_line(
    corpus: Path, tmp_path: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        sys, "argv", ["usfmae", "pretrain", str(corpus), "--out", str(tmp_path / "run"), *arguments]
    )
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == code and message in err and out == "" and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1


def test_the_size_of_decoded_pictures_is_said_before_they_are_kept(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [str(part) for part in command(corpus, tmp_path / "run") if part != "--quiet"]
    monkeypatch.setattr(sys, "argv", ["usfmae", *wanted, "--decoded", "memory", "--max-steps", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 0
    said = "44 decoded pictures of 'pretrain' take 0.00 GB in shared memory"
    assert said in err and err.index(said) < err.index("M parameters")


def test_a_corpus_that_is_not_there_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code, out, err = finish("pretrain", tmp_path / "none", "--recipe", "demo", "--out", tmp_path / "run")
    assert code == 1 and "none" in err and "Traceback" not in err and out == ""


def test_help_is_fast_and_imports_no_torch() -> None:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import sys, usfmae.cli; assert 'torch' not in sys.modules"], check=True
    )
    assert time.perf_counter() - began < 5
    code, out, _ = finish("pretrain", "--help")
    assert code == 0 and "--recipe" in out and "--plan" in out


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45", 45), ("30m", 1800), ("11h30m", 41400), ("2d", 172800), ("1m5", 65)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds
