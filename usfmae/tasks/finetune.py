"""`usfmae finetune`: train on the folds of a benchmark, score the test parts, keep the best weights.

    OUT/metrics.json          scores with intervals, per class, confusion, leaks, settings
    OUT/predictions.parquet   a row per validation and test sample: key, truth, decision, probabilities
    OUT/confusion.png  OUT/curves.png
    OUT/weights.safetensors + config.json   the model `usfmae predict` takes

With several folds each has its own folder, ``OUT/fold1`` …, and ``OUT/metrics.json`` sums them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openus import console
from openus.errors import UsageError, did_you_mean
from openus.manifest import Benchmark
from openus.storage.locks import disk_told
from usfmae.model.weights import WEIGHTS
from usfmae.tasks.classify import ClassificationTask
from usfmae.tasks.data.labelled import LabelledSet, find_benchmark, load_labelled
from usfmae.tasks.data.splits import Split
from usfmae.tasks.multilabel import MultilabelTask
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.regress import RegressionTask
from usfmae.tasks.runs import METRICS, PREDICTIONS, Job, run, write_json
from usfmae.tasks.scores.compare import Answers, summary
from usfmae.tasks.segment import SegmentationTask
from usfmae.tasks.task import Task
from usfmae.train.share import compiler_told

TASKS: dict[str, type[Task]] = {
    task.kind: task for task in (ClassificationTask, MultilabelTask, RegressionTask, SegmentationTask)
}


def finetune(
    data: str | Path,
    benchmark: str,
    start: Start,
    recipe: FinetuneRecipe,
    out: Path,
    *,
    protocol: str | None = None,
    folds: Sequence[int] | None = None,
    seed: int = 0,
    fraction: float = 1.0,
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune on one fold or several, and return what metrics.json holds.

    protocol: name of the benchmark's; its first if None. folds: 1-based; all if None. A finished fold of the
    same settings is not run again, an interrupted one goes on. Raises UsageError, CorpusError, WeightsError.
    """
    on = pick_device(device)
    declared = find_benchmark(benchmark)
    protocol = protocol or next(iter(declared.protocols))
    labelled = load_with_progress(data, declared, recipe, quiet)
    task = TASKS[declared.task](labelled, recipe)
    splits = choose_folds(labelled.splits(protocol, seed), folds)
    if len(splits) > 1 and (out / WEIGHTS).exists():
        raise UsageError(f"{out}: holds the model of a single fold; give another --out for several")
    results = []
    for split in splits:
        job = Job(task, split, start.of_fold(split.name), protocol, seed, fraction)
        with disk_told(out), compiler_told():
            results.append(run(job, out if len(splits) == 1 else out / split.name, on, quiet))
    return results[0] if len(results) == 1 else sum_up(out, results, task)


def load_with_progress(
    data: str | Path, benchmark: Benchmark, recipe: FinetuneRecipe, quiet: bool, threads: int = 4
) -> LabelledSet:
    """The labelled set a recipe wants, with a progress bar while it is decoded."""
    if benchmark.task not in TASKS:
        known = f"{did_you_mean(benchmark.task, TASKS)} (known: {', '.join(TASKS)})"
        raise UsageError(f"benchmark '{benchmark.name}': cannot fine-tune for '{benchmark.task}'{known}")
    with console.progress(quiet, "images") as bar:
        decoding = bar.add_task("decode", total=None)
        return load_labelled(
            data, benchmark, size=recipe.size, aspect=recipe.aspect, frames_per_clip=recipe.frames_per_clip,
            threads=threads, on_image=lambda done, total: bar.update(decoding, completed=done, total=total),
        )  # fmt: skip


def test_part(folder: Path, task: Task) -> Answers:
    """What a finished run in `folder` says of its test samples."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return task.answers(pq.read_table(folder / PREDICTIONS).filter(pc.field("part") == "test").to_pydict())


def choose_folds(splits: list[Split], folds: Sequence[int] | None) -> list[Split]:
    """The splits with the 1-based numbers `folds`, all for None; UsageError for a number there is not."""
    if folds is None:
        return splits
    for fold in folds:
        if not 1 <= fold <= len(splits):
            raise UsageError(f"there is no fold {fold}: the protocol has 1 to {len(splits)}")
    return [splits[fold - 1] for fold in dict.fromkeys(folds)]  # a fold named twice counts once


def sum_up(out: Path, results: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Mean and sd over folds, and scores of all test parts with an interval: every patient is tested once."""
    keys = (
        "benchmark",
        "task",
        "protocol",
        "seed",
        "label_fraction",
        "model",
        "classes",
        "recipe",
        "version",
    )
    whole = {key: results[0][key] for key in keys}
    whole |= {"folds": [result["fold"] for result in results], "mean": summary(results)}
    pooled = task.pool([test_part(out / result["fold"], task) for result in results])
    whole |= {"pooled": pooled, "seconds": sum(result["seconds"] for result in results)}
    title = f"{task.data.benchmark.name}, {len(results)} folds: {whole['model']}"
    task.draw(out, whole["pooled"], title)
    write_json(out / METRICS, whole)
    return whole
