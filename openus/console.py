"""The face of the command line: one console, one progress style, one way to end with an error.

Both commands (`openus`, `usfmae`) use these helpers, so that they look and fail alike. Heavy imports
stay out of this module: `--help` must be instant.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from openus.errors import NeedsPersonError, OpenUSError

if TYPE_CHECKING:
    from rich.progress import Progress

# Progress and notes go to standard error, results to standard output, so that pipes stay clean.
# Into a file or a pipe nothing is folded to the width of a terminal that is not there.
out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", "-j", min=0, help="Worker processes; 0 does the work in this process.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replaces the seed of the configuration.")]


def examples(*lines: str) -> str:
    """The end of a command's help: one example a line, never folded, so that it can be copied."""
    heading = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(("\b", heading, *(f"  {line}" for line in lines)))


@dataclass
class _State:
    debug: bool = False


_state = _State()


def set_debug(on: bool) -> None:
    """Remember that errors should show their traceback."""
    _state.debug = _state.debug or on


def print_json(value: Any) -> None:
    """Write `value` to standard output as one JSON document."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def amount(value: float) -> str:
    """Bytes for people: 571.2 kB, 72.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@contextmanager
def progress(quiet: bool = False, unit: str = "files") -> Iterator[Progress]:
    """A progress bar with count, rate and remaining time, on standard error; silent when `quiet`.

    Add tasks with ``bar.add_task("decode", total=n)`` and advance them; ``add_task(…, unit="bytes")`` counts in
    bytes instead of `unit`. Without a terminal it is a plain line now and then, for the logs of a cluster.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(_count(task), style="green", justify="right")

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(_rate(task, unit), style="cyan")

    class Lines(Progress):
        """Says of a task what its bar would show: after ten seconds, then ever more rarely, and at its end."""

        def __init__(self) -> None:
            super().__init__(disable=True)
            self._due: dict[Any, tuple[float, float]] = {}  # task to (when a line is due, the wait after it)

        def update(self, task_id: Any, **changes: Any) -> None:
            super().update(task_id, **changes)
            self._tell(task_id)

        def advance(self, task_id: Any, advance: float = 1) -> None:
            super().advance(task_id, advance)
            self._tell(task_id)

        def _tell(self, task_id: Any) -> None:
            task, now = self._tasks[task_id], time.monotonic()
            due, wait = self._due.setdefault(task_id, (now + _FIRST_LINE, _FIRST_LINE))
            ended = task.finished and wait > _FIRST_LINE  # what is soon done needs no line at all
            if now < due and not ended:
                return
            self._due[task_id] = (math.inf, 0) if task.finished else (now + wait, min(2 * wait, _LAST_LINE))
            left = task.time_remaining
            parts = [
                _count(task)
                + ("" if task.fields.get("unit") == "bytes" else f" {task.fields.get('unit', unit)}")
            ]
            parts += [rate] if (rate := _rate(task, unit)) else []
            parts += [f"{timedelta(seconds=round(left))} left"] if left and not task.finished else []
            err.print(f"{task.description}: {', '.join(parts)}", markup=False, soft_wrap=True)

    if quiet or not err.is_terminal:
        yield Progress(disable=True) if quiet else Lines()
        return
    with Progress(
        TextColumn("{task.description:<10}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=28 if err.width >= 100 else 10),
        Count(table_column=Column(no_wrap=True)),
        Rate(table_column=Column(no_wrap=True)),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    ) as bar:
        yield bar


_FIRST_LINE, _LAST_LINE = 10.0, 120.0
"""Seconds to the first plain line of a task, and the longest from one to the next."""


def _count(task: Any) -> str:
    show = amount if task.fields.get("unit") == "bytes" else "{:,.0f}".format
    return f"{show(task.completed)} of {'?' if task.total is None else show(task.total)}"


def _rate(task: Any, unit: str) -> str:
    speed = task.finished_speed or task.speed
    if not speed or task.elapsed is None or task.elapsed < 0.1:
        return ""
    each = task.fields.get("unit", unit)
    return f"{amount(speed)}/s" if each == "bytes" else f"{speed:,.1f} {each}/s"


def show_log(name: str, quiet: bool = False) -> None:
    """Show what the logger `name` says on standard error, beside the progress bar: warnings only when `quiet`."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            err.print(record.getMessage(), style=style, markup=False, soft_wrap=True)

    logger = logging.getLogger(name)
    logger.handlers = [Lines()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def run(app: typer.Typer, prog: str) -> NoReturn:
    """Run a Typer app; turn every expected error into one line and the right exit code.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    try:
        app(prog_name=prog)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader (head, less) went away; leave quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OpenUSError as error:
        code = _explain(error, prog)
    except (OSError, MemoryError) as error:
        code = _explain(OpenUSError(_system_error(error)), prog)
    except Exception as error:  # a defect of ours: say so in one line, keep the traceback for --debug
        code = _explain(
            OpenUSError(f"unexpected {type(error).__name__}: {error}; please report it"), prog, error
        )
    if code == 130:  # Typer makes an exit of a KeyboardInterrupt, or lets it through
        err.print("interrupted; run the same command again to go on")
    sys.stdout.flush()
    raise SystemExit(code)


def _system_error(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; use fewer --workers"
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"


def _explain(error: OpenUSError, prog: str, cause: BaseException | None = None) -> int:
    if _state.debug or os.environ.get("OPENUS_DEBUG"):
        err.print_exception()
    err.print(f"{prog}: error: {error}", style="red", markup=False, soft_wrap=True)
    if isinstance(error, NeedsPersonError):
        for number, step in enumerate(error.steps, 1):
            err.print(f"  {number}. {step}", markup=False, soft_wrap=True)
    if cause is not None and not _state.debug:
        err.print("  run it again with --debug to see where", style="dim")
    return error.exit_code
