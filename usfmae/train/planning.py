"""`usfmae pretrain --plan`: what a run would be and cost, before anything starts."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from rich.text import Text

from openus.console import err, print_json
from openus.console import out as stdout
from openus.errors import UsageError
from usfmae.model.mae import MAE
from usfmae.stream.foreign import is_foreign
from usfmae.stream.index import Index
from usfmae.stream.loader import Loader
from usfmae.stream.plan import Cursor
from usfmae.train.cost import cost_of, parameters, peak_flops
from usfmae.train.data import Reading, local_batch, make_loader, open_corpus
from usfmae.train.distributed import World, describe, pick_device
from usfmae.train.objective import Objective
from usfmae.train.optim import build_optimizer
from usfmae.train.recipe import Recipe
from usfmae.train.share import is_sharded

TRIAL = {"cpu": 4, "cuda": 64}  # images in a trial step


@dataclass(frozen=True)
class Planned:
    """What would be done. Sizes in bytes (memory: of one process), times in seconds; memory and time are estimates."""

    recipe: str
    ranks: int
    samples: int
    shards: int
    corpus_bytes: int
    shards_read_per_rank: int
    batch_size: int
    steps_per_epoch: int
    epochs: int
    total_steps: int
    images: int
    tail: str
    encoder_parameters: int
    decoder_parameters: int
    forward_flops_per_image: int
    training_flops_per_image: int
    total_flops: float
    state_bytes: int
    activation_bytes_per_image: int
    device: str
    images_per_second: float
    mfu: float | None
    seconds: float


def make_plan_of(index: Index, recipe: Recipe, world: World) -> Planned:
    """Count what can be counted, time two steps of a small batch on synthetic images for the rest.

    The time is that of the network on this device; reading data takes more where it cannot keep up.
    """
    loader = make_loader(index, recipe, world, Reading(), Cursor())
    assert isinstance(loader, Loader)
    config, t = recipe.mae_config(), recipe.training
    cost, (encoder, decoder) = cost_of(config), parameters(config)
    rate = images_per_second(recipe, world) * world.size
    images = t.steps(loader.steps_per_epoch) * t.batch_size
    peak = peak_flops(world.device)
    half = 1.0 if t.precision == "fp32" else 0.6  # norms and residuals stay in float32
    copies = 4 + (1 if t.ema else 0)  # weights, gradients, two moments, and the average
    parts = world.size if is_sharded(t, world) else 1
    kept = cost.activations * half
    if t.checkpointing:  # the input of each block, and one block at a time
        kept /= max(1.0, (config.depth + config.decoder_depth) / 2)
    # Rank r of w takes positions r, r + w, …; position p lies in lane p mod lanes.
    lane_share = 1 / math.gcd(loader.plan.lanes, world.size) if loader.plan.lanes else 1.0
    return Planned(
        recipe=recipe.name, ranks=world.size, samples=len(index.rows), shards=len(index.shards),
        corpus_bytes=index.bytes,
        shards_read_per_rank=max(1, round(len(index.shards) * lane_share)), batch_size=t.batch_size,
        steps_per_epoch=loader.steps_per_epoch, epochs=t.epochs, total_steps=t.steps(loader.steps_per_epoch),
        images=images, tail=loader.tail_note, encoder_parameters=encoder, decoder_parameters=decoder,
        forward_flops_per_image=cost.forward, training_flops_per_image=cost.training,
        total_flops=float(cost.training) * images, state_bytes=4 * copies * (encoder + decoder) // parts,
        activation_bytes_per_image=round(kept), device=describe(world), images_per_second=round(rate, 2),
        mfu=None if peak is None else round(rate / world.size * cost.training / peak, 4),
        seconds=round(images / rate, 1),
    )  # fmt: skip


def images_per_second(recipe: Recipe, world: World) -> float:
    """Of whole steps (forward, backward, AdamW) on synthetic images on this device."""
    device, config = world.device, recipe.mae_config()
    size = min(TRIAL[device.type], local_batch(recipe, world))
    mae = MAE(config).to(device)
    mae.checkpointing = recipe.training.checkpointing
    mae.narrow = recipe.training.precision == "bf16-residual"
    optimizer, objective = build_optimizer(mae, recipe.optim, device), Objective(recipe.objective, config)
    images = torch.randn(size, config.in_chans, config.img_size, config.img_size, device=device)
    seeds = torch.arange(size, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision != "fp32"):
            loss = objective(mae, images, seeds, 0).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    began = time.perf_counter()
    step()
    step()
    return 2 * size / (time.perf_counter() - began)


def plan_command(data: str, recipe: Recipe, *, ranks: int, device: str, as_json: bool) -> None:
    """Print the plan for so many processes. Raises UsageError for shards without a manifest: nothing can be counted."""
    world = World(ranks, 0, 0, pick_device(device))
    if is_foreign(data):
        raise UsageError(f"--plan counts what a manifest lists; run 'openus index' on {data} first")
    with err.status("timing two trial steps"):  # a large network takes a minute on a CPU
        planned = make_plan_of(open_corpus(data, recipe), recipe, world)
    if as_json:
        print_json(asdict(planned))
        return
    table = Table(title=f"plan of '{planned.recipe}'", show_header=False, title_justify="left", box=None)
    for name, value, *remarks in _rows(planned):
        table.add_row(name, Text.assemble(value, *((f"\n{remark}", "dim") for remark in remarks)))
    stdout.print(table)


def _rows(p: Planned) -> list[tuple[str, ...]]:
    """Name, value and remarks, each no wider than a terminal if it can be."""
    every = (
        "from all of them" if p.shards_read_per_rank == p.shards else f"{p.shards_read_per_rank:,} of them"
    )
    trial = "two trial steps" if p.ranks == 1 else f"two trial steps of one process, times {p.ranks:,}"
    mfu = "" if p.mfu is None else f", {p.mfu:.0%} of the device's peak"
    return [
        ("data", f"{p.samples:,} images in {p.shards:,} shards, {p.corpus_bytes / 1e9:,.2f} GB",
                 *([f"each process reads {every}"] if p.ranks > 1 else [])),
        ("steps", f"{p.total_steps:,} of batch {p.batch_size:,}: {p.steps_per_epoch:,} an epoch, "
                  f"{p.epochs:,} epochs at most", p.tail),
        ("parameters", f"{p.encoder_parameters / 1e6:,.1f} M encoder + {p.decoder_parameters / 1e6:,.1f} M decoder"),
        ("arithmetic", f"{p.total_flops:,.3g} FLOP in all",
                       f"{p.training_flops_per_image / 1e9:,.2f} GFLOP an image in training, "
                       f"{p.forward_flops_per_image / 1e9:,.2f} forward"),
        ("memory", f"{p.state_bytes / 2**30:,.2f} GiB for weights, gradients and optimiser"
                   f"{' of a process' if p.ranks > 1 else ''}",
                   f"and about {p.activation_bytes_per_image / 2**20:,.0f} MiB for each image taken at once"),
        ("speed", f"{p.images_per_second:,.1f} images/s on {p.device}{mfu}", f"{trial}; data not counted"),
        ("time", _duration(p.seconds)),
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours >= 48:
        return f"about {hours / 24:,.1f} days"
    return f"about {hours} h {rest // 60} min" if hours else f"about {rest // 60} min {rest % 60} s"
