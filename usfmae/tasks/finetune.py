"""`usfmae finetune`: train on the folds of a benchmark, score the test parts, keep the best weights.

    OUT/metrics.json          scores with intervals, per class, confusion, leaks, settings
    OUT/predictions.parquet   a row per validation and test sample: key, truth, decision, probabilities
    OUT/confusion.png  OUT/curves.png
    OUT/weights.safetensors + config.json   the model `usfmae predict` takes

With several folds each has its own folder, ``OUT/fold1`` …, and ``OUT/metrics.json`` sums them up.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openus import __version__, console
from openus.errors import OpenUSError, UsageError
from usfmae.model.weights import save_weights, write_atomic
from usfmae.tasks.classify import Classification, probabilities_of, report
from usfmae.tasks.data import LabelledSet, find_benchmark, load_labelled
from usfmae.tasks.metrics import classification, summary
from usfmae.tasks.models import Network, Start, build, grey_statistics
from usfmae.tasks.plots import confusion_png, curves_png
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.splits import Split, leaked_rows, leaks, leaks_json, subsample
from usfmae.tasks.training import STATE, Fit, Samples, fit, pick_device, predict_batches

METRICS = "metrics.json"


@dataclass(frozen=True)
class Job:
    """One run: a network on one split of a labelled set."""

    data: LabelledSet
    split: Split
    start: Start
    recipe: FinetuneRecipe
    protocol: str
    seed: int
    fraction: float = 1.0
    """Share of the training patients whose labels are used."""


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
    task = find_benchmark(benchmark)
    protocol = protocol or next(iter(task.protocols))
    labelled = load_with_progress(data, task, recipe, quiet)
    splits = choose_folds(labelled.splits(protocol, seed), folds)
    results = []
    for split in splits:
        job = Job(labelled, split, start, recipe, protocol, seed, fraction)
        folder = out if len(splits) == 1 else out / split.name
        results.append(run(job, folder, pick_device(device), quiet))
    if len(results) == 1:
        return results[0]
    return _write_summary(out, results, labelled)


def load_with_progress(
    data: str | Path, task: Any, recipe: FinetuneRecipe, quiet: bool, threads: int = 4
) -> LabelledSet:
    """The labelled set a recipe wants, with a progress bar while it is decoded."""
    with console.progress(quiet, "images") as bar:
        decoding = bar.add_task("decode", total=None)
        return load_labelled(
            data, task, size=recipe.size, aspect=recipe.aspect, frames_per_clip=recipe.frames_per_clip,
            threads=threads, on_image=lambda done, total: bar.update(decoding, completed=done, total=total),
        )  # fmt: skip


def choose_folds(splits: list[Split], folds: Sequence[int] | None) -> list[Split]:
    """The splits with the 1-based numbers `folds`, all for None; UsageError for a number there is not."""
    if folds is None:
        return splits
    for fold in folds:
        if not 1 <= fold <= len(splits):
            raise UsageError(f"there is no fold {fold}: the protocol has 1 to {len(splits)}")
    return [splits[fold - 1] for fold in folds]


def run(job: Job, folder: Path, device: torch.device, quiet: bool = False) -> dict[str, Any]:
    """Train and score one fold into `folder`; a finished run of the same settings is read, not repeated."""
    train = _training_rows(job)
    notes = check_parts(job, train)
    network = _network(job, train).to(device)
    fingerprint = _fingerprint(job, network, train)
    done = read_result(folder, fingerprint)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    objective = _objective(job, train)
    samples = {name: _samples(job.data, rows, device) for name, rows in _parts(job, train).items()}
    fitted = _fit(job, network, samples, objective, folder, fingerprint, quiet)
    result = _evaluate(job, network, samples, fitted, folder)
    result |= _facts(job, fitted, fingerprint, device, objective.monitor, len(train))
    result["notes"] = notes + result["notes"]
    _write(job, network, fitted, objective.monitor, result, folder)
    return result


def _training_rows(job: Job) -> NDArray[np.int64]:
    data = job.data
    return subsample(job.split.train, data.groups(), data.strata, job.fraction, (job.seed, 101))


def _parts(job: Job, train: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {"train": train, "val": job.split.val, "test": job.split.test}


def check_parts(job: Job, train: NDArray[np.int64]) -> list[str]:
    """Notes on classes that are absent from a part; OpenUSError where nothing can be learned."""
    classes, targets = job.data.classes, job.data.targets
    present = {name: np.unique(targets[rows]) for name, rows in _parts(job, train).items()}
    if len(present["train"]) < 2:
        only = classes[int(present["train"][0])]
        raise OpenUSError(
            f"benchmark '{job.data.benchmark.name}', {job.split.name}: the training part holds only class "
            f"'{only}' of {', '.join(classes)}; nothing can be learned from it: use another protocol or fold, "
            "or build a corpus with more patients"
        )
    return [
        f"class '{name}' does not occur in the {part} part"
        for part in ("train", "val")
        for number, name in enumerate(classes)
        if number not in present[part]
    ]


def _network(job: Job, train: NDArray[np.int64]) -> Network:
    torch.manual_seed(job.seed)  # the head, and all of a network from scratch
    return build(
        job.start, outputs=len(job.data.classes), size=job.recipe.size, drop_path=job.recipe.drop_path,
        pool=job.recipe.pool, grey=grey_statistics(job.data.images[train]),
    )  # fmt: skip


def _objective(job: Job, train: NDArray[np.int64]) -> Classification:
    objective = Classification(
        job.data.targets[train], len(job.data.classes), job.recipe, _positive(job.data)
    )
    if len(np.unique(job.data.targets[job.split.val])) < 2:
        objective.monitor = "loss"  # AUROC and F1 of a single class choose nothing
    return objective


def _positive(data: LabelledSet) -> int:
    name = data.benchmark.positive
    return data.classes.index(name) if name else len(data.classes) - 1


def _samples(data: LabelledSet, rows: NDArray[np.int64], device: torch.device) -> Samples:
    return Samples(
        torch.from_numpy(data.images[rows]).to(device), torch.from_numpy(data.targets[rows]).to(device)
    )


def _fingerprint(job: Job, network: Network, train: NDArray[np.int64]) -> str:
    """A hash of all that decides the run: code version, settings, split, samples and starting weights."""
    digest = hashlib.sha256()
    settings = {
        "version": __version__, "recipe": job.recipe.to_dict(), "seed": job.seed, "protocol": job.protocol,
        "data": job.data.corpus["fingerprint"], "classes": job.data.classes, "split": job.split.name,
        "architecture": network.architecture, "input": network.input,
    }  # fmt: skip
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for rows in (train, job.split.val, job.split.test):
        digest.update(rows.tobytes())
    for key, value in network.body.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_result(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The finished result in `folder`; None if there is none, UsageError if it is of another run."""
    file = folder / METRICS
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    if found.get("fingerprint") != fingerprint:
        raise UsageError(
            f"{folder}: holds the result of other settings, data or code; give another --out, or remove the folder"
        )
    return found


