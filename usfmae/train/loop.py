"""The training loop, top to bottom: `pretrain` sets the stage, `Trainer` takes the steps.

A run folder holds everything: ``recipe.yaml``, ``log.jsonl``, ``tb/``, ``checkpoints/``, ``latest``. The same
call on a folder that exists goes on where the run stopped, mid-epoch, as if it had not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openus.console import err, progress
from openus.errors import UsageError
from usfmae.model.draws import batch_seed
from usfmae.model.mae import MAE
from usfmae.model.weights import adapt, load_weights, write_atomic
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.plan import Cursor
from usfmae.train.data import Feeder, make_loader
from usfmae.train.distributed import World, gradients_stay, join
from usfmae.train.guard import Guard, Stop
from usfmae.train.keeper import Keeper
from usfmae.train.log import Clock, RunLog
from usfmae.train.meter import Meter
from usfmae.train.objective import Objective
from usfmae.train.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from usfmae.train.recipe import Recipe, changed_fields, load_recipe
from usfmae.train.share import is_sharded, share
from usfmae.train.start import begin_with
from usfmae.train.state import fill, live_tensors


def pretrain(
    data: str | Path,
    recipe: Recipe,
    out: Path,
    *,
    workers: int = 0,
    device: str = "auto",
    max_steps: int | None = None,
    max_time: float | None = None,
    quiet: bool = False,
    strict_data: bool = False,
) -> dict[str, Any]:
    """Pretrain on the corpus `data` (folder or URL) into the run folder `out`; resumes when `out` is a run.

    max_steps: stop, with a checkpoint, once the run has taken so many steps. max_time: the same after so many
    seconds of this call. Ctrl-C and SIGTERM save and end the process with 130 and 143. Returns a summary: run,
    steps, epochs, loss, images, seconds, stopped ("" when done).
    Raises `UsageError` for a recipe other than the run's, `CorpusError` for data that cannot be read,
    `DivergedError` when the loss does not stay finite, `WeightsError` for checkpoints that are all damaged.
    """
    with join(device) as world, Stop(max_time) as stop:
        if world.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = recipe.training.precision != "fp32"
            torch.use_deterministic_algorithms(recipe.training.deterministic)
        quiet = quiet or not world.leads
        index = open_index(data, recipe.data.set)
        if world.leads:
            claim(out, recipe, data)
        world.barrier()
        trainer = Trainer(index, recipe, out, world, workers=workers, strict_data=strict_data)
        trainer.resume()
        summary = trainer.train(stop, max_steps, quiet)
        summary["rank"] = world.rank
    if stop.reason in ("interrupted", "terminated"):
        if world.leads:
            step = summary["steps"]
            err.print(
                f"{stop.reason} at step {step:,}: saved; run the same command again to go on", soft_wrap=True
            )
        raise SystemExit(130 if stop.reason == "interrupted" else 143)  # 128 + the signal's number
    return summary


def claim(out: Path, recipe: Recipe, data: str | Path) -> None:
    """Make `out` a run of `recipe`, or see that it is one. Raises `UsageError` naming the fields that differ."""
    stored = out / "recipe.yaml"
    if stored.exists():
        changes = changed_fields(load_recipe(stored), recipe)
        if changes:
            raise UsageError(
                f"{out}: this run was begun under another recipe ({'; '.join(changes[:3])}"
                f"{'; …' if len(changes) > 3 else ''}); give the same recipe to go on, or another --out to begin anew"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: exists and is not a pretraining run (no recipe.yaml); give another --out")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    where = str(data) if "://" in str(data) else str(Path(data).resolve())
    write_atomic(out / "run.json", json.dumps({"data": where, "set": recipe.data.set}).encode())
    write_atomic(stored, recipe.to_yaml().encode())


class Trainer:
    """One pretraining run in one process (of `world.size`): network, optimiser, place in the data."""

    def __init__(
        self, index: Index, recipe: Recipe, run: Path, world: World, *, workers: int, strict_data: bool
    ) -> None:
        self.index, self.recipe, self.run, self.world = index, recipe, run, world
        self.workers, self.strict_data = workers, strict_data
        self.config = recipe.mae_config()
        self.step, self.cursor = 0, Cursor()
        self.mae = self._fresh()
        self.mae.checkpointing = recipe.training.checkpointing
        self.shared, self.model = share(self.mae, recipe.training, world)
        self.optimizer = build_optimizer(self.mae, recipe.optim, world.device)
        self.keeper = Keeper(
            run,
            world,
            self.mae,
            self.optimizer,
            keep=recipe.report.keep,
            sharded=is_sharded(recipe.training, world),
        )
        self.objective = Objective(recipe.objective, self.config)
        self.ema = (
            {k: v.detach().clone() for k, v in self.mae.state_dict().items()} if recipe.training.ema else None
        )
        self.guard = Guard(recipe.guard)
        self.meter, self.clock = Meter(index.sources, world), Clock()
        self.feeder = Feeder(recipe, self.config, world)
        self.loader = self._loader()
        self.total_steps = self.loader.steps_per_epoch * recipe.training.epochs

    def _fresh(self) -> MAE:
        """The network as it begins: random from the seed, or from other weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.training.seed)
            mae = MAE(self.config)
        if self.recipe.model.init:
            weights = load_weights(self.recipe.model.init)
            state, found = adapt(weights, self.config.in_chans, self.config.img_size)
            begin_with(mae, state, found, str(weights.path))
        return mae.to(self.world.device)

    def _loader(self) -> Loader:
        return make_loader(
            self.index,
            self.recipe,
            self.world,
            cursor=self.cursor,
            workers=self.workers,
            strict=self.strict_data,
        )

    def resume(self) -> None:
        """Go to the newest whole checkpoint, where there is one."""
        folder = self.keeper.newest()
        if folder is None:
            return
        state = self.keeper.restore(folder, self.ema)
        self.step, self.cursor = int(state["step"]), Cursor.from_dict(state["cursor"])
        self.meter.load_state_dict(state["meter"])
        self.guard.load_state_dict(state["guard"])
        self.loader = self._loader()

    def train(self, stop: Stop, max_steps: int | None, quiet: bool) -> dict[str, Any]:
        """Take steps until the end of the recipe, a wish to stop, or `max_steps`; leaves a checkpoint."""
        recipe, began, first = self.recipe, time.perf_counter(), self.step
        last = self.total_steps if max_steps is None else min(self.total_steps, max_steps)
        log = (
            RunLog(self.run, recipe.report, step=self.step, config=recipe.to_dict())
            if self.world.leads
            else None
        )
        if not quiet:
            self._announce(last)
        self.mae.train()
        saved = self.step if self.step else -1
        with progress(quiet, unit="images") as bar:
            size = recipe.training.batch_size
            task = bar.add_task("pretrain", total=last * size, completed=self.step * size)
            for batch in self._batches(last):
                self._take(batch)
                bar.advance(task, size)
                ends = self.world.any(stop.wanted()) or self.step >= last
                saves = ends or self.step % recipe.report.save_every == 0
                if (saves or self.step % recipe.report.log_every == 0) and self._sound(quiet):
                    if self.step % recipe.report.log_every == 0:
                        values = self._line()
                        bar.update(task, description=f"loss {values['loss']:.4f}")
                        if log is not None:
                            log.write(self.step, values)
                    if saves:
                        self.save()
                        saved = self.step
                self.keeper.poll()
                if ends:
                    break
            if saved != self.step:  # nothing was left to do, or the last step had a fault
                self.save()
            self.keeper.finish()
        if log is not None:
            log.close()
        return {
            "run": str(self.run), "steps": self.step, "total_steps": self.total_steps,
            "epochs": round(self.step / self.loader.steps_per_epoch, 3), "loss": self.guard.last,
            "images": (self.step - first) * recipe.training.batch_size,
            "seconds": round(time.perf_counter() - began, 2), "stopped": stop.reason,
        }  # fmt: skip

    def _batches(self, last: int) -> Iterator[Batch]:
        """Batches until `last`, with the wait for each on the clock."""
        if self.step >= last:
            return
        self.clock.reset()
        stream = iter(self.loader)
        while True:
            waited = time.perf_counter()
            batch = next(stream, None)
            self.clock.waited += time.perf_counter() - waited
            if batch is None:
                return
            yield batch

    def _take(self, batch: Batch) -> None:
        """One optimiser step on one batch."""
        recipe, device = self.recipe, self.world.device
        o = recipe.optim
        set_learning_rate(
            self.optimizer, learning_rate(self.step, self.total_steps, recipe.peak_lr, o.warmup, o.min_lr)
        )
        images, seeds = self.feeder(batch)
        number = batch_seed(recipe.training.seed, batch.cursor.epoch, batch.cursor.samples)
        parts = list(self.feeder.parts(images, seeds))
        loss, each = torch.zeros((), device=device), []
        for place, (part, part_seeds) in enumerate(parts, 1):
            share = len(part) / len(images)
            with gradients_stay(self.shared, place < len(parts)):
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bf16"):
                    result = self.objective(self.model, part, part_seeds, number)
                torch.autograd.backward(result.loss * share)
            loss += result.loss.detach() * share
            each.append(result.per_sample)
        norm = clip_gradients(self.mae, o.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self._average(recipe.training.ema)
        self.meter.add(loss, norm, torch.cat(each), self._sources(batch.indices))
        self.step += 1
        self.cursor = batch.cursor
        self.clock.images += recipe.training.batch_size

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        assert self.ema is not None
        torch._foreach_lerp_(list(self.ema.values()), list(self.mae.state_dict().values()), 1 - decay)

    def _sources(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self.index.source_of[indices.numpy()].astype("int64"))

    def _sound(self, quiet: bool) -> bool:
        """Look at the losses since last time; at a fault, go back to the last checkpoint and skip these data."""
        for loss in self.meter.collect():
            what = self.guard.fault(loss)
            if not what:
                continue
            self.guard.count(what, self.step)
            self.meter.discard()
            folder = self.keeper.newest()
            if folder is None:
                self._begin_again()
            else:
                self.keeper.restore(folder, self.ema)
            if not quiet:
                back = "the beginning" if folder is None else folder.name
                err.print(
                    f"step {self.step}: {what}; back to the weights of {back}, going on with the next data",
                    style="yellow",
                )
            return False
        return True

    def _line(self) -> dict[str, Any]:
        """What the log says of the steps since the last line."""
        o = self.recipe.optim
        values: dict[str, Any] = {
            "epoch": self._epoch(),
            "samples": self.step * self.recipe.training.batch_size,
            **self.meter.summary(),
            "lr": learning_rate(self.step - 1, self.total_steps, self.recipe.peak_lr, o.warmup, o.min_lr),
            **self.clock.rates(),
        }
        if self.world.device.type == "cuda":
            values["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self.meter.reset()
        self.clock.reset()
        return values

    def _epoch(self) -> float:
        return round(self.step / self.loader.steps_per_epoch, 4)

    def _begin_again(self) -> None:
        """Back to the beginning: a fault came before the first checkpoint."""
        live = live_tensors(self.mae, self.optimizer)
        start = self._fresh().state_dict()
        blank = {
            k: torch.zeros(v.shape, dtype=v.dtype) for k, v in live.items() if not k.startswith("model.")
        }
        fill(live, {**{f"model.{k}": v for k, v in start.items()}, **blank}, "the beginning")
        if self.ema is not None:
            fill(self.ema, start, "the beginning")

    def save(self) -> None:
        """Write a checkpoint of this step."""
        config = {
            "model": self.config.to_dict(), "step": self.step, "epoch": self._epoch(),
            "recipe": self.recipe.to_dict(), "data": {"set": self.index.set, "samples": self.index.count},
        }  # fmt: skip
        state = {
            "cursor": self.cursor.to_dict(), "meter": self.meter.state_dict(), "guard": self.guard.state_dict(),
        }  # fmt: skip
        self.keeper.save(self.step, config, state, self.ema)

    def _announce(self, last: int) -> None:
        count, size = sum(p.numel() for p in self.mae.parameters()), self.recipe.training.batch_size
        at = f"from step {self.step:,} " if self.step else ""
        err.print(
            f"{self.recipe.name}: {count / 1e6:.1f} M parameters, {self.index.count:,} images, {at}to step {last:,} of "
            f"{self.total_steps:,}, batch {size} on {self.world.size} x {self.world.device}; "
            f"{self.loader.tail_note}",
            style="dim",
            soft_wrap=True,
        )
