"""Pretraining, top to bottom: `pretrain` sets the stage, `train` takes the steps.

A run folder holds everything: ``recipe.yaml``, ``log.jsonl``, ``tb/``, ``checkpoints/``, ``latest``,
``pictures/``, ``report.html``, and ``done`` once the last step was taken. The same call on a folder that exists goes on
where the run stopped, mid-epoch, as if it had not.
"""

from __future__ import annotations

import json
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from openus.console import err
from openus.errors import UsageError
from openus.storage.locks import disk_told
from usfmae.model.weights import write_atomic
from usfmae.stream.foreign import ForeignSet
from usfmae.stream.index import Index
from usfmae.train.checkpoint import held
from usfmae.train.data import Reading, open_data
from usfmae.train.distributed import join
from usfmae.train.guard import Stop, unechoed
from usfmae.train.observer import Observer
from usfmae.train.recipe import Recipe, changed_fields, load_recipe
from usfmae.train.share import compiler_told
from usfmae.train.trainer import Trainer


def pretrain(
    data: str | Path,
    recipe: Recipe,
    out: Path,
    *,
    reading: Reading | None = None,
    device: str = "auto",
    max_steps: int | None = None,
    max_time: float | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Pretrain on the corpus `data` (folder or URL, or tars that others made) into the run folder `out`; resumes when
    `out` is a run.

    max_steps: stop, with a checkpoint, once the run has taken so many steps. max_time: the same after so many
    seconds of this call. Ctrl-C and SIGTERM save and end the process with 130 and 143. Returns a summary: run,
    steps, epochs, loss, images, seconds, bad_samples, stopped ("" when done).
    Raises `UsageError` for a recipe other than the run's, `CorpusError` for data that cannot be read,
    `DivergedError` when the loss does not stay finite, `WeightsError` for checkpoints that are all damaged.
    """
    with disk_told(out), compiler_told(), join(device) as world, Stop(max_time) as stop:
        if world.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = recipe.training.precision != "fp32"
            torch.use_deterministic_algorithms(recipe.training.deterministic)
        index = open_data(data, recipe)
        if world.leads:
            check(out, recipe)
            same_data(out, index, data)
        trainer = Trainer(index, recipe, out, world, reading or Reading())
        if world.leads:  # not before: what cannot begin leaves nothing behind
            claim(out, recipe, data, identity_of(index))
        with held(out) if world.leads else nullcontext(), closing(trainer.keeper):
            world.barrier()
            trainer.resume()
            last = trainer.total_steps if max_steps is None else min(trainer.total_steps, max_steps)
            shown = world.leads and not quiet
            with (
                unechoed() if shown else nullcontext(),
                Observer(trainer, data, out, last=last, quiet=quiet) as observer,
            ):
                summary = train(trainer, observer, stop, last)
        summary |= {"run": str(out), "rank": world.rank, "stopped": stop.reason}
    if stop.reason in ("interrupted", "terminated"):
        if world.leads:
            again = "" if stop.reason == "interrupted" else "; run the same command again to go on"
            err.print(f"{stop.reason} at step {summary['steps']:,}: saved{again}", soft_wrap=True)
        raise SystemExit(130 if stop.reason == "interrupted" else 143)  # 128 + the signal's number
    return summary


def check(out: Path, recipe: Recipe) -> None:
    """See that `out` is free, or a run of `recipe`. Raises `UsageError` naming the fields that differ."""
    stored = out / "recipe.yaml"
    if stored.exists():
        changes = changed_fields(load_recipe(stored), recipe)
        if changes:
            raise UsageError(
                f"{out}: this run was begun under another recipe ({'; '.join(changes[:3])}"
                f"{'; …' if len(changes) > 3 else ''}); give the same recipe to go on, or another --out to begin anew"
            )
    elif out.exists() and not all(map(_only_begun, out.iterdir())):
        raise UsageError(f"{out}: exists and is not a pretraining run (no recipe.yaml); give another --out")


def _only_begun(path: Path) -> bool:
    """True for what `claim` leaves when it is killed before it has written the recipe."""
    empty = path.is_dir() and not any(path.iterdir())
    return (path.name == "checkpoints" and empty) or path.name in (
        "run.json",
        ".run.json.part",
        ".recipe.yaml.part",
    )


def identity_of(index: Index | ForeignSet) -> str:
    """What tells the data from others, wherever they lie; "" where no manifest does."""
    return "" if isinstance(index, ForeignSet) else index.identity


def same_data(out: Path, index: Index | ForeignSet, data: str | Path) -> None:
    """Raise `UsageError` where the run in `out` was begun on other data."""
    if not (out / "recipe.yaml").exists():
        return
    about = json.loads((out / "run.json").read_text())
    if about.get("identity", "") not in ("", identity_of(index)):
        raise UsageError(
            f"{data}: not the data that the run {out} was begun on ({about['data']}); give those to go on, or another "
            "--out to begin anew"
        )


def claim(out: Path, recipe: Recipe, data: str | Path, identity: str) -> None:
    """Make `out` a run of `recipe`, unless it is one."""
    stored = out / "recipe.yaml"
    if stored.exists():
        return
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    where = str(data) if "://" in str(data) else str(Path(data).resolve())
    write_atomic(
        out / "run.json", json.dumps({"data": where, "set": recipe.data.set, "identity": identity}).encode()
    )
    write_atomic(stored, recipe.to_yaml().encode())


def train(trainer: Trainer, observer: Observer, stop: Stop, last: int) -> dict[str, Any]:
    """Take steps until step `last`, the end of the data, or a wish to stop; leaves a checkpoint and a summary."""
    report, began, first = trainer.recipe.report, time.perf_counter(), trainer.step
    saved = trainer.step if trainer.step else -1
    trainer.clock.reset()
    for batch in trainer.batches() if trainer.step < last else ():
        rate = trainer.rate
        trainer.take(batch)
        observer.after_step()
        ends = stop.wanted(trainer.world) or trainer.step >= last
        speaks = trainer.step % report.log_every == 0
        saves = ends or trainer.step % report.save_every == 0
        if speaks or saves:
            fault = trainer.fault()
            if fault:
                observer.event(fault)
            elif speaks:
                observer.line(rate)
            if saves and not fault:
                trainer.save()
                observer.checkpoint()
                saved = trainer.step
        if trainer.step % trainer.loader.steps_per_epoch == 0:
            observer.epoch_ended()
        trainer.keeper.poll()
        if ends:
            break
    if saved != trainer.step:  # nothing was left to do, or the last step had a fault
        trainer.save()
    trainer.keeper.finish()
    observer.finished()
    return {
        "steps": trainer.step, "total_steps": trainer.total_steps, "epochs": trainer.epoch,
        "loss": trainer.guard.last, "images": (trainer.step - first) * trainer.recipe.training.batch_size,
        "seconds": round(time.perf_counter() - began, 2), "bad_samples": trainer.replaced(),
    }  # fmt: skip
