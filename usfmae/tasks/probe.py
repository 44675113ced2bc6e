"""`usfmae probe`: frozen features of an encoder, judged by simple heads on the folds of a benchmark.

OUT/probe.json           per head and label share: scores with intervals, over folds and seeds
OUT/predictions.parquet  a row per head, share, fold, seed and test sample
OUT/curve.png            score over the share of labels used, where several shares were asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openus import __version__, console
from openus.errors import UsageError, did_you_mean
from openus.manifest import Benchmark
from usfmae.tasks.data.labelled import LabelledSet, find_benchmark, load_labelled
from usfmae.tasks.data.pixels import grey_statistics
from usfmae.tasks.data.splits import Split, subsample
from usfmae.tasks.finetune import choose_folds
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.features import Pool, extract, extract_tokens
from usfmae.tasks.network.lineage import seen_notes
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import Aspect
from usfmae.tasks.report.plots import fractions_png
from usfmae.tasks.runs import write_json
from usfmae.tasks.scores.bootstrap import means_with_intervals
from usfmae.tasks.scores.classification import classification
from usfmae.tasks.scores.compare import summary
from usfmae.tasks.training.heads import attentive, knn, linear, retrieval

HEADS = ("knn", "linear", "attentive", "retrieval")
Ints = NDArray[np.int64]


@dataclass
class Frozen:
    """A labelled set and what a frozen network makes of it."""

    data: LabelledSet
    features: NDArray[np.float32]
    tokens: Tensor | None


def probe(
    data: str | Path,
    benchmark: str,
    start: Start,
    out: Path,
    *,
    heads: Sequence[str] = ("knn", "linear"),
    fractions: Sequence[float] = (1.0,),
    seeds: int = 1,
    protocol: str | None = None,
    folds: Sequence[int] | None = None,
    size: int = 224,
    aspect: Aspect = "stretch",
    pool: Pool = "mean",
    frames_per_clip: int | None = 16,
    resamples: int = 1000,
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge frozen features; returns what probe.json holds.

    start: ``{fold}`` in the path of its weights stands for the fold, each judged by an encoder of its own.
    fractions: shares of the training labels (whole patients); each is drawn `seeds` times, the whole once per
    fold. Raises UsageError, CorpusError, WeightsError.
    """
    check_heads(heads)
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"a label share must lie above 0 and at most 1, found {fraction:g}")
    declared = find_benchmark(benchmark)
    if declared.task != "classification":
        raise UsageError(f"benchmark '{benchmark}' is a {declared.task}; probes judge classifications")
    protocol = protocol or next(iter(declared.protocols))
    labelled = _decode(data, declared, size, aspect, frames_per_clip, quiet)
    jobs = [
        (head, fraction, seed, split)
        for head in heads
        for fraction in sorted(set(fractions))
        for seed in range(seeds if fraction < 1 else 1)
        for split in choose_folds(labelled.splits(protocol, seed), folds)
    ]
    owners: dict[Start, list[int]] = {}
    for place, (_, _, _, split) in enumerate(jobs):
        owners.setdefault(start.of_fold(split.name), []).append(place)
    runs: dict[int, dict[str, Any]] = {}
    notes: list[str] = []
    for owner, places in owners.items():  # features of one encoder at a time are held
        frozen = freeze(
            labelled, owner, size=size, pool=pool, tokens="attentive" in heads, device=device, quiet=quiet
        )
        with console.progress(quiet, "probes") as bar:
            for place in bar.track(places, description="probe"):
                runs[place] = run_head(frozen, *jobs[place], resamples)
                notes += seen_notes(owner, labelled, jobs[place][3])
    settings = {"size": size, "aspect": aspect, "pool": pool}
    notes = list(dict.fromkeys(notes))
    ordered = [runs[place] for place in sorted(runs)]
    return _write(out, labelled, ordered, start, protocol, settings, int(frozen.features.shape[1]), notes)


def check_heads(heads: Sequence[str]) -> None:
    """Raise UsageError for a head there is not."""
    for head in heads:
        if head not in HEADS:
            raise UsageError(f"no probe '{head}'{did_you_mean(head, HEADS)} (known: {', '.join(HEADS)})")


