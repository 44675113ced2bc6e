"""Writes docs/benchmarks.md from the results that are kept in benchmarks/results.

python docs/make_benchmarks.py            write the page
python docs/make_benchmarks.py --check    exit 1 if the page is not current
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from written import DOCS, write_or_check

BENCHMARKS = DOCS.parent / "benchmarks"
KNOWN = {"name", "date", "machine", "note", "ratios", "goals", "holds"}
HEAD = """\
# Benchmarks

*Written by `docs/make_benchmarks.py` from `benchmarks/results/*.json`; do not edit.*

Each benchmark is one command that measures ours and the field's own in one run and ends with a line of JSON. The lines
that were kept are shown here whole, also where a goal was missed. Measure on your own machine: figures depend on it.

"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as Markdown."""
    rows = "\n".join(
        f"| [{result['name']}](#{result['file'].lower()}) | "
        + " | ".join((result["machine"], result["date"], _verdict(result)))
        + " |"
        for result in results
    )
    table = f"| benchmark | machine | date | goals |\n|---|---|---|---|\n{rows}\n"
    return HEAD + table + "".join("\n" + "".join(_result(result)) for result in results)


def _verdict(result: Mapping[str, Any]) -> str:
    if not result["goals"]:
        return "none is set"
    return "reached" if result["holds"] else "**not reached, or not all measured**"


def _result(result: Mapping[str, Any]) -> Iterator[str]:
    """The section of one file."""
    name = result["name"]
    yield f"## {result['file']}\n\n{_about(name)}\n\n"
    yield f"`python -m benchmarks.{name}`, {result['machine']}, {result['date']}. Goals: {_verdict(result)}.\n"
    if result.get("note"):
        yield f"\nNote: {result['note']}.\n"
    names = dict.fromkeys([*result["ratios"], *result["goals"]])
    if names:
        yield "\n| figure | measured | goal |\n|---|--:|--:|\n"
        for figure in names:
            measured, goal = result["ratios"].get(figure, "not measured"), result["goals"].get(figure, "")
            yield f"| {_words(figure)} | {_cell(measured)} | {_cell(goal)} |\n"
    for key, value in result.items():
        if key not in KNOWN | {"file"}:
            yield f"\n**{_words(key).capitalize()}**" + _value(value)


def _value(value: Any) -> str:
    """A figure, or a table of a mapping of mappings or a list of mappings."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return "\n\n" + _table([], value)
    if isinstance(value, dict) and value:
        if all(isinstance(row, dict) and "value" not in row for row in value.values()):
            return "\n\n" + _table(list(value), list(value.values()))
        return ": " + ", ".join(f"{_words(name)} {_cell(part)}" for name, part in value.items()) + "\n"
    return f": {_cell(value)}\n"


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = ([""] if names else []) + [_words(column) for column in columns]
    lines = [head, ["---"] * bool(names) + ["--:"] * len(columns)]
    for number, row in enumerate(rows):
        lines.append(
            [*([names[number]] if names else []), *(_cell(row.get(column, "")) for column in columns)]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        return f"{_cell(value['value'])} [{_cell(value['low'])}, {_cell(value['high'])}]"
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_cell(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value).replace("|", "\\|")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _about(name: str) -> str:
    """The first paragraph of the benchmark's own description."""
    description = ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(description.split("\n\n")[0].split())


def results(folder: Path) -> list[dict[str, Any]]:
    """The kept results, by file name."""
    return [
        json.loads(path.read_text(encoding="utf-8")) | {"file": path.stem}
        for path in sorted(folder.glob("*.json"))
    ]


if __name__ == "__main__":
    sys.exit(write_or_check(DOCS / "benchmarks.md", lambda: page(results(BENCHMARKS / "results"))))