def _fit(
    job: Job, network: Network, samples: dict[str, Samples], objective: Classification, folder: Path,
    fingerprint: str, quiet: bool,
) -> Fit:  # fmt: skip
    with console.progress(quiet, "images") as bar:
        batch = min(job.recipe.batch_size, len(samples["train"]))
        per_epoch = max(1, len(samples["train"]) // batch) * batch
        training = bar.add_task(job.split.name, total=job.recipe.epochs * per_epoch)

        def show(run: Fit) -> None:
            score = abs(run.best[objective.monitor])
            bar.update(
                training,
                completed=(run.epoch + 1) * per_epoch,
                description=f"{job.split.name} {objective.monitor} {score:.3f}",
            )

        return fit(
            network, samples["train"], samples["val"], objective, job.recipe, seed=job.seed, folder=folder,
            fingerprint=fingerprint, on_epoch=show,
        )  # fmt: skip


def _evaluate(
    job: Job, network: Network, samples: dict[str, Samples], fitted: Fit, folder: Path
) -> dict[str, Any]:
    """Scores of the test part, and predictions.parquet of validation and test part."""
    recipe, data, split = job.recipe, job.data, job.split
    probabilities = {
        part: probabilities_of(
            predict_batches(
                network, samples[part], 2 * recipe.batch_size, recipe.precision, recipe.tta == "flip"
            )
        )
        for part in ("val", "test")
    }
    found = leaks(split, data.identity)
    result = report(
        data.targets[split.test], probabilities["test"], data.classes, groups=data.groups()[split.test],
        clips=[data.identity.clip[i] for i in split.test.tolist()],
        leaked=np.isin(split.test, leaked_rows(found)), positive=data.benchmark.positive,
        resamples=recipe.resamples, seed=0,
    )  # fmt: skip
    _write_predictions(folder / "predictions.parquet", job, probabilities)
    return result | {"leaks": leaks_json(found), "validation": dict(fitted.best)}


def _write_predictions(path: Path, job: Job, probabilities: dict[str, NDArray[np.float64]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, groups = job.data, job.data.groups()
    parts = []
    for part, values in probabilities.items():
        rows = getattr(job.split, part)
        columns: dict[str, Any] = {
            "key": [data.identity.key[i] for i in rows.tolist()],
            "part": [part] * len(rows),
            "clip": [data.identity.clip[i] for i in rows.tolist()],
            "group": groups[rows],
            "truth": [data.classes[int(data.targets[i])] for i in rows.tolist()],
            "decision": [data.classes[i] for i in values.argmax(1).tolist()],
        }
        columns |= {f"p_{name}": values[:, c] for c, name in enumerate(data.classes)}
        parts.append(pa.table(columns))
    temporary = path.with_name(f".{path.name}.part")
    pq.write_table(pa.concat_tables(parts), temporary)
    temporary.replace(path)


def _facts(
    job: Job, fitted: Fit, fingerprint: str, device: torch.device, monitor: str, used: int
) -> dict[str, Any]:
    rate = fitted.train_samples / fitted.seconds if fitted.seconds else None
    share = fitted.model_seconds / fitted.seconds if device.type == "cpu" and fitted.seconds else None
    return {
        "benchmark": job.data.benchmark.name, "task": "classification", "protocol": job.protocol,
        "fold": job.split.name, "seed": job.seed, "label_fraction": job.fraction, "model": job.start.name,
        "classes": list(job.data.classes),
        "parts": {"train": used, "val": len(job.split.val), "test": len(job.split.test)},
        "unlabelled": job.data.unlabelled, "best_epoch": fitted.best_epoch + 1,
        "epochs": fitted.epoch + 1, "monitor": monitor, "seconds": round(fitted.seconds, 2),
        "images_per_second": rate and round(rate, 1), "model_share": share and round(share, 3),
        "fingerprint": fingerprint, "recipe": job.recipe.to_dict(), "corpus": job.data.corpus,
        "machine": {"device": _device_name(device), "torch": torch.__version__, "python": platform.python_version()},
        "version": __version__,
    }  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _write(
    job: Job, network: Network, fitted: Fit, monitor: str, result: dict[str, Any], folder: Path
) -> None:
    """Everything a finished run leaves; metrics.json comes last and means that the rest is there."""
    title = f"{job.data.benchmark.name}, {job.split.name}: {job.start.name}"
    confusion_png(folder / "confusion.png", np.array(result["confusion"]), job.data.classes, title)
    curves_png(folder / "curves.png", fitted.history, monitor, fitted.best_epoch)
    save_weights(folder, network.body.state_dict(), model_config(job, network, result))
    lines = "".join(json.dumps(row) + "\n" for row in fitted.history)
    write_atomic(folder / "history.jsonl", lines.encode())
    write_json(folder / METRICS, result)
    (folder / STATE).unlink(missing_ok=True)


def model_config(job: Job, network: Network, result: dict[str, Any]) -> dict[str, Any]:
    """config.json of a fine-tuned model: enough to build it, to feed it, and to say what it is."""
    config: dict[str, Any] = {
        "kind": "classifier",
        "architecture": network.architecture,
        "input": network.input | {"size": job.recipe.size, "aspect": job.recipe.aspect},
        "cleaning": job.data.corpus.get("clean", {}),
        "classes": list(job.data.classes),
        "label": job.data.benchmark.label,
        "positive": job.data.benchmark.positive,
        "tta": job.recipe.tta,
        "benchmark": job.data.benchmark.name,
        "metrics": {name: score["value"] for name, score in result["metrics"].items()},
        "training": {key: result[key] for key in ("protocol", "fold", "seed", "recipe", "corpus", "parts")},
    }
    if network.architecture["family"] == "encoder":
        config["model"] = network.architecture["model"]
    return config


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, since no reader agrees on it."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def _write_summary(out: Path, results: list[dict[str, Any]], data: LabelledSet) -> dict[str, Any]:
    """Mean and sd over folds, and the pooled test parts with one interval: every patient is tested once."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(out / result["fold"] / "predictions.parquet") for result in results]
    rows = [row for table in tables for row in table.to_pylist() if row["part"] == "test"]
    targets = np.array([data.classes.index(row["truth"]) for row in rows])
    probabilities = np.array([[row[f"p_{name}"] for name in data.classes] for row in rows])
    pooled = classification(
        targets, probabilities, data.classes, groups=np.array([row["group"] for row in rows]),
        positive=data.benchmark.positive, resamples=results[0]["recipe"]["resamples"],
    )  # fmt: skip
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
    whole |= {"folds": [result["fold"] for result in results], "mean": summary(results), "pooled": pooled}
    whole |= {"seconds": sum(result["seconds"] for result in results)}
    title = f"{data.benchmark.name}, {len(results)} folds: {whole['model']}"
    confusion_png(out / "confusion.png", np.array(pooled["confusion"]), data.classes, title)
    write_json(out / METRICS, whole)
    return whole
