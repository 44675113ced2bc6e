"""The face of the command line: one console, one progress style, one way to end with an error.

Both commands (`openus`, `usfmae`) use these helpers, so that they look and fail alike. Heavy imports
stay out of this module: `--help` must be instant.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from openus.errors import NeedsPersonError, OpenUSError

if TYPE_CHECKING:
    from rich.progress import Progress

# Progress and notes go to standard error, results to standard output, so that pipes stay clean.
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", "-j", min=0, help="Worker processes; 0 does the work in this process.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Replaces the seed of the configuration.")]


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
    bytes instead of `unit`. Without a terminal nothing is drawn.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Any) -> Text:
            show = amount if task.fields.get("unit") == "bytes" else "{:,.0f}".format
            whole = "?" if task.total is None else show(task.total)
            return Text(f"{show(task.completed)} of {whole}", style="green", justify="right")

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            if not speed or task.elapsed is None or task.elapsed < 0.1:
                return Text("")
            each = task.fields.get("unit", unit)
            return Text(f"{amount(speed)}/s" if each == "bytes" else f"{speed:,.1f} {each}/s", style="cyan")

    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        Count(),
        Rate(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=False,
    )
    with bar:
        yield bar


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
