"""What reading the manifests and `openus --help` cost, next to the least either could cost.

python benchmarks/manifests.py [--repeats N]

- manifests: reading and checking all source manifests, against PyYAML's C loader parsing the same files;
- help: `openus --help`, against `python -c "import typer, rich"`.

Each pair is measured in turn, in one run; the ratio is that of the fastest of N, so that other work on the
machine counts as little as it can.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from openus.catalogue import Catalogue, manifests_root

GOALS = {"manifests": 3.0, "help": 2.0}


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _in_turn(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest run of each, after one run to warm up."""
    ours(), peer()
    pairs = [(_timed(ours), _timed(peer)) for _ in range(repeats)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _manifests(repeats: int) -> tuple[float, float]:
    files = sorted((manifests_root() / "sources").glob("*.yaml"))
    loader = yaml.CSafeLoader

    def ours() -> None:
        assert len(list(Catalogue().sources())) == len(files)

    return _in_turn(ours, lambda: [yaml.load(path.read_bytes(), Loader=loader) for path in files], repeats)


def _help(repeats: int) -> tuple[float, float]:
    installed = Path(sys.executable).with_name("openus")
    command = [str(installed)] if installed.is_file() else [sys.executable, "-m", "openus.cli"]

    def run(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True)

    return _in_turn(run(*command, "--help"), run(sys.executable, "-c", "import typer, rich"), repeats)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--repeats", type=int, default=15)
    repeats = options.parse_args().repeats
    times = {"manifests": _manifests(repeats), "help": _help(repeats)}
    ratios = {name: round(ours / peer, 2) for name, (ours, peer) in times.items()}
    table = Table("", "ours", "peer", "ratio", "goal", box=None)
    for name, (ours, peer) in times.items():
        cells = (
            f"{1000 * ours:.1f} ms",
            f"{1000 * peer:.1f} ms",
            f"{ratios[name]:.2f}",
            f"at most {GOALS[name]}",
        )
        table.add_row(name, *cells)
    Console().print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    holds = all(ratios[name] <= GOALS[name] for name in GOALS)
    print(
        json.dumps(
            {"name": "manifests", "machine": machine, "ratios": ratios, "goals": GOALS, "holds": holds}
        )
    )


if __name__ == "__main__":
    main()
