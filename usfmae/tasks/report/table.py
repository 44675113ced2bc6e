"""The table of a benchmark: Markdown, CSV, LaTeX, and a picture with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usfmae.model.weights import write_atomic
from usfmae.tasks.report.names import NAMES
from usfmae.tasks.report.plots import ACCENT, INK, SECOND, new_figure, plain_axes, save_png

_PLAIN = ("mae", "rmse", "r2", "pearson")  # in the label's unit, or never in per cent
_PUBLISHED = {"f1": "F1", "map": "mAP", "map_50": "mAP@50"}
_SAME_AS = {"f1_weighted": "f1"}  # the paper's F1 is weighted, by all that its authors' other papers say


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """Write table.md, table.csv, table.tex and table.png from what results.json holds."""
    write_atomic(out / "table.md", markdown(result).encode())
    write_atomic(out / "table.csv", comma_separated(result).encode())
    write_atomic(out / "table.tex", latex(result).encode())
    picture(out / "table.png", result)


def heading(name: str) -> str:
    """A score's column head."""
    return NAMES[name] if name in _PLAIN else f"{NAMES[name]} (%)"


def published(result: Mapping[str, Any], name: str) -> dict[str, str]:
    """The figures of the paper for a benchmark, by what they are of: ``{"F1": "81.6"}``; empty where there are none."""
    figures = result["benchmarks"][name]["published"]
    return {_PUBLISHED.get(key, key): f"{value:g}" for key, value in figures.items()}


def markdown(result: Mapping[str, Any]) -> str:
    """A section per benchmark, a row per model."""
    lines = []
    reference = result["models"][0]
    for name, facts in result["benchmarks"].items():
        shown, figures = facts["shown"], published(result, name)
        leaky = any("without_leaks" in cells.get(name, {}) for cells in result["cells"].values())
        heads = ["model", *(heading(score) for score in shown)]
        heads += [f"{heading(shown[0])} without leaked test samples"] if leaky else []
        heads += [f"{reference} minus this, {NAMES[shown[0]]} (p)"]
        heads += [f"USF-MAE paper, {what} (%), published" for what in figures]
        lines += [f"## {facts['title']}", "", "| " + " | ".join(heads) + " |"]
        lines += ["|---|" + "---:|" * (len(heads) - 1)]
        for model in result["models"]:
            cell = result["cells"][model].get(name)
            if cell is None:
                lines.append(f"| {model} | " + " | ".join(["failed"] + ["–"] * (len(heads) - 2)) + " |")
                continue
            row = [model, *(_score(cell, score) for score in shown)]
            row += [_mean_sd(cell.get("without_leaks", cell["over_runs"]), shown[0])] if leaky else []
            row += [_difference(cell, shown[0]), *figures.values()]
            lines.append("| " + " | ".join(row) + " |")
        lines += ["", _caption(result, name), ""]
        for model in result["models"]:
            known = result["cells"][model].get(name, {}).get("known_images", [])
            lines += [f"- **{model}**: {note}" for note in known] + [""] * bool(known)
    lines += [f"failed: {item['run']}: {item['error']}" for item in result["failed"]]
    return "\n".join(lines).rstrip() + "\n"


def _caption(result: Mapping[str, Any], name: str) -> str:
    cells = [cells[name] for cells in result["cells"].values() if name in cells]
    if not cells:
        return ""
    cell = cells[0]
    leaks = (
        " Some test samples also stand in the training or validation part, as the split was published (leaks in "
        "metrics.json of the runs)."
        if any(c["runs_with_leaks"] for c in cells)
        else ""
    )
    figures = (
        " Published figures are the authors' own, under a split and an averaging they do not state."
        if published(result, name)
        else ""
    )
    protocol = result["benchmarks"][name]["protocol"]
    counts = ", ".join(
        f"{cell[what]} {what.removesuffix('s') if cell[what] == 1 else what}" for what in ("folds", "seeds")
    )
    return (
        f"Protocol `{protocol}`, {counts}: mean ± sd over runs, in brackets "
        "the 95 % interval of the mean (patients drawn with replacement within each fold). p: two-sided permutation "
        f"test over patients.{figures}{leaks}"
    )


def _number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.3f}" if name in _PLAIN else f"{100 * value:{sign}.1f}"


def _mean_sd(over: Mapping[str, Any], name: str) -> str:
    mean, sd = over[name]["mean"], over[name]["sd"]
    return _number(name, mean) + ("" if sd is None or mean is None else f" ± {_number(name, sd)}")


