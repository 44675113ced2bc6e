"""`usfmae show`: one page about a model: a map of its features, where it looks, what it paints, what it finds alike.

    OUT/map.png  OUT/looks.png  OUT/reconstruction.png  OUT/neighbours.png  OUT/index.html

The page holds its pictures; it needs no other file and no network. What a model cannot show (a decoder it does not
have, classes it never learned) is left out, and the page says so.
"""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from openus import __version__, console
from openus.errors import UsageError, did_you_mean
from usfmae.model.layouts import WeightsError
from usfmae.model.masking import MASKINGS
from usfmae.model.painting import draw_grid, paint
from usfmae.model.weights import build_mae, load_weights, write_atomic
from usfmae.stream.index import open_index
from usfmae.tasks.data.pixels import decode_rows
from usfmae.tasks.network.attention import enlarge, gradient_map, rollout
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.features import extract
from usfmae.tasks.network.finetuned import load_model
from usfmae.tasks.network.lineage import own_size
from usfmae.tasks.network.start import Start, read_folder_config
from usfmae.tasks.recipe import Aspect
from usfmae.tasks.report.plots import looks_png, map_png, neighbours_png

RATIOS = (0.25, 0.5, 0.75, 0.9)
Layout = Literal["pca", "umap"]
_COLUMNS = ("source", "anatomy", "kind", "set", "split")


@dataclass(frozen=True)
class Section:
    """A picture of the page, with what it shows; without a picture, why there is none."""

    title: str
    text: str
    picture: Path | None = None


