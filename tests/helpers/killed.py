"""Runs a command that kills itself, as a power cut would, right before its N-th change of a file below a folder.

    python -m tests.helpers.killed ROOT N JOURNAL openus.cli build …

Counted are files opened for writing, renamed and removed, and folders made; each is a line of JOURNAL. N is 0 for a
run to the end, which tells how many moments there are. Counting changes instead of seconds makes a moment the same on
every machine, and puts it where it hurts: between two steps of what should be one.
"""

from __future__ import annotations

import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event != "open":
        return event in _CHANGES
    _, mode, flags = arguments
    return (
        any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITING)
    )


def main(root: str, moment: str, journal: str, module: str, *words: str) -> None:
    last, count = int(moment), 0
    lines = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not _changes(event, arguments):
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if not path.startswith(root):
            return
        count += 1
        os.write(lines, f"{event} {path[len(root) :]}\n".encode())
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = [module, *words]
    sys.addaudithook(hook)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run(root: Path, moment: int, journal: Path, module: str, words: Sequence[object]) -> int:
    """Run `module` with `words`, killed at `moment` (0: not at all); returns its exit code."""
    command = [sys.executable, "-m", "tests.helpers.killed", root, moment, journal, module, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


def moments(journal: Path, stages: dict[str, str], each: int, seed: int) -> list[tuple[str, int]]:
    """`each` seeded moments of every stage of a run: (stage, N). A stage is told by a pattern of its changes."""
    rng, found = random.Random(json.dumps([seed, sorted(stages)])), []
    lines = journal.read_text().splitlines()
    for stage, part in stages.items():
        numbers = [number for number, line in enumerate(lines, 1) if re.search(part, line)]
        assert numbers, f"nothing in {journal} belongs to the stage {stage}"
        found += [(stage, number) for number in sorted(rng.sample(numbers, min(each, len(numbers))))]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
