"""One run: a network, a split of a labelled set, a folder. Finished runs are read, interrupted ones go on."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openus import __version__, console
from openus.errors import UsageError
from usfmae.model.weights import save_weights, write_atomic
from usfmae.tasks.data.pixels import grey_statistics
from usfmae.tasks.data.splits import Split, subsample
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.finetuned import Model, load_model
from usfmae.tasks.network.focus import focus
from usfmae.tasks.network.lineage import learned, merged, seen_by, seen_notes
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import FocusSettings
from usfmae.tasks.report.plots import curves_png
from usfmae.tasks.task import Batches, Ints, Outcome, Task
from usfmae.tasks.training.loop import STATE, Fit, Objective, Samples, fit, predict_batches

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"


@dataclass(frozen=True)
class Job:
    """What decides a run, besides the machine."""

    task: Task
    split: Split
    start: Start
    protocol: str
    seed: int
    fraction: float = 1.0
    """Share of the training patients whose labels are used."""

    def training_rows(self) -> Ints:
        """The training part, or the share of it that is used."""
        data = self.task.data
        return subsample(self.split.train, data.groups(), data.strata, self.fraction, (self.seed, 101))

    def weights(self) -> list[Start]:
        """All weights that the run begins with: the network's, and those of a segmenter before it."""
        closer = _closer(self.task, self.split.name)
        return [self.start, *([Start(weights=closer.segmenter)] if closer else [])]


def run(job: Job, folder: Path, device: torch.device, quiet: bool = False) -> dict[str, Any]:
    """Train and score one fold into `folder`; a finished run of the same settings is read, not repeated."""
    train = job.training_rows()
    known = [note for start in job.weights() for note in seen_notes(start, job.task.data, job.split)]
    notes = job.task.check(job.split, train) + known
    network = _network(job, train).to(device)
    fingerprint = _fingerprint(job, network, train)
    done = read_result(folder, fingerprint)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    objective = job.task.objective(train, job.split.val)
    parts = {"train": train, "val": job.split.val, "test": job.split.test}
    samples = {name: _samples(job.task, rows, device) for name, rows in parts.items()}
    fitted = _fit(job, network, samples, objective, folder, fingerprint, quiet)
    outcome = _evaluate(job, network, samples)
    result = outcome.result | _facts(job, fitted, objective.monitor, train, device)
    result |= {"validation": dict(fitted.best), "fingerprint": fingerprint}
    if job.task.data.unlabelled:
        notes.append(f"{job.task.data.unlabelled} samples of the set carry no label, and are in no part")
    result |= {"notes": notes + result["notes"], "known_images": known}
    _write(job, network, fitted, outcome, result, folder)
    return result


def _network(job: Job, train: Ints) -> Network:
    torch.manual_seed(job.seed)  # the head, and all of a network from scratch
    return network_for(job.task, job.start, job.split.name, grey_statistics(job.task.data.images[train]))


def network_for(task: Task, start: Start, fold: str, grey: tuple[float, float] = (0.2, 0.2)) -> Network:
    """The network of a task's recipe, with a fresh head; `grey` as in `build`."""
    recipe, closer = task.recipe, _closer(task, fold)
    network = build(
        start, outputs=task.outputs, size=closer.size if closer else recipe.size, drop_path=recipe.drop_path,
        pool=recipe.pool, grey=grey,
    )  # fmt: skip
    if closer is None:
        return task.dress(network)
    segmenter = _segmenter(closer)
    return focus(network, segmenter.network, segmenter.config["input"]["size"], closer)


def _closer(task: Task, fold: str) -> FocusSettings | None:
    """The settings of a classifier that looks closer, in a fold; None for one that sees the whole image."""
    settings = task.recipe.focus
    if not settings.segmenter:
        return None
    if task.kind == "segmentation":
        raise UsageError("focus is for tasks that give an answer for an image; a segmenter sees all of it")
    return settings.of_fold(fold)


def _segmenter(closer: FocusSettings) -> Model:
    """The segmenter before a classifier. Raises UsageError where the folder holds none."""
    folder = Path(closer.segmenter)
    model = load_model(folder, "cpu")
    if model.kind != "segmenter":
        raise UsageError(
            f"{folder}: focus.segmenter wants the folder of a segmenter, and this is a {model.kind}; make one with: "
            "usfmae finetune DATA --benchmark NAME (of masks, like bus-bra-lesion) --weights RUN --out FOLDER"
        )
    return model


def _samples(task: Task, rows: Ints, device: torch.device) -> Samples:
    return Samples(torch.from_numpy(task.data.images[rows]).to(device), task.targets(rows).to(device))


