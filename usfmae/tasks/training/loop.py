"""The training loop of all tasks: pixels in memory, changes on the device, best epoch kept, resumable.

Every random number of an epoch comes from (seed, epoch), so that a run stopped after any epoch and started
again goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from openus.errors import OpenUSError, UsageError, did_you_mean
from usfmae.model.weights import write_atomic
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.device import autocast, choose_attention
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.training.augment import augment, draw
from usfmae.tasks.training.optim import Average, make_optimizer, rate, set_rate

STATE = "state.pt"
# The state is saved at the end of an epoch when so many seconds have passed, and at least so many times the
# seconds the last saving took: at most about 5 % of the time goes into it, whatever the model and the disk. Before
# the first saving a slow disk (bytes a second) is assumed, and a state of five copies of the weights.
_SAVE_SECONDS, _SAVE_SHARE, _SAVE_RATE = 2.0, 20.0, 200e6


class Objective(Protocol):
    """What a task wants of a network: a loss to lower and a score to choose the epoch by."""

    monitor: str

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of a batch; float32 outputs."""

    def score(self, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Scores of (outputs, targets) batches, higher is better; holds `monitor` and ``loss`` (negated)."""


@dataclass(frozen=True)
class Samples:
    """Images uint8 [N, 1, S, S] and targets [N, ...] on the device of the run."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Fit:
    """What a run learned."""

    epoch: int = -1
    """The last epoch done (0-based)."""
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0
    model_seconds: float = 0.0
    """Time inside forward, backward and optimiser; on a CPU only, where it can be told apart for free."""
    train_samples: int = 0


def fit(
    network: Network,
    train: Samples,
    val: Samples,
    objective: Objective,
    recipe: FinetuneRecipe,
    *,
    seed: int,
    folder: Path,
    fingerprint: str,
    on_epoch: Callable[[Fit], None] | None = None,
) -> Fit:
    """Train `network` in place and keep the weights of the best validation epoch.

    The state of the run lies in ``folder/state.pt``; a run of the same `fingerprint` goes on from it.
    Raises OpenUSError when the loss is not finite, and UsageError for the state of another run.
    """
    device = train.images.device
    choose_attention(network, device, recipe.precision)
    forward: nn.Module = torch.compile(network) if recipe.compile else network  # type: ignore[assignment]
    optimizer = make_optimizer(network.body, recipe)
    average = Average(network.body, recipe.ema) if recipe.ema else None
    run = _load_state(folder / STATE, fingerprint, network, optimizer, average, device) or Fit()
    saving = 5 * sum(value.nbytes for value in network.body.state_dict().values()) / _SAVE_RATE
    due = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * saving)
    for epoch in range(run.epoch + 1, recipe.epochs):
        if recipe.patience and epoch - 1 - run.best_epoch >= recipe.patience and run.best_epoch >= 0:
            break
        began = time.monotonic()
        loss = _train_epoch(network, forward, train, objective, recipe, optimizer, average, seed, epoch, run)
        scores = _score(network, average, val, objective, recipe)
        if objective.monitor not in scores:
            raise UsageError(
                f"recipe '{recipe.name}': no validation score '{objective.monitor}' to choose the epoch by"
                f"{did_you_mean(objective.monitor, scores)} (known: {', '.join(sorted(scores))})"
            )
        run.epoch, run.seconds = epoch, run.seconds + time.monotonic() - began
        run.history.append({"epoch": epoch, "train_loss": loss, **{f"val_{k}": v for k, v in scores.items()}})
        if run.best_epoch < 0 or _better(scores, run.best, objective.monitor):
            run.best_epoch, run.best = epoch, scores
            source = average.state if average else network.body.state_dict()
            run.best_state = {key: value.detach().clone() for key, value in source.items()}
        now = time.monotonic()
        if now > due:
            _save_state(folder / STATE, fingerprint, network, optimizer, average, run)
            due = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * (time.monotonic() - now))
        if on_epoch is not None:
            on_epoch(run)
    network.body.load_state_dict(run.best_state)
    return run


def _better(scores: dict[str, float], best: dict[str, float], monitor: str) -> bool:
    """A higher monitored score; at equal ones (AUROC saturates on small parts) the lower loss."""
    return (scores[monitor], scores["loss"]) > (best[monitor], best["loss"])


