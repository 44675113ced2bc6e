"""Pictures of results: confusion matrix, learning curves. Drawn off screen, written as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from usfmae.tasks.network.prediction import Prediction

INK, ACCENT, SECOND, GRID = "#1f2933", "#0b7285", "#e8590c", "#dde3e8"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) with a layout that fits its labels; no window, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; the file appears whole, and holds no date."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    temporary = path.with_name(f".{path.name}.part")
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(temporary, metadata={"Software": None})  # type: ignore[no-untyped-call]
    temporary.replace(path)


def plain_axes(axes: Any) -> None:
    """Take away what carries no information."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=8)


def confusion_png(path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """The confusion matrix [C, C] (row: true class): counts, shaded by the share of the true class."""
    count = len(classes)
    figure = new_figure(2.6 + 0.62 * count, 2.0 + 0.55 * count)
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=1)
    for row in range(count):
        for column in range(count):
            colour = "white" if share[row, column] > 0.6 else INK
            text = f"{counts[row, column]}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    angle = 45 if max(map(len, classes)) * count > 24 else 0
    axes.set_xticks(range(count), classes, rotation=angle, ha="right" if angle else "center")
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("decision", color=INK, fontsize=9)
    axes.set_ylabel("truth", color=INK, fontsize=9)
    axes.set_title(title, color=INK, fontsize=9, loc="left")
    axes.tick_params(length=0, labelsize=8, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    save_png(figure, path)


def curves_png(path: Path, history: Sequence[Mapping[str, float]], monitor: str, best: int) -> None:
    """Losses and the monitored validation score over epochs; the epoch that was kept is marked."""
    figure = new_figure(6.4, 2.6)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in history]
    for name, colour in (("train_loss", INK), ("val_loss", SECOND)):
        if name in history[0]:
            left.plot(
                epochs, [_value(row, name) for row in history], color=colour, label=name.replace("_", " ")
            )
    left.legend(frameon=False, fontsize=8)
    if monitor != "loss":
        right.plot(epochs, [row[f"val_{monitor}"] for row in history], color=ACCENT)
        right.set_title(f"validation {monitor}", fontsize=9, color=INK, loc="left")
    left.set_title("loss", fontsize=9, color=INK, loc="left")
    for axes in (left, right):
        axes.axvline(best + 1, color=GRID, zorder=0)
        axes.set_xlabel("epoch (grey line: kept)", fontsize=8, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
        plain_axes(axes)
    save_png(figure, path)


def _value(row: Mapping[str, float], name: str) -> float:
    # The validation loss is stored with its sign turned, so that higher is better for every score.
    return -row[name] if name == "val_loss" else row[name]


def predictions_png(path: Path, results: Sequence[Prediction]) -> None:
    """One panel per file that was answered: the picture the network saw, its mask if any, and its numbers."""
    shown = [result for result in results if result.image is not None][:24]
    if not shown:
        return
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.4 * columns, 2.9 * rows)
    grid = figure.subplots(2 * rows, columns, height_ratios=[4, 1] * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, result in enumerate(shown):
        top, below = (grid[2 * (number // columns) + half, number % columns] for half in (0, 1))
        top.imshow(result.image, cmap="gray", vmin=0, vmax=255)
        if result.mask is not None and result.mask.any():
            top.contour(result.mask > 0, levels=[0.5], colors=[SECOND], linewidths=[1.4])
        top.set_title(Path(result.path).name[-28:], fontsize=7, color=INK, loc="left")
        if result.task == "regressor":
            below.text(0.0, 0.5, f"{result.classes[0]}: {result.decision}", fontsize=8, color=INK)
            continue
        places = range(len(result.classes))
        below.barh(places, result.values, color=ACCENT, alpha=0.35, height=0.7)  # words stand on it
        for place, (name, value) in enumerate(zip(result.classes, result.values, strict=True)):
            below.text(0.0, place, f" {name} {value:.2f}", va="center", fontsize=7, color=INK)
        below.set_xlim(0, 1)
        below.invert_yaxis()
    save_png(figure, path)


def fractions_png(path: Path, table: Sequence[Mapping[str, Any]], title: str) -> None:
    """Score over the share of labels: a line per head, mean over folds and draws, band of one deviation."""
    figure = new_figure(6.4, 2.8)
    panels = figure.subplots(1, 2)
    heads = sorted({row["head"] for row in table if "auroc" in row["mean"]})
    for axes, (score, name) in zip(panels, (("auroc", "AUROC"), ("f1_macro", "F1 macro")), strict=True):
        for head, colour in zip(heads, (ACCENT, SECOND, INK), strict=False):
            rows = [row for row in table if row["head"] == head and row["mean"][score]["mean"] is not None]
            x = [100 * row["fraction"] for row in rows]
            mean = np.array([row["mean"][score]["mean"] for row in rows])
            sd = np.array([row["mean"][score]["sd"] or 0.0 for row in rows])
            axes.plot(x, mean, color=colour, marker="o", markersize=3, label=head)
            axes.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        shown = sorted({100 * row["fraction"] for row in table})
        axes.set_xticks(shown, [f"{value:g} %" for value in shown], minor=False)
        axes.minorticks_off()
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("labels used", fontsize=8, color=INK)
        plain_axes(axes)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
    save_png(figure, path)


def masks_png(path: Path, sheet: Sequence[tuple[Any, Any, Any, float]], title: str) -> None:
    """Test images from the worst to the best: outline of the truth (thin) and of the decision (thick), and Dice."""
    columns = min(4, len(sheet))
    rows = -(-len(sheet) // columns)
    figure = new_figure(2.2 * columns, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (image, truth, decision, dice) in zip(grid.flat, sheet, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        for mask, colour, width in ((decision, SECOND, 1.6), (truth, "white", 0.8)):
            if mask.any() and not mask.all():
                axes.contour(mask > 0, levels=[0.5], colors=[colour], linewidths=[width])
        axes.set_title(f"Dice {dice:.2f}", fontsize=7, color=INK, loc="left", pad=2)
    figure.suptitle(
        f"{title}\ntruth white, decision orange; worst to best", fontsize=8, color=INK, x=0.01, ha="left"
    )
    save_png(figure, path)


def agreement_png(path: Path, truth: NDArray[Any], found: NDArray[Any], name: str, title: str) -> None:
    """Found against true values, with the line of equality."""
    figure = new_figure(3.6, 3.6)
    axes = figure.add_subplot()
    low, high = float(min(truth.min(), found.min())), float(max(truth.max(), found.max()))
    axes.plot([low, high], [low, high], color=GRID, zorder=0)
    axes.scatter(truth, found, s=8, color=ACCENT, alpha=0.5, linewidths=0)
    axes.set_xlabel(f"{name}, truth", fontsize=8, color=INK)
    axes.set_ylabel(f"{name}, found", fontsize=8, color=INK)
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    plain_axes(axes)
    save_png(figure, path)


_PALETTE = (
    "#0b7285",
    "#e8590c",
    "#5f3dc4",
    "#2b8a3e",
    "#c2255c",
    "#1864ab",
    "#e67700",
    "#495057",
    "#087f5b",
    "#862e9c",
)


def map_png(path: Path, points: NDArray[np.float32], words: Sequence[str]) -> None:
    """Points [N, 2] coloured by word; beyond ten words the rarest share one colour."""
    names, counts = np.unique(np.asarray(words), return_counts=True)
    common = [str(name) for name in names[np.argsort(-counts, kind="stable")][: len(_PALETTE) - 1]]
    figure = new_figure(6.4, 4.6)
    axes = figure.add_subplot()
    groups = [(name, name) for name in common] + ([("others", "")] if len(names) > len(common) else [])
    for (label, name), colour in zip(groups, _PALETTE, strict=False):
        chosen = np.array([word == name if name else word not in common for word in words])
        axes.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=7,
            color=colour,
            alpha=0.6,
            linewidths=0,
            label=label or "–",
        )
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    axes.set_xlabel("component 1", fontsize=8, color=INK)
    axes.set_ylabel("component 2", fontsize=8, color=INK)
    plain_axes(axes)
    save_png(figure, path)


def looks_png(
    path: Path, images: NDArray[np.uint8], maps: Mapping[str, NDArray[Any]], titles: Sequence[str]
) -> None:
    """A column per image: the picture, then each map laid over it."""
    rows = 1 + len(maps)
    figure = new_figure(1.6 * len(images) + 0.2, 1.75 * rows)
    grid = figure.subplots(rows, len(images), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        grid[0, column].imshow(image, cmap="gray", vmin=0, vmax=255)
        grid[0, column].set_title(title[-22:], fontsize=5, color=INK, loc="left", pad=2)
        for row, (name, values) in enumerate(maps.items(), 1):
            grid[row, column].imshow(image, cmap="gray", vmin=0, vmax=255)
            grid[row, column].imshow(values[column], cmap="inferno", alpha=0.5)
            if column == 0:
                grid[row, 0].set_title(name, fontsize=7, color=INK, loc="left", pad=2)
    save_png(figure, path)


def neighbours_png(
    path: Path,
    images: NDArray[np.uint8],
    queries: Sequence[int],
    found: NDArray[np.int64],
    words: Sequence[str],
) -> None:
    """A row per query: the image, then its nearest ones, each with its word."""
    columns = 1 + found.shape[1]
    figure = new_figure(1.5 * columns, 1.7 * len(queries))
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, query in enumerate(queries):
        for column, place in enumerate([query, *found[row].tolist()]):
            if place < 0:
                continue
            grid[row, column].imshow(images[place], cmap="gray", vmin=0, vmax=255)
            colour = ACCENT if column == 0 else INK
            grid[row, column].set_title(words[place][:20], fontsize=6, color=colour, loc="left", pad=2)
    save_png(figure, path)