def _fingerprint(job: Job, network: Network, train: Ints) -> str:
    """A hash of all that decides the run: code version, settings, split, samples and starting weights."""
    digest = hashlib.sha256()
    data = job.task.data
    settings = {
        "version": __version__, "recipe": job.task.recipe.to_dict(), "seed": job.seed, "protocol": job.protocol,
        "data": data.corpus["fingerprint"], "classes": data.classes, "split": job.split.name,
        "architecture": network.architecture, "input": network.input, "task": job.task.kind,
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
    job: Job, network: Network, samples: dict[str, Samples], objective: Objective, folder: Path,
    fingerprint: str, quiet: bool,
) -> Fit:  # fmt: skip
    recipe = job.task.recipe
    with console.progress(quiet, "images") as bar:
        batch = min(recipe.batch_size, len(samples["train"]))
        per_epoch = max(1, len(samples["train"]) // batch) * batch
        training = bar.add_task(job.split.name, total=recipe.epochs * per_epoch)

        def show(state: Fit) -> None:
            score = abs(state.best[objective.monitor])
            text = f"{job.split.name} {objective.monitor} {score:.3f}"
            bar.update(training, completed=(state.epoch + 1) * per_epoch, description=text)

        return fit(
            network, samples["train"], samples["val"], objective, recipe, seed=job.seed, folder=folder,
            fingerprint=fingerprint, on_epoch=show,
        )  # fmt: skip


def _evaluate(job: Job, network: Network, samples: dict[str, Samples]) -> Outcome:
    recipe = job.task.recipe

    def batches(part: str) -> Batches:
        return predict_batches(
            network, samples[part], 2 * recipe.batch_size, recipe.precision, flip=recipe.tta == "flip"
        )

    return job.task.evaluate(batches, job.split)


def _facts(job: Job, fitted: Fit, monitor: str, train: Ints, device: torch.device) -> dict[str, Any]:
    data, split = job.task.data, job.split
    rate = fitted.train_samples / fitted.seconds if fitted.seconds else None
    share = fitted.model_seconds / fitted.train_seconds if device.type == "cpu" and fitted.seconds else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "benchmark": data.benchmark.name, "task": job.task.kind, "protocol": job.protocol,
        "fold": split.name, "seed": job.seed, "label_fraction": job.fraction, "model": job.start.name,
        "classes": list(data.classes),
        "parts": {"train": len(train), "val": len(split.val), "test": len(split.test)},
        "unlabelled": data.unlabelled, "best_epoch": fitted.best_epoch + 1, "epochs": fitted.epoch + 1,
        "monitor": monitor, "seconds": round(fitted.seconds, 2), "images_per_second": rate and round(rate, 1),
        "model_share": share and round(share, 3), "recipe": job.task.recipe.to_dict(), "corpus": data.corpus,
        "machine": {"device": name, "torch": torch.__version__, "python": platform.python_version()},
        "version": __version__,
    }  # fmt: skip


def _write(
    job: Job, network: Network, fitted: Fit, outcome: Outcome, result: dict[str, Any], folder: Path
) -> None:
    """Everything a finished run leaves; metrics.json comes last and means that the rest is there."""
    job.task.draw(folder, result, f"{result['benchmark']}, {result['fold']}: {result['model']}")
    curves_png(folder / "curves.png", fitted.history, result["monitor"], fitted.best_epoch)
    _write_predictions(folder / PREDICTIONS, job, outcome)
    save_weights(folder, network.body.state_dict(), model_config(job, network, result))
    lines = "".join(json.dumps(row) + "\n" for row in fitted.history)
    write_atomic(folder / "history.jsonl", lines.encode())
    write_json(folder / METRICS, result)
    (folder / STATE).unlink(missing_ok=True)


def _write_predictions(path: Path, job: Job, outcome: Outcome) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for part, columns in outcome.columns.items():
        rows: Ints = getattr(job.split, part)
        who = {
            "key": job.task.keys(rows),
            "part": [part] * len(rows),
            "clip": job.task.clips(rows),
            "group": job.task.groups(rows),
        }
        tables.append(pa.table(who | columns))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink)
    write_atomic(path, sink.getvalue().to_pybytes())


def model_config(job: Job, network: Network, result: dict[str, Any]) -> dict[str, Any]:
    """config.json of a fine-tuned model: enough to build it, to feed it, and to say what it is."""
    recipe, data = job.task.recipe, job.task.data
    config: dict[str, Any] = {
        "architecture": network.architecture,
        "input": network.input | {"size": recipe.size, "aspect": recipe.aspect},
        "cleaning": data.corpus.get("clean", {}),
        "task": job.task.kind,
        "classes": list(data.classes),
        "label": data.benchmark.label,
        "tta": recipe.tta,
        "benchmark": data.benchmark.name,
        "metrics": {name: score["value"] for name, score in result["metrics"].items()},
        "training": {key: result[key] for key in ("protocol", "fold", "seed", "recipe", "corpus", "parts")},
        "seen": merged(
            *map(seen_by, job.weights()), learned(data, np.concatenate([job.training_rows(), job.split.val]))
        ),
    }
    if network.architecture["family"] == "encoder":
        config["model"] = network.architecture["model"]
    return config | job.task.facts()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, since no reader agrees on it."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")
