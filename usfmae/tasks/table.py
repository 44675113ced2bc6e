"""The table of a benchmark: Markdown, CSV, LaTeX, and a picture with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usfmae.model.weights import write_atomic

COLUMNS = (
    ("f1_weighted", "F1 weighted"),
    ("f1_macro", "F1 macro"),
    ("auroc", "AUROC"),
    ("accuracy", "accuracy"),
)
"""Scores of the table, in its order; all in per cent."""


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """Write table.md, table.csv, table.tex and table.png from what results.json holds."""
    write_atomic(out / "table.md", markdown(result).encode())
    write_atomic(out / "table.csv", comma_separated(result).encode())
    write_atomic(out / "table.tex", latex(result).encode())
    picture(out / "table.png", result)


def published(result: Mapping[str, Any], name: str) -> str:
    """The figures of the paper for a benchmark, such as ``81.6``; a dash where there are none."""
    figures = result["benchmarks"][name]["published"]
    return ", ".join(f"{value:g}" for value in figures.values()) or "–"


def markdown(result: Mapping[str, Any]) -> str:
    """A section per benchmark, a row per model."""
    lines = []
    reference = result["models"][0]
    for name, facts in result["benchmarks"].items():
        lines += [f"## {facts['title']}", ""]
        heads = [
            "model",
            *(f"{title} (%)" for _, title in COLUMNS),
            f"{reference} minus this, F1 weighted (p)",
        ]
        heads += ["USF-MAE paper, F1 (%), published"]
        lines += ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
        for model in result["models"]:
            cell = result["cells"][model].get(name)
            if cell is None:
                lines.append(f"| {model} | " + " | ".join(["failed"] + ["–"] * (len(heads) - 2)) + " |")
                continue
            row = [
                model,
                *(_score(cell, score) for score, _ in COLUMNS),
                _difference(cell),
                published(result, name),
            ]
            lines.append("| " + " | ".join(row) + " |")
        lines += ["", _caption(result, name), ""]
    lines += [f"failed: {item['run']}: {item['error']}" for item in result["failed"]]
    return "\n".join(lines).rstrip() + "\n"


def _caption(result: Mapping[str, Any], name: str) -> str:
    cells = [cells[name] for cells in result["cells"].values() if name in cells]
    if not cells:
        return ""
    cell = cells[0]
    leaks = (
        " Some test samples leak; see metrics.json of the runs."
        if any(c["runs_with_leaks"] for c in cells)
        else ""
    )
    protocol = result["benchmarks"][name]["protocol"]
    return (
        f"Protocol `{protocol}`, {cell['folds']} fold(s), {cell['seeds']} seed(s): mean ± sd over runs, in brackets "
        "the 95 % interval of the mean (patients drawn with replacement within each fold). p: two-sided permutation "
        "test over patients. Published figures are the authors' own, under a "
        f"split and an averaging they do not state.{leaks}"
    )


def _score(cell: Mapping[str, Any], name: str) -> str:
    mean, sd = cell["over_runs"][name]["mean"], cell["over_runs"][name]["sd"]
    interval = cell["scores"][name]
    if mean is None:
        return "–"
    spread = "" if sd is None else f" ± {100 * sd:.1f}"
    return f"{100 * mean:.1f}{spread} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _difference(cell: Mapping[str, Any]) -> str:
    found = cell.get("reference_minus_this")
    if found is None:
        return "reference"
    one = found["f1_weighted"]
    low, high = 100 * one["low"], 100 * one["high"]
    return f"{100 * one['value']:+.1f} [{low:+.1f}, {high:+.1f}] (p = {one['p']:.3f})"


def comma_separated(result: Mapping[str, Any]) -> str:
    """A line per model, benchmark and score, for other programs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["model", "benchmark", "protocol", "score", "mean", "sd", "low", "high", "runs", "folds", "seeds",
         "reference_minus_this", "difference_low", "difference_high", "p", "published_f1_percent"]
    )  # fmt: skip
    for model in result["models"]:
        for name, cell in result["cells"][model].items():
            for score, over in cell["over_runs"].items():
                interval = cell["scores"].get(score, {})
                found = cell.get("reference_minus_this", {}).get(score, {})
                writer.writerow(
                    [model, name, result["benchmarks"][name]["protocol"], score, over["mean"], over["sd"],
                     interval.get("low"), interval.get("high"), cell["runs"], cell["folds"],
                     cell["seeds"], found.get("value"), found.get("low"), found.get("high"), found.get("p"),
                     published(result, name)]
                )  # fmt: skip
    return buffer.getvalue()


def latex(result: Mapping[str, Any]) -> str:
    """A booktabs table: rows are models, a group of columns per benchmark."""
    names = list(result["benchmarks"])
    shown = COLUMNS[:3]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * (len(names) * (len(shown) + 1)) + "}",
        r"\toprule",
    ]
    groups = " & ".join(rf"\multicolumn{{{len(shown) + 1}}}{{c}}{{{_tex(name)}}}" for name in names)
    heads = " & ".join(" & ".join([title for _, title in shown] + ["published F1"]) for _ in names)
    lines += [rf" & {groups} \\", rf"model & {heads} \\", r"\midrule"]
    for model in result["models"]:
        cells = []
        for name in names:
            cell = result["cells"][model].get(name)
            cells += [_tex_score(cell, score) for score, _ in shown]
            cells.append(published(result, name).replace("–", "--"))
        lines.append(rf"{_tex(model)} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    for character in "\\&%$#_{}":
        text = text.replace(character, rf"\{character}" if character != "\\" else r"\textbackslash ")
    return text


def _tex_score(cell: Mapping[str, Any] | None, name: str) -> str:
    if cell is None or cell["over_runs"][name]["mean"] is None:
        return "--"
    mean, sd = cell["over_runs"][name]["mean"], cell["over_runs"][name]["sd"]
    return f"${100 * mean:.1f}" + ("$" if sd is None else rf" \pm {100 * sd:.1f}$")


def picture(path: Path, result: Mapping[str, Any]) -> None:
    """Point and 95 % interval of each model, a panel per benchmark and score; the published F1 as a dashed line."""
    from usfmae.tasks.plots import ACCENT, INK, SECOND, new_figure, plain_axes, save_png

    names, models = list(result["benchmarks"]), result["models"]
    shown = (COLUMNS[0], COLUMNS[2])
    figure = new_figure(3.4 * len(shown) + 1.6, (0.36 * len(models) + 1.1) * len(names))
    grid = figure.subplots(len(names), len(shown), squeeze=False, sharey="row")
    for row, name in enumerate(names):
        for column, (score, title) in enumerate(shown):
            axes = grid[row, column]
            for place, model in enumerate(models):
                cell = result["cells"][model].get(name)
                if cell is None:
                    continue
                one = cell["scores"][score]
                colour = ACCENT if place == 0 else INK
                axes.plot([100 * one["low"], 100 * one["high"]], [place] * 2, color=colour, linewidth=1.5)
                axes.plot([100 * one["value"]], [place], "o", color=colour, markersize=5)
            figures = result["benchmarks"][name]["published"]
            if score == "f1_weighted" and "f1" in figures:
                axes.axvline(figures["f1"], color=SECOND, linestyle="--", linewidth=1)
                axes.set_xlabel("dashed: USF-MAE paper, published", fontsize=7, color=SECOND)
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.set_title(f"{name}: {title} (%)", fontsize=9, color=INK, loc="left")
            plain_axes(axes)
    save_png(figure, path)