def _train_epoch(
    network: Network, forward: nn.Module, train: Samples, objective: Objective, recipe: FinetuneRecipe,
    optimizer: torch.optim.Optimizer, average: Average | None, seed: int, epoch: int, run: Fit,
) -> float:  # fmt: skip
    """One pass over the training part in a drawn order; the mean loss.

    Order and changes go to the device before the first step, and nothing is read back before the last: a step
    only queues work.
    """
    device = train.images.device
    generator = torch.Generator().manual_seed(_mix(seed, epoch, 0))
    torch.manual_seed(_mix(seed, epoch, 1))  # drop path and dropout draw from the global generator
    batch = min(recipe.batch_size, len(train))
    steps = max(1, len(train) // batch)  # a smaller last batch would weigh its samples more
    order = torch.randperm(len(train), generator=generator)[: steps * batch].to(device)
    changes = draw(len(order), recipe.augment, generator, device)
    network.train()
    total = torch.zeros((), device=device)
    entered = time.perf_counter()
    for step in range(steps):
        part = slice(step * batch, (step + 1) * batch)
        rows = order[part]
        targets = train.targets[rows]
        # Masks, uint8 [B, S, S], move with their images; other targets stay.
        pixels, masks = augment(
            train.images[rows], changes[part], targets if targets.dtype == torch.uint8 else None
        )
        targets = targets if masks is None else masks
        set_rate(optimizer, rate(recipe, epoch + step / steps))
        began = time.perf_counter()
        loss = _step(forward, pixels, targets, objective, recipe, optimizer, generator)
        if average is not None:
            average.update()
        total += loss
        if device.type == "cpu":
            run.model_seconds += time.perf_counter() - began
        run.train_samples += batch
    mean = float(total) / steps
    run.train_seconds += time.perf_counter() - entered
    if not np.isfinite(mean):
        raise OpenUSError(
            f"the training loss became {mean} in epoch {epoch}; lower lr (now {recipe.lr:g}) in the recipe, "
            "or set precision: fp32"
        )
    return mean


def _step(
    forward: nn.Module, pixels: Tensor, targets: Tensor, objective: Objective, recipe: FinetuneRecipe,
    optimizer: torch.optim.Optimizer, generator: torch.Generator,
) -> Tensor:  # fmt: skip
    with autocast(pixels.device, recipe.precision):
        if recipe.mixup:
            # Zhang et al. 2018, with one partner and one share for the batch.
            drawn = int(torch.randint(2**62, (1,), generator=generator))
            share = float(np.random.default_rng(drawn).beta(recipe.mixup, recipe.mixup))
            partner = torch.randperm(len(pixels), generator=generator).to(pixels.device)
            outputs = forward(share * pixels + (1 - share) * pixels[partner])
        else:
            share, partner, outputs = 1.0, None, forward(pixels)
    loss = objective.loss(outputs.float(), targets)
    if partner is not None:
        loss = share * loss + (1 - share) * objective.loss(outputs.float(), targets[partner])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(forward.parameters(), recipe.clip_norm)
    optimizer.step()
    return loss.detach()


def measure_rate(network: Network, samples: Samples, recipe: FinetuneRecipe, steps: int = 3) -> float:
    """Images a second of whole training steps with these samples as the batch; the first step is not counted.

    The network is trained by it: give one that is thrown away.
    """
    choose_attention(network, samples.images.device, recipe.precision)
    optimizer = make_optimizer(network.body, recipe)
    generator = torch.Generator().manual_seed(0)
    network.train()
    began = 0.0
    for step in range(steps + 1):
        if step == 1:
            _wait(samples.images.device)
            began = time.perf_counter()
        pixels, _ = augment(
            samples.images, draw(len(samples), recipe.augment, generator, samples.images.device)
        )
        with autocast(pixels.device, recipe.precision):
            outputs = network(pixels)
        optimizer.zero_grad(set_to_none=True)
        outputs.float().square().mean().backward()
        optimizer.step()
    _wait(samples.images.device)
    return steps * len(samples) / max(1e-9, time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def predict_batches(
    network: Network, samples: Samples, batch: int, precision: str, flip: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (float32, of the network in eval mode) and targets in order.

    flip: hand on each batch's outputs for the image and for its mirror image, stacked: [2, B, ...]; maps
    [B, C, S, S] of the mirror image are mirrored back.
    """
    network.eval()
    finite = torch.ones((), dtype=torch.bool, device=samples.images.device)
    for start in range(0, len(samples), batch):
        pixels = samples.images[start : start + batch].float().div_(255)
        with autocast(pixels.device, precision):
            outputs = network(pixels).float()
            if flip:
                mirrored = network(pixels.flip(-1)).float()
                outputs = torch.stack([outputs, mirrored.flip(-1) if mirrored.ndim == 4 else mirrored])
        finite &= outputs.isfinite().all()
        yield outputs, samples.targets[start : start + batch]
    if not finite:
        raise OpenUSError(
            "the network's outputs became NaN or infinite; lower lr in the recipe, or set precision: fp32"
        )


def _score(
    network: Network, average: Average | None, val: Samples, objective: Objective, recipe: FinetuneRecipe
) -> dict[str, float]:
    with average.applied() if average is not None else nullcontext():
        return objective.score(predict_batches(network, val, 2 * recipe.batch_size, recipe.precision))


def _save_state(
    path: Path, fingerprint: str, network: Network, optimizer: torch.optim.Optimizer,
    average: Average | None, run: Fit,
) -> None:  # fmt: skip
    buffer = io.BytesIO()
    state: dict[str, Any] = {
        "fingerprint": fingerprint,
        "model": network.body.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else {"steps": average.steps, "state": average.state},
        "run": dict(vars(run)),
    }
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def _load_state(
    path: Path, fingerprint: str, network: Network, optimizer: torch.optim.Optimizer,
    average: Average | None, device: torch.device,
) -> Fit | None:  # fmt: skip
    if not path.is_file():
        return None
    state = torch.load(path, map_location=device, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise UsageError(
            f"{path.parent}: holds an interrupted run of other settings, data or code; "
            "give another --out, or remove the folder"
        )
    network.body.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.load(state["average"]["steps"], state["average"]["state"])
    return Fit(**state["run"])