def _decode(
    data: str | Path,
    benchmark: Benchmark,
    size: int,
    aspect: Aspect,
    frames_per_clip: int | None,
    quiet: bool,
) -> LabelledSet:
    with console.progress(quiet, "images") as bar:
        decoding = bar.add_task("decode", total=None)
        return load_labelled(
            data, benchmark, size=size, aspect=aspect, frames_per_clip=frames_per_clip,
            on_image=lambda done, total: bar.update(decoding, completed=done, total=total),
        )  # fmt: skip


def freeze(
    labelled: LabelledSet, start: Start, *, size: int, pool: Pool, tokens: bool, device: str, quiet: bool
) -> Frozen:
    """Pass a labelled set once through a network that is not trained."""
    torch.manual_seed(0)  # weights that nobody gave are drawn, the same each time
    network: Network = build(
        start, outputs=0, size=size, pool="token", grey=grey_statistics(labelled.images)
    ).to(pick_device(device))
    with console.progress(quiet, "images") as bar:
        embedding = bar.add_task("embed", total=len(labelled) * (1 + tokens))
        features = extract(
            network, labelled.images, pool=pool, on_batch=lambda done: bar.update(embedding, completed=done)
        )
        every = None
        if tokens:
            every = extract_tokens(
                network, labelled.images,
                on_batch=lambda done: bar.update(embedding, completed=len(labelled) + done),
            )  # fmt: skip
    return Frozen(labelled, features, every)


def run_head(
    frozen: Frozen, head: str, fraction: float, seed: int, split: Split, resamples: int
) -> dict[str, Any]:
    """One head on one fold with a share of its labels: scores, choice, and probabilities of the test part."""
    data, x = frozen.data, frozen.features
    train = subsample(split.train, data.groups(), data.strata, fraction, (seed, 101))
    y, test = data.targets, split.test
    result: dict[str, Any] = {"head": head, "fraction": fraction, "seed": seed, "fold": split.name}
    result["labels"] = len(train)
    groups, classes = data.groups()[test], len(data.classes)
    if head == "retrieval":
        each = retrieval(x[train], y[train], x[test], y[test])
        return result | {"metrics": means_with_intervals(each, groups, resamples)}
    if head == "attentive":
        assert frozen.tokens is not None
        found, choice = attentive(
            frozen.tokens, train, y[train], split.val, y[split.val], test, classes, seed=seed
        )
    else:
        fit = knn if head == "knn" else linear
        found, choice = fit(x[train], y[train], x[split.val], y[split.val], x[test], classes)
    scored = classification(
        y[test], found, data.classes, groups=groups, positive=data.benchmark.positive, resamples=resamples
    )
    return result | {"metrics": scored["metrics"], "choice": choice, "probabilities": found, "test": test}


def _write(
    out: Path, data: LabelledSet, runs: list[dict[str, Any]], start: Start, protocol: str, settings: dict[str, Any],
    features: int, notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    _write_predictions(out / "predictions.parquet", data, runs)
    for run in runs:
        for key in ("probabilities", "test"):
            run.pop(key, None)
    keys = sorted({(run["head"], run["fraction"]) for run in runs})
    table = []
    for head, fraction in keys:
        chosen = [run for run in runs if (run["head"], run["fraction"]) == (head, fraction)]
        labels = round(float(np.mean([run["labels"] for run in chosen])), 1)
        table.append({"head": head, "fraction": fraction, "labels": labels, "mean": summary(chosen)})
    result = {
        "benchmark": data.benchmark.name, "protocol": protocol, "model": start.name, "settings": settings,
        "features": features, "table": table, "runs": runs, "notes": notes, "corpus": data.corpus,
        "version": __version__,
    }  # fmt: skip
    if len({fraction for _, fraction in keys}) > 1:
        fractions_png(out / "curve.png", table, f"{data.benchmark.name}: {start.name}, frozen")
    write_json(out / "probe.json", result)
    return result


def _write_predictions(path: Path, data: LabelledSet, runs: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for run in runs:
        if "probabilities" not in run:
            continue
        rows = run["test"].tolist()
        columns = {
            "head": [run["head"]] * len(rows), "fraction": [run["fraction"]] * len(rows),
            "seed": [run["seed"]] * len(rows), "fold": [run["fold"]] * len(rows),
            "key": [data.identity.key[i] for i in rows], "group": data.groups()[run["test"]],
            "truth": [data.classes[int(data.targets[i])] for i in rows],
        }  # fmt: skip
        columns |= {f"p_{name}": run["probabilities"][:, c] for c, name in enumerate(data.classes)}
        tables.append(pa.table(columns))
    if tables:
        pq.write_table(pa.concat_tables(tables), path)
