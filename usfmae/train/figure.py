"""The curves of a run in one picture: ``RUN/curves.png``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from usfmae.train.log import read_log

BLUE, GREY = "#2f6f9f", "#9aa5ad"
MOST_SOURCES = 8


def draw_run(run: Path) -> Path | None:
    """Loss, loss of each source, learning rate and speed, from log.jsonl; None while there is no line yet."""
    lines = [line for line in read_log(run) if "loss" in line]
    if not lines:
        return None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    (loss, sources), (rate, speed) = figure.subplots(2, 2)
    x = [line["epoch"] for line in lines]
    loss.plot(x, [line["loss"] for line in lines], color=BLUE, lw=1.5)
    _label(loss, "loss", "mean squared error of hidden patches")
    _by_source(sources, x, lines)
    rate.plot(x, [line["lr"] for line in lines], color=BLUE, lw=1.5)
    _label(rate, "learning rate", "")
    speed.plot(x, [line["images_per_second"] for line in lines], color=BLUE, lw=1.5)
    speed.set_ylim(bottom=0)
    waits = sum(line["data_wait"] for line in lines) / len(lines)
    _label(speed, f"images a second (waiting for data {waits:.1%} of the time)", "")
    probes = [(line["epoch"], line["probe"]["linear"]) for line in read_log(run) if "probe" in line]
    if probes:
        twin = loss.twinx()
        twin.plot(*zip(*probes, strict=True), color="#c2703d", marker="o", ms=3, lw=1)
        twin.set_ylabel("linear probe, balanced accuracy", color="#c2703d", fontsize=8)
        twin.set_ylim(0, 1)
        twin.tick_params(labelsize=8)
        twin.spines["top"].set_visible(False)
    path = run / "curves.png"
    temporary = run / ".curves.part"
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
    return path


def _by_source(axes: Any, x: list[float], lines: list[dict[str, Any]]) -> None:
    """One line for each of the sources most often seen; the rest would be a tangle."""
    counts: dict[str, int] = {}
    for line in lines:
        for name in line["loss_by_source"]:
            counts[name] = counts.get(name, 0) + 1
    names = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_SOURCES]
    for name in names:
        points = [
            (e, line["loss_by_source"][name])
            for e, line in zip(x, lines, strict=True)
            if name in line["loss_by_source"]
        ]
        axes.plot(*zip(*points, strict=True), lw=1, label=name)
    if names:
        axes.legend(fontsize=7, frameon=False)
    _label(axes, "loss by source", "")


def _label(axes: Any, title: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8, color=GREY)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