def _score(cell: Mapping[str, Any], name: str) -> str:
    low, high = (_number(name, cell["scores"][name][edge]) for edge in ("low", "high"))
    return _mean_sd(cell["over_runs"], name) + ("" if low == "–" else f" [{low}, {high}]")


def _difference(cell: Mapping[str, Any], name: str) -> str:
    found = cell.get("reference_minus_this")
    if found is None:
        return "reference"
    one = found[name]
    if one["value"] is None:
        return "–"
    value, low, high = (_number(name, one[key], "+") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}] (p = {one['p']:.3f})"


def comma_separated(result: Mapping[str, Any]) -> str:
    """A line per model, benchmark and score, for other programs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["model", "benchmark", "protocol", "score", "mean", "sd", "low", "high", "runs", "folds", "seeds",
         "without_leaks", "reference_minus_this", "difference_low", "difference_high", "p",
         "published_percent"]
    )  # fmt: skip
    for model in result["models"]:
        for name, cell in result["cells"][model].items():
            for score, over in cell["over_runs"].items():
                interval = cell["scores"].get(score, {})
                found = cell.get("reference_minus_this", {}).get(score, {})
                writer.writerow(
                    [model, name, result["benchmarks"][name]["protocol"], score, over["mean"], over["sd"],
                     interval.get("low"), interval.get("high"), cell["runs"], cell["folds"],
                     cell["seeds"], cell.get("without_leaks", {}).get(score, {}).get("mean"),
                     found.get("value"), found.get("low"), found.get("high"), found.get("p"),
                     " ".join(f"{what}={value}" for what, value in published(result, name).items())]
                )  # fmt: skip
    return buffer.getvalue()


def latex(result: Mapping[str, Any]) -> str:
    """A booktabs table: rows are models, a group of columns per benchmark."""
    names = list(result["benchmarks"])
    shown = {name: result["benchmarks"][name]["shown"][:3] for name in names}
    figures = {name: published(result, name) for name in names}
    wide = {name: len(shown[name]) + len(figures[name]) for name in names}
    heads = [
        [_tex(heading(score)) for score in shown[name]]
        + [_tex(f"{what} (%), published") for what in figures[name]]
        for name in names
    ]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * sum(wide.values()) + "}",
        r"\toprule",
        " & " + " & ".join(rf"\multicolumn{{{wide[name]}}}{{c}}{{{_tex(name)}}}" for name in names) + r" \\",
        "model & " + " & ".join(" & ".join(head) for head in heads) + r" \\",
        r"\midrule",
    ]
    for model in result["models"]:
        cells = []
        for name in names:
            cell = result["cells"][model].get(name)
            cells += [_tex_score(cell, score) for score in shown[name]]
            cells += figures[name].values()
        lines.append(rf"{_tex(model)} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    for character in "\\&%$#_{}":
        text = text.replace(character, rf"\{character}" if character != "\\" else r"\textbackslash ")
    return text


def _tex_score(cell: Mapping[str, Any] | None, name: str) -> str:
    if cell is None or cell["over_runs"][name]["mean"] is None:
        return "--"
    return "$" + _mean_sd(cell["over_runs"], name).replace("±", r"\pm") + "$"


def picture(path: Path, result: Mapping[str, Any]) -> None:
    """Point and 95 % interval of each model, a panel per benchmark and score; published figures as dashed lines."""
    names, models = list(result["benchmarks"]), result["models"]
    figure = new_figure(8.4, (0.36 * len(models) + 1.1) * len(names))
    grid = figure.subplots(len(names), 2, squeeze=False, sharey="row")
    for row, name in enumerate(names):
        facts = result["benchmarks"][name]
        for column, score in enumerate((facts["shown"][0], facts["shown"][2])):
            axes, scale = grid[row, column], 1 if score in _PLAIN else 100
            for place, model in enumerate(models):
                one = result["cells"][model].get(name, {}).get("scores", {}).get(score)
                if one is None or one["value"] is None:
                    continue
                colour = ACCENT if place == 0 else INK
                if one["low"] is not None:
                    axes.plot(
                        [scale * one["low"], scale * one["high"]], [place] * 2, color=colour, linewidth=1.5
                    )
                axes.plot([scale * one["value"]], [place], "o", color=colour, markersize=5)
            known = facts["published"].get(_SAME_AS.get(score, score))
            if known is not None:
                axes.axvline(known, color=SECOND, linestyle="--", linewidth=1)
                axes.set_xlabel("dashed: USF-MAE paper, published", fontsize=7, color=SECOND)
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.set_title(f"{name}: {heading(score)}", fontsize=9, color=INK, loc="left")
            plain_axes(axes)
    save_png(figure, path)
