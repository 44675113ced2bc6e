"""What a person reads of the sources that a build had to leave out: what each wants, sorted by who must act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding

from openus.console import out
from openus.errors import NeedsPersonError, OfflineError, OpenUSError, UnreachableError

if TYPE_CHECKING:
    from openus.stages.results import SourceResult

_FEW = 3
_ELSEWHERE = "--mirror DIR or --local SLUG=PATH where you have copies"


def missing(results: Sequence[SourceResult], cache: Path) -> None:
    """Print what each of the `results`, all with a problem, wants; `cache` holds the drop folders."""
    if not results:
        return
    are = "source is" if len(results) == 1 else "sources are"
    out.print(f"\n[bold]{len(results)} {are} missing.[/] What to do:")
    offline = _of(results, lambda problem: isinstance(problem, OfflineError))
    _together(
        offline,
        "Not on this machine, and the network is switched off",
        f"Run it once without --offline, or give {_ELSEWHERE}.",
    )
    silent = _of(results, lambda problem: isinstance(problem, UnreachableError))
    _together(
        silent,
        "No host answers",
        f"Is there a network? Run it again when there is, or give {_ELSEWHERE}.",
    )
    people = _of(results, lambda problem: isinstance(problem, NeedsPersonError))
    if people:
        out.print(f"\n[bold]A person must act[/] ({len(people)}):")
        where = escape(f"{cache.expanduser().absolute()}/SLUG")
        _say(
            f"Put what you fetch into its drop folder, {where} (packed, unpacked or one folder deeper is all the "
            "same), or name it with --local SLUG=PATH. Then run the same command again."
        )
    others = [item for item in results if item not in [*offline, *silent, *people]]
    for item in people:
        _one(item)
    if others:
        out.print(f"\n[bold]Failed[/] ({len(others)}):")
    for item in others:
        _one(item)


def _of(results: Sequence[SourceResult], wanted: Callable[[OpenUSError], bool]) -> list[SourceResult]:
    return [item for item in results if item.problem is not None and wanted(item.problem)]


def _together(items: Sequence[SourceResult], what: str, advice: str) -> None:
    """What many lack is said once; of a few all is told."""
    if not items:
        return
    out.print(f"\n[bold]{what}[/] ({len(items)}):")
    if len(items) <= _FEW:
        for item in items:
            _one(item)
    else:
        _say(", ".join(item.source.slug for item in items))
    _say(advice)


def _say(text: str) -> None:
    """Folded between words, and set in; what holds addresses is not, so that they can be copied."""
    out.print(Padding(text, (0, 0, 0, 2)))


def _one(item: SourceResult) -> None:
    slug, problem = item.source.slug, item.problem
    text = (getattr(problem, "brief", "") or str(problem)).removeprefix(f"{slug}: ")
    out.print(f"[yellow]{slug}[/]: {escape(text)}", soft_wrap=True)
    for line in getattr(problem, "tried", ()):
        out.print(f"  - {line}", markup=False, soft_wrap=True)
    for position, step in enumerate(
        getattr(problem, "own", ()), 1
    ):  # what is common stands above all of them
        out.print(f"  {position}. {step}", markup=False, soft_wrap=True)
