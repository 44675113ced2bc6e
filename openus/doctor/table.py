"""The findings of `openus doctor` for people, in 100 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from openus.console import out
from openus.doctor.machine import Check
from openus.doctor.online import SourceCheck
from openus.errors import a_few

COLOURS = {
    "ok": "green", "works": "green", "there": "green", "attention": "yellow", "person": "yellow", "closed": "yellow",
    "package": "yellow", "missing": "red", "dead": "red", "changed": "red", "gone": "red", "unreachable": "red",
    "optional": "dim", "none": "dim",
}  # fmt: skip
NAMED = 4


def show_machine(checks: Sequence[Check]) -> None:
    """A row for each check, what to do below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("finding", overflow="fold")
    area = ""
    for check in checks:
        if check.area == "drop folders" and check.state == "optional":
            continue  # another route is tried first: nothing to say to a person
        finding = escape(check.detail)
        if check.needed_by and check.area != "drop folders":
            finding += f" [dim](for {escape(a_few(check.needed_by, NAMED))})[/]"
        if check.hint and check.state in ("missing", "attention"):
            finding += f"\n[cyan]→ {escape(check.hint)}[/]"
        table.add_row(
            check.area if check.area != area else "", escape(check.name), _state(check.state), finding
        )
        area = check.area
    out.print(table)


def show_sources(sources: Sequence[SourceCheck]) -> None:
    """A row for each route; a failing one names the next. Licence pages follow where something is wrong."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source", no_wrap=True)
    table.add_column("route", overflow="fold", max_width=30)
    table.add_column("state", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for source in sources:
        for route in source.routes:
            finding = escape(route.detail)
            if route.state != "works":
                finding += f"\n[cyan]→ next: {escape(route.next)}[/]" if route.next else ""
            table.add_row(
                source.slug if route.number == 1 else "", escape(f"{route.number} {route.name}"),
                _state(route.state), finding,
            )  # fmt: skip
    out.print(table)
    odd = [s for s in sources if s.licence.state != "there"]
    if odd:
        out.print("\n[bold]licence pages[/]")
        for item in odd:
            text = f"{item.licence.url} {item.licence.detail}".strip()
            out.print(f"  {item.slug}: {_state(item.licence.state)} {escape(text)}", soft_wrap=True)
    lost = [source.slug for source in sources if not source.way]
    counts = Counter(route.state for source in sources for route in source.routes)
    told = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    out.print(f"\n{sum(counts.values())} routes: {told}")
    if lost:
        out.print(f"[red]no way to get:[/] {', '.join(lost)}", soft_wrap=True)


def _state(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]"
