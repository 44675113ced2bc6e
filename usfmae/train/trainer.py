"""The state of a run and the step that changes it; `usfmae.train.loop` decides when."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from usfmae.model.draws import batch_seed
from usfmae.model.mae import MAE
from usfmae.model.weights import adapt, load_weights
from usfmae.stream.foreign import ForeignLoader, ForeignSet
from usfmae.stream.index import Index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.plan import Cursor
from usfmae.train.data import Feeder, Reading, decoding_device, make_loader, open_decoded
from usfmae.train.distributed import World, gradients_stay
from usfmae.train.fit import largest_that_fits
from usfmae.train.guard import Guard
from usfmae.train.keeper import Keeper
from usfmae.train.log import Clock
from usfmae.train.meter import Meter
from usfmae.train.objective import Objective
from usfmae.train.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from usfmae.train.recipe import Recipe
from usfmae.train.share import is_sharded, share, stand_in
from usfmae.train.start import begin_with
from usfmae.train.state import fill, live_tensors, whole


class Trainer:
    """One pretraining run in one process (of `world.size`): network, optimiser, place in the data."""

    def __init__(
        self, index: Index | ForeignSet, recipe: Recipe, run: Path, world: World, reading: Reading
    ) -> None:
        self.index, self.recipe, self.world = index, recipe, world
        self.reading, self.pixels = reading, open_decoded(index, recipe, reading)
        self.config = recipe.mae_config()
        self.step, self.cursor = 0, Cursor()
        self.mae = self._fresh()
        self.mae.checkpointing = recipe.training.checkpointing
        self.mae.narrow = recipe.training.precision == "bf16-residual"
        self.sharded = is_sharded(recipe.training, world)
        self.shared, self.model = share(self.mae, recipe.training, world)
        self.optimizer = build_optimizer(self.mae, recipe.optim, world.device)
        self.keeper = Keeper(
            run, world, self.mae, self.optimizer, keep=recipe.report.keep, sharded=self.sharded
        )
        self.objective = Objective(recipe.objective, self.config)
        self.ema = (
            {k: v.detach().clone() for k, v in self.mae.state_dict().items()} if recipe.training.ema else None
        )
        self.guard = Guard(recipe.guard)
        self.meter, self.clock = Meter(index.sources, world), Clock()
        self.feeder = Feeder(recipe, self.config, world)
        self.decodes_on: torch.device | None = None
        self.loader = self._loader()
        self.decodes_on = decoding_device(self.loader, recipe, world, reading)
        self.total_steps = recipe.training.steps(self.loader.steps_per_epoch)

    @property
    def epoch(self) -> float:
        """Epochs done, with their fraction."""
        return round(self.step / self.loader.steps_per_epoch, 4)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        o = self.recipe.optim
        return learning_rate(self.step, self.total_steps, self.recipe.peak_lr, o.warmup, o.min_lr)

    def _fresh(self) -> MAE:
        """The network as it begins: random from the seed, or from other weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.training.seed)
            mae = MAE(self.config)
        if self.recipe.model.init:
            weights = load_weights(self.recipe.model.init)
            c = self.config
            state, found = adapt(weights, c.in_chans, c.img_size, (c.mean, c.std))
            begin_with(mae, state, found, str(weights.path))
        return mae.to(self.world.device)

    def _loader(self) -> Loader | ForeignLoader:
        return make_loader(
            self.index, self.recipe, self.world, self.reading, self.cursor, self.pixels, self.decodes_on
        )

    def resume(self) -> None:
        """Go to the newest whole checkpoint, where there is one; find out what fits into the GPU's memory."""
        folder = self.keeper.newest()
        if folder is not None:
            state = self.keeper.restore(folder, self.ema)
            self.step, self.cursor = int(state["step"]), Cursor.from_dict(state["cursor"])
            self.meter.load_state_dict(state["meter"])
            self.guard.load_state_dict(state["guard"])
        self.loader = self._loader()
        self.mae.train()
        if self.world.device.type == "cuda" and not self.recipe.training.micro_batch:
            self.feeder.micro_batch = self._fitting()

    def _fitting(self) -> int:
        """The number of images that fits at once; all processes call this."""
        live_tensors(self.mae, self.optimizer)  # the moments take their memory first
        silent: DeviceMesh | None = None
        if self.sharded:
            from usfmae.train.sharded import silent_mesh

            silent = silent_mesh(self.world)
        found = largest_that_fits(
            self.feeder.micro_batch, lambda size: self._try(size, silent), self.world.least
        )
        gc.collect()  # what was tried on refers to itself
        return found

    def _try(self, size: int, silent: DeviceMesh | None = None) -> None:
        """Forward and backward of so many images of noise, to see whether they fit.

        Nothing is exchanged: a process that ran full in the midst of it would leave the others waiting.
        """
        c, device = self.config, self.world.device
        images = torch.randn(size, c.in_chans, c.img_size, c.img_size, device=device)
        model = stand_in(self.mae, self.recipe.training, self.world, silent) if silent else None
        with gradients_stay(self.shared, silent is None):
            self._backward(images, torch.arange(size, device=device), 0, 1.0, model)
        self.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def batches(self) -> Iterator[Batch]:
        """Batches from here on, with the wait for each on the clock."""
        stream = iter(self.loader)
        while True:
            with self.clock.waiting():
                batch = next(stream, None)
            if batch is None:
                return
            yield batch

    def take(self, batch: Batch) -> None:
        """One optimiser step on one batch."""
        recipe, device = self.recipe, self.world.device
        set_learning_rate(self.optimizer, self.rate)
        images, seeds = self.feeder(batch)
        number = batch_seed(recipe.training.seed, batch.cursor.epoch, batch.cursor.samples)
        parts = list(self.feeder.parts(images, seeds))
        loss, each = torch.zeros((), device=device), []
        for place, (part, part_seeds) in enumerate(parts, 1):
            with gradients_stay(self.shared, place < len(parts)):
                part_loss, part_each = self._backward(part, part_seeds, number, len(part) / len(images))
            loss += part_loss
            each.append(part_each)
        norm = clip_gradients(self.mae, recipe.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self._average(recipe.training.ema)
        self.meter.add(loss, norm, torch.cat(each), self._sources(batch.indices))
        self.step += 1
        self.cursor = batch.cursor
        self.clock.images += recipe.training.batch_size

    def _backward(
        self, images: Tensor, seeds: Tensor, number: int, share: float, model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add `share` of the gradient of these images; returns that share of the loss, and the loss of each."""
        bf16 = self.recipe.training.precision != "fp32"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=bf16):
            result = self.objective(model or self.model, images, seeds, number)
        torch.autograd.backward(result.loss * share)
        return result.loss.detach() * share, result.per_sample

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        assert self.ema is not None
        # Over fewer steps at first: a short run would be averaged with its random start.
        decay = min(decay, (2 + self.step) / (11 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), list(self.mae.state_dict().values()), 1 - decay)

    def _sources(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self.index.source_of[indices.numpy()].astype("int64"))

    def replaced(self) -> int:
        """Bad samples that all processes replaced since this start; all of them must call this."""
        own = self.loader.replaced if isinstance(self.loader, Loader) else 0
        return int(self.world.sum(torch.tensor([own])).item())

    def fault(self) -> str:
        """Look at losses and norms since last time. At a fault, go back to the last checkpoint, skip the data since
        then, and say what happened; empty when all is well. Raises `DivergedError` after too many.
        """
        for loss, norm in self.meter.collect():
            what = self.guard.fault(loss, norm)
            if what:
                self.guard.count(what, self.step)
                self.meter.discard()
                return f"step {self.step}: {what}; back to the weights of {self._go_back()}, on with the next data"
        return ""

    def _go_back(self) -> str:
        folder = self.keeper.newest()
        if folder is not None:
            self.keeper.restore(folder, self.ema)
            return folder.name
        live, start = live_tensors(self.mae, self.optimizer), self._fresh().state_dict()
        blank = {
            k: torch.zeros(v.shape, dtype=v.dtype) for k, v in live.items() if not k.startswith("model.")
        }
        fill(live, {**{f"model.{k}": v for k, v in start.items()}, **blank}, "the beginning")
        if self.ema is not None:
            fill(self.ema, start, "the beginning")
        return "the beginning"

    def save(self) -> None:
        """Write a checkpoint of this step; all processes call this."""
        config = {
            "model": self.config.to_dict(), "step": self.step, "epoch": self.epoch,
            "recipe": self.recipe.to_dict(), "data": {"set": self.index.set, "samples": len(self.index.rows)},
        }  # fmt: skip
        state = {
            "cursor": self.cursor.to_dict(), "meter": self.meter.state_dict(), "guard": self.guard.state_dict(),
        }  # fmt: skip
        self.keeper.save(self.step, config, state, self.ema)

    def plain(self) -> MAE:
        """The network in one piece, to look at; all processes call this."""
        if not self.sharded:
            return self.mae
        state = whole(self.mae.state_dict())
        mae = MAE(self.config)
        mae.load_state_dict(state)
        return mae.to(self.world.device)
