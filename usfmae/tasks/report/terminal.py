"""What the commands print: scores and predictions as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from openus import console
from usfmae.tasks.report.names import NAMES, PLAIN, figure

if TYPE_CHECKING:
    from usfmae.tasks.network.prediction import Prediction


def show_result(result: Mapping[str, Any], out: Path) -> None:
    """Scores of one fold, or of several with their mean, and where the files lie."""
    scores = result.get("pooled", result)["metrics"]
    means = result.get("mean")
    several = f", {len(result['folds'])} folds" if means else f", {result.get('fold', '')}"
    heading = f"{result['benchmark']}, {result['protocol']}{several}: {result['model']}"
    table = Table(title=escape(heading), title_justify="left", header_style="bold")
    for column in ("score", "mean ± sd" if means else "test", "95 % interval"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, score in scores.items():
        low, high = score["low"], score["high"]
        table.add_row(
            NAMES.get(name, name),
            _mean_sd(name, means[name]) if means else figure(name, score["value"]),
            "" if low is None else f"{figure(name, low)} – {figure(name, high)}",
        )
    console.out.print(table)
    _show_remarks(result)
    model = "the model of each fold in its folder" if means else "the model"
    console.out.print(f"written to {out}: metrics.json, pictures, {model}", markup=False, soft_wrap=True)


def show_markdown(text: str) -> None:
    """What `benchmark` wrote as table.md: on a terminal with its tables folded to the width, into a pipe as it is."""
    if not console.out.is_terminal:
        console.out.print(text, markup=False, soft_wrap=True)
        return
    table: Table | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            if table is not None:
                console.out.print(table)
                table = None
            console.out.print(
                line.removeprefix("## "), style="bold" if line.startswith("## ") else "", markup=False
            )
        elif table is None:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for number, head in enumerate(cells):
                table.add_column(escape(head), justify="right" if number else "left", no_wrap=not number)
        elif not line.startswith("|---"):
            table.add_row(*map(escape, cells))
    if table is not None:
        console.out.print(table)


def _show_remarks(result: Mapping[str, Any]) -> None:
    for note in result.get("notes", []):
        console.out.print(f"note: {note}", style="yellow", markup=False)
    for leak in result.get("leaks", []):
        console.out.print(
            f"leak: {leak['shared']} {leak['kind']} of the {leak['shared_with']} part stand in the test part "
            f"too ({leak['test_samples']} test samples); scores without them are in metrics.json",
            style="yellow",
            markup=False,
        )
    clips = result.get("per_clip")
    if clips:
        shown = ("accuracy", "f1_weighted", "f1_macro", "auroc", "auroc_macro", "mae", "pearson")
        named = ", ".join(
            f"{NAMES[name]} {figure(name, clips['metrics'][name]['value'])}"
            for name in shown
            if name in clips["metrics"]
        )
        console.out.print(f"per clip ({clips['n']}): {named}", markup=False)


def show_predictions(results: Sequence[Prediction], frames: bool) -> None:
    """A row per file, with its class probabilities; with `frames`, a row per frame below it."""
    answered = [result for result in results if not result.error]
    if not answered:
        return
    classes = answered[0].classes
    table = Table(header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("frames", justify="right")
    covers = " covers" if answered[0].task == "segmenter" else ""
    for name in (*(f"{name}{covers}" for name in classes), "decision"):
        table.add_column(escape(name), justify="right")
    for result in answered:
        shares = [f"{p:.3f}" for p in result.values]
        count = f"{len(result.frames)}" + (f" (−{len(result.refused)})" if result.refused else "")
        table.add_row(escape(result.path), count, *shares, f"[bold]{escape(result.decision)}[/]")
        if frames and len(result.frames) > 1:
            for index, row in zip(result.frames, result.frame_values, strict=True):
                table.add_row("", f"#{index}", *(f"{p:.3f}" for p in row), style="dim")
    console.out.print(table)
    console.out.print("Not a medical device: research use only.", style="dim")


def show_import(account: Mapping[str, Any]) -> None:
    """What a weights file was, and where each of its keys went."""
    known = f" ({account['known_as']})" if account["known_as"] else ""
    console.out.print(f"{account['file']}: {account['layout']}{known}", markup=False)
    what = "encoder and decoder" if account["decoder"] else "encoder"
    form = f"timm's {account['name']}" if account["family"] == "timm" else what
    console.out.print(f"  {account['tensors']} tensors kept: {form}", markup=False)
    if account["folded"]:
        console.out.print(
            f"  {len(account['folded'])} folded into others (first: {account['folded'][0]})", markup=False
        )
    for reason, keys in account["left_out"].items():
        console.out.print(f"  {len(keys)} left out, {reason} (first: {keys[0]})", markup=False)
    console.out.print(f"  normalisation {account['normalisation']}", markup=False)
    for note in account["notes"]:
        console.out.print(f"  note: {note}", markup=False)
    console.out.print(f"written to {account['out']}", markup=False)


def show_probe(result: Mapping[str, Any], out: Path) -> None:
    """A row per head and label share: mean over folds and draws, with the deviation."""
    heading = f"{result['benchmark']}, {result['protocol']}: {result['model']}, frozen"
    rows = [row for row in result["table"] if "auroc" in row["mean"]]
    if rows:
        names = ("auroc", "f1_weighted", "f1_macro", "accuracy")
        # Without lines between the columns, and units above them, so that a curve over folds fits into 80 characters.
        table = Table(
            title=escape(heading), title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0),
            pad_edge=False,
        )  # fmt: skip
        units = {name: NAMES[name] if name in PLAIN else f"{NAMES[name]} %" for name in names}
        for column in ("head", "labels", *units.values()):
            table.add_column(column, justify="left" if column == "head" else "right", no_wrap=True)
        for row in rows:
            cells = [_mean_sd(name, row["mean"][name]).removesuffix(" %") for name in names]
            table.add_row(row["head"], _share(row), *cells)
        console.out.print(table)
    for row in result["table"]:
        if row["head"] == "retrieval":
            said = ", ".join(
                f"{name.replace('_', ' ')} {score['mean']:.3f}" for name, score in row["mean"].items()
            )
            console.out.print(f"retrieval among {_share(row)}: {said}", markup=False, soft_wrap=True)
    _show_remarks(result)
    console.out.print(f"written to {out}: probe.json, predictions.parquet", markup=False)


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['fraction']:g} % ({row['labels']:.0f})"


def _mean_sd(name: str, score: Mapping[str, float | None]) -> str:
    mean = figure(name, score["mean"])
    return mean if score["sd"] is None else f"{mean.removesuffix(' %')} ± {figure(name, score['sd'])}"
