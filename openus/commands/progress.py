"""Progress of the stages, as bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from openus import console
from openus.engine.base import Report

_UNITS = {
    "sources": "sources", "decode": "files", "dedup": "samples", "pack": "samples", "fingerprint": "pictures",
    "compare": "pairs",
}  # fmt: skip


@contextmanager
def reporter(quiet: bool, unit: str = "files") -> Iterator[Report]:
    """A progress display that the stages feed by (stage, units done now, total)."""
    with console.progress(quiet, unit) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage.startswith("fetch "):
                # Transfers report bytes done so far, not steps.
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total, unit="bytes")
                bar.update(tasks[stage], completed=done, total=total)
                return
            if total is None:
                return
            if stage == "sources":  # what was fetched of the last one is told by its row of the closing table
                for name in [name for name in tasks if name.startswith("fetch ")]:
                    bar.update(tasks.pop(name), visible=False)
            if stage not in tasks:
                each = _UNITS.get(stage, unit)
                tasks[stage] = bar.add_task(stage, total=total, unit=each)
            bar.update(tasks[stage], advance=done, total=total)

        yield report


def sayer(quiet: bool) -> Callable[[str], None]:
    """What an engine has to say, as lines above the progress."""

    def say(line: str) -> None:
        if not quiet:
            console.err.print(line, markup=False, soft_wrap=True)

    return say
