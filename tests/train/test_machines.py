"""Several machines, as docs/pretraining.md has it: two `torchrun` that meet over c10d, and the script for SLURM."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from tests.helpers import pages
from tests.helpers.corpus import make_corpus
from tests.stream.conftest import Server
from tests.train.conftest import TINY
from tests.train.test_distributed import arguments, assert_same, environment, lines
from usfmae.train.data import Reading
from usfmae.train.log import read_log
from usfmae.train.loop import pretrain
from usfmae.train.recipe import load_recipe

LONG = "training.epochs=4000"


class Machine:
    """A `torchrun` of one process, as on a machine of its own."""

    def __init__(self, corpus: str, run: Path, port: int, cache: Path, said: Path) -> None:
        self.said = said
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        with said.open("w") as file:
            self.launcher = subprocess.Popen(
                [*command, *arguments(corpus, run, LONG), "--quiet"], stdout=file, stderr=file,
                env=environment(OPENUS_TIMEOUT="60", OPENUS_CACHE=str(cache)),
            )  # fmt: skip

    def workers(self) -> list[int]:
        """The processes of the run on this machine."""
        pid = self.launcher.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def die(self) -> None:
        for pid in [self.launcher.pid, *self.workers()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


Begin = Callable[[str, Path, int], list[Machine]]


@pytest.fixture
def machines(tmp_path: Path) -> Any:
    """Begins a run on two machines, and waits until it took so many steps; they are gone afterwards."""
    begun: list[Machine] = []

    def begin(corpus: str, run: Path, steps: int) -> list[Machine]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        two = [
            Machine(corpus, run, port, tmp_path / "cache", tmp_path / f"said-{len(begun) + number}")
            for number in range(2)
        ]
        begun.extend(two)
        deadline = time.monotonic() + 120
        while not ((run / "log.jsonl").exists() and len(read_log(run)) >= steps):
            assert time.monotonic() < deadline, [machine.said.read_text() for machine in two]
            assert all(machine.launcher.poll() is None for machine in two), two[0].said.read_text()
            time.sleep(0.05)
        return two

    yield begin
    for machine in begun:
        if machine.launcher.poll() is None:
            machine.die()
            machine.launcher.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_two_machines(tmp_path: Path, machines: Begin) -> None:
    """They share the cache of a remote corpus; one loses its launcher, then all; what is left goes on alone."""
    corpus = make_corpus(tmp_path / "corpus", {"pretrain": 44}, size=48, shard_samples=8)
    run = tmp_path / "run"
    with closing(Server(corpus)) as server:
        _lose_one_after_the_other(server.url, run, machines)
        step = int((run / "latest").readlink().name[5:])
        reading = Reading(shard_cache=str(tmp_path / "cache" / "shards"))
        for place in (run, tmp_path / "alone"):
            pretrain(
                server.url, load_recipe("demo", [*TINY, LONG]), place, device="cpu", quiet=True, reading=reading,
                max_steps=step + 3,
            )  # fmt: skip
    assert_same(lines(run), lines(tmp_path / "alone"))
    tars = {name: count for name, count in server.served.items() if name.endswith(".tar")}
    assert len(tars) == 6 and set(tars.values()) == {1}  # each came once, for all processes


def _lose_one_after_the_other(data: str, run: Path, machines: Begin) -> None:
    first, second = machines(data, run, 6)
    workers = [*first.workers(), *second.workers()]
    second.launcher.kill()  # its process has nobody to report to: it ends, and so the other does
    assert first.launcher.wait(60) != 0
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reached = len(read_log(run))
    said = first.said.read_text() + second.said.read_text()
    assert f"terminated at step {reached}: saved; run the same command again to go on" in said

    first, second = machines(data, run, reached + 6)
    second.die()
    began = time.monotonic()
    assert first.launcher.wait(90) == 1 and time.monotonic() - began < 60
    assert "of 2: lost another process" in first.said.read_text()


# ── SLURM ──────────────────────────────────────────────────────────────────────────────────────────────────


def scripts(page: Path) -> list[str]:
    return [block.text for block in pages.blocks(page) if block.text.startswith("#!/bin/bash\n")]


@pytest.mark.parametrize("page", ["pretraining", "cluster"])
def test_scripts_for_slurm_are_sound_shell(tmp_path: Path, repo: Path, page: str) -> None:
    (script,) = scripts(repo / "docs" / f"{page}.md")
    assert script.splitlines()[1].startswith("#SBATCH ")  # read only before the first command
    (tmp_path / "job.sh").write_text(script)
    checkers = [["bash", "-n"], *([["shellcheck"]] if shutil.which("shellcheck") else [])]
    for checker in checkers:
        done = subprocess.run([*checker, "job.sh"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr


STAND_INS = {
    "srun": 'exec "$@"',
    "scontrol": 'case $1 in show) printf "%s\\n" node-7 node-8;; *) echo "$@" >> queued;; esac',
    "torchrun": 'printf "%s\\n" "$@" > launched; [ -z "$FINISHES" ] || touch runs/base/done; exit "$ENDS"',
}


@pytest.mark.parametrize(("finishes", "ends"), [("", 0), ("yes", 0), ("", 1)])
def test_script_for_slurm_launches_and_queues_again(
    tmp_path: Path, repo: Path, finishes: str, ends: int
) -> None:
    """SLURM's commands are stand-ins, its variables are as it sets them; what is launched, torchrun's parser reads."""
    (script,) = scripts(repo / "docs" / "pretraining.md")
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[7-8]"}
    done = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "FINISHES": finishes, "ENDS": str(ends), **variables},
    )  # fmt: skip
    assert done.stderr == "" and done.returncode == ends
    launch = get_args_parser().parse_args((tmp_path / "launched").read_text().splitlines())
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_backend) == ("2", "8", "c10d")
    assert (launch.rdzv_id, launch.rdzv_endpoint) == ("4711", "node-7:29500")
    assert launch.module and launch.training_script == "usfmae.cli"
    assert launch.training_script_args[:2] == ["pretrain", "openus-46"]
    queued = (tmp_path / "queued").read_text().split() if (tmp_path / "queued").exists() else []
    assert queued == (["requeue", "4711"] if not finishes and not ends else [])