def show(
    model: Path,
    data: str,
    out: Path,
    *,
    set_name: str = "pretrain",
    colour: str = "source",
    layout: Layout = "pca",
    count: int = 8,
    most: int = 1500,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Make the page of a model on a set of a corpus; returns its path.

    colour: a column of the rows (source, anatomy, kind, set, split) or a label; layout and most: of the map and its
    points; count: pictures in each sheet. Raises UsageError, CorpusError, WeightsError.
    """
    config = read_folder_config(str(model))
    shape = config.get("input", {})
    side = int(size or shape.get("size") or own_size(Start(weights=str(model))) or 224)
    aspect: Aspect = shape.get("aspect", "stretch")
    on = pick_device(device)
    network = build(Start(weights=str(model)), outputs=0, size=side, pool="token").to(on)
    index = open_index(data, set_name)
    rows = np.sort(np.random.default_rng(seed).permutation(index.count)[:most]).astype(np.int64)
    table = index.table.take(rows)
    words = colours(table, colour)
    images = decode_rows(index, rows, size=side, aspect=aspect)
    with console.progress(quiet, "images") as bar:
        task = bar.add_task("embed", total=len(rows))
        features = extract(network, images, on_batch=lambda done: bar.update(task, completed=done))
    out.mkdir(parents=True, exist_ok=True)
    few = np.random.default_rng(seed).permutation(len(rows))[:count]
    keys = table.column("key").to_pylist()
    clips = [
        clip or patient or key
        for clip, patient, key in zip(
            table.column("clip").to_pylist(), table.column("patient").to_pylist(), keys, strict=True
        )
    ]
    sections = [
        _map(out / "map.png", features, words, colour, layout, seed),
        _looks(out / "looks.png", model, config, network, images[few], [keys[i] for i in few], on),
        _reconstruction(out / "reconstruction.png", model, images[few[: min(count, 4)], 0], seed),
        _neighbours(out / "neighbours.png", features, images, few[: min(count, 6)], clips, words),
    ]
    page = out / "index.html"
    write_atomic(
        page,
        render(model.name, f"{len(rows):,} of {index.count:,} images of set {set_name}", sections).encode(),
    )
    return page


def colours(table: Any, colour: str) -> list[str]:
    """The word by which each row is coloured: a column, or a label; UsageError for neither."""
    if colour in _COLUMNS:
        return [str(word) for word in table.column(colour).to_pylist()]
    labels = [dict(pairs) for pairs in table.column("labels").to_pylist()]
    known = sorted({name for row in labels for name in row})
    if colour not in known:
        choices = [*_COLUMNS, *known]
        raise UsageError(
            f"no column or label '{colour}'{did_you_mean(colour, choices)} (known: {', '.join(choices)})"
        )
    return [row.get(colour, "") for row in labels]


def project(features: NDArray[np.float32], how: Layout = "pca", seed: int = 0) -> NDArray[np.float32]:
    """Features [N, D] to points of a plane [N, 2]; UsageError where UMAP is asked for and not installed.

    ``pca``: the first two principal components, each with its larger end positive. ``umap``: McInnes et al. 2018, by
    cosine, the same for the same seed.
    """
    if how == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise UsageError(
                "--map umap needs umap-learn; install it with: pip install 'openus[umap]'"
            ) from error
        near = min(15, len(features) - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a fixed seed leaves one thread: wanted
            fitted = UMAP(n_neighbors=near, metric="cosine", random_state=seed, init="pca").fit_transform(
                features
            )
        return np.asarray(fitted, np.float32)
    centred = features.astype(np.float64) - features.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][range(len(axes[:2])), np.abs(axes[:2]).argmax(1)])[:, None]
    points: NDArray[np.float32] = (centred @ axes.T).astype(np.float32)
    return points


def nearest(
    features: NDArray[np.float32], queries: Sequence[int], groups: Sequence[str], k: int = 5
) -> NDArray[np.int64]:
    """The k nearest samples by cosine of each query, of other clips (or patients) than its own: [Q, k], -1 for none."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    who = np.unique(np.asarray(groups), return_inverse=True)[1]
    found = np.full((len(queries), k), -1, np.int64)
    for place, query in enumerate(queries):
        similar = unit @ unit[query]
        similar[who == who[query]] = -np.inf
        order = np.argsort(-similar, kind="stable")[:k]
        order = order[np.isfinite(similar[order])]
        found[place, : len(order)] = order
    return found


def _map(
    path: Path, features: NDArray[np.float32], words: list[str], colour: str, how: Layout, seed: int
) -> Section:
    map_png(path, project(features, how, seed), words)
    what = {
        "pca": "First two principal components of the mean patch token of each image",
        "umap": "UMAP of the mean patch token of each image (cosine; neighbourhoods count, axes and sizes do not)",
    }
    text = (
        f"{what[how]}, coloured by {colour}. Distances in the plane are only part of the distances there are."
    )
    return Section("Features", text, path)


def _looks(
    path: Path, model: Path, config: dict[str, Any], network: Network, images: NDArray[np.uint8], titles: list[str],
    device: torch.device,
) -> Section:  # fmt: skip
    pixels = torch.from_numpy(images).to(device).float().div_(255)
    side = images.shape[-1]
    maps: dict[str, NDArray[Any]] = {}
    missing = []
    try:
        maps["attention rollout"] = enlarge(rollout(network, pixels), side).cpu().numpy()
    except UsageError as error:
        missing.append(str(error))
    if config.get("kind") == "classifier":
        judge = load_model(model, str(device)).network
        maps["evidence for the decision"] = enlarge(gradient_map(judge, pixels), side).cpu().numpy()
    else:
        missing.append("the model has no classes, so there are no gradient maps")
    text = "Where information comes from (rollout: mean over heads, through all layers). A map explains little alone."
    if missing:
        text += " Left out: " + "; ".join(missing) + "."
    if not maps:
        return Section("Where it looks", text)
    looks_png(path, images[:, 0], maps, titles)
    return Section("Where it looks", text, path)


def _reconstruction(path: Path, model: Path, images: NDArray[np.uint8], seed: int) -> Section:
    title = "What it paints"
    try:
        weights = load_weights(model)
        mae = build_mae(weights, img_size=images.shape[-1])
    except WeightsError:
        return Section(
            title, "Left out: the model has no decoder; give the pretraining run to see reconstructions."
        )
    painted = []
    ratios = [ratio for ratio in RATIOS if int(mae.config.num_patches * (1 - ratio)) > 0]
    for ratio in ratios:
        mae.config = mae.config.with_(mask_ratio=ratio)
        titles = [f"{ratio:.0%} hidden"] * len(images)
        painted += paint(mae, images, [seed + i for i in range(len(images))], titles, MASKINGS["random"])
    draw_grid(painted, path, "Input, masked input, reconstruction")
    return Section(
        title, f"The same images with {', '.join(f'{r:.0%}' for r in ratios)} of their patches hidden.", path
    )


def _neighbours(
    path: Path, features: NDArray[np.float32], images: NDArray[np.uint8], queries: NDArray[np.int64],
    groups: list[str], words: list[str],
) -> Section:  # fmt: skip
    found = nearest(features, queries.tolist(), groups)
    neighbours_png(path, images[:, 0], queries.tolist(), found, words)
    return Section(
        "What it finds alike", "Left: an image; right: the nearest ones of other clips and patients.", path
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.5rem}img{max-width:100%;height:auto}"
    "p{color:#52606d;max-width:44rem}"
)


def render(name: str, what: str, sections: Sequence[Section]) -> str:
    """The page, whole in one file."""
    parts = []
    for section in sections:
        parts.append(f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        if section.picture is not None:
            data = base64.b64encode(section.picture.read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
        parts.append("</section>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(name)}</h1>"
        f"<p>{html.escape(what)}. usfmae {__version__}. For research; not a medical device.</p>{''.join(parts)}"
        "</body></html>\n"
    )
