"""From the recipe to the loader and to what the network is fed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openus.errors import CorpusError, UsageError, did_you_mean
from usfmae.model.mae import MAEConfig
from usfmae.stream.augment import Augment
from usfmae.stream.cache import DEFAULT_LIMIT, ShardCache, default_folder
from usfmae.stream.decode import decode_side_of
from usfmae.stream.foreign import ForeignLoader, ForeignSet, is_foreign
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.mixture import make_plan
from usfmae.stream.plan import Cursor
from usfmae.train.distributed import World
from usfmae.train.recipe import MixtureRecipe, Recipe

if TYPE_CHECKING:
    from usfmae.stream.pixels import PixelCache

MOST_ON_CPU = 64  # images at once on a CPU: more brings no speed there, only memory


def local_batch(recipe: Recipe, world: World) -> int:
    """Images of one process in one step."""
    size = recipe.training.batch_size
    if size % world.size:
        raise UsageError(
            f"training.batch_size {size} cannot be shared evenly by {world.size} processes; "
            f"use a multiple of {world.size}, or another number of processes"
        )
    return size // world.size


@dataclass(frozen=True)
class Reading:
    """How data are read; nothing here changes what is read.

    workers  processes that decode, for each training process; 0: this one
    strict   end at the first sample that cannot be decoded
    decoded  "": decode again in every epoch; "memory" or a folder: keep the decoded pictures there
    shard_cache, shard_cache_gb  where remote shards are kept, and how much of them; "" and 0: 34 GB (32 GiB) in
             $OPENUS_CACHE/shards
    decode   where JPEGs are decoded: "cpu", "gpu" (nvJPEG), or "auto": measured at the start, the faster one. Pixels
             of the two differ by rounding, so a deterministic recipe takes the CPU unless told otherwise
    """

    workers: int = 0
    strict: bool = False
    decoded: str = ""
    decode: str = "auto"
    shard_cache: str = ""
    shard_cache_gb: float = 0.0

    def __post_init__(self) -> None:
        if self.decode not in ("auto", "cpu", "gpu"):
            raise UsageError(
                f"--decode {self.decode}: use auto, cpu or gpu{did_you_mean(self.decode, ('auto', 'cpu', 'gpu'))}"
            )


def open_data(data: str | Path, recipe: Recipe) -> Index | ForeignSet:
    """The recipe's set of a corpus, or tars without a manifest (`usfmae.stream.foreign`).

    Raises UsageError, CorpusError: there is none, or the recipe asks of foreign tars what only a manifest tells.
    """
    if not is_foreign(str(data)):
        return open_corpus(data, recipe)
    mixture = recipe.data.mixture
    if mixture != MixtureRecipe(samples=mixture.samples):
        raise UsageError("data.mixture weighs sources, and shards without a manifest have one; leave it out")
    if recipe.report.probe_set:
        raise UsageError(
            "report.probe_set is a set of a corpus; shards without a manifest have none, leave it out"
        )
    return ForeignSet(str(data), mixture.samples)


def open_corpus(data: str | Path, recipe: Recipe) -> Index:
    """The recipe's set of a corpus. Raises CorpusError."""
    try:
        return open_index(data, recipe.data.set, also=recipe.data.also)
    except CorpusError as error:
        if f"no set '{recipe.data.set}'" not in str(error):
            raise
        raise CorpusError(f"{error}; pretrain on one of them with --set data.set=NAME") from error


def open_decoded(index: Index | ForeignSet, recipe: Recipe, reading: Reading) -> PixelCache | None:
    """The cache of decoded pictures that `reading` asks for."""
    if not reading.decoded:
        return None
    if isinstance(index, ForeignSet):
        raise UsageError(f"--decoded wants to know every picture; run 'openus index' on {index.urls} first")
    from usfmae.stream.pixels import open_pixels

    return open_pixels(index, decode_side_of(recipe.model.img_size), reading.decoded)


def make_loader(
    index: Index | ForeignSet,
    recipe: Recipe,
    world: World,
    reading: Reading,
    cursor: Cursor,
    pixels: PixelCache | None = None,
    device: torch.device | None = None,
) -> Loader | ForeignLoader:
    """The loader of this process, standing at `cursor`; `device`: where JPEGs are decoded, None: by the workers."""
    common: dict[str, Any] = {
        "batch_size": local_batch(recipe, world), "size": recipe.model.img_size, "seed": recipe.training.seed,
        "workers": reading.workers, "rank": world.rank, "world": world.size, "cursor": cursor,
        "epochs": recipe.training.epochs, "crop": recipe.data.scale, "interpolation": recipe.data.interpolation,
        "strict": reading.strict, "pin": world.device.type == "cuda",
    }  # fmt: skip
    if isinstance(index, ForeignSet):
        steps = -(-index.count // recipe.training.batch_size)
        return ForeignLoader(index.urls, steps_per_epoch=steps, **common)
    d = recipe.data
    plan = make_plan(index, recipe.training.seed, order=d.order, lanes=d.lanes, mixture=d.mixture.build())
    cache = None
    if reading.shard_cache or reading.shard_cache_gb:
        limit = int(reading.shard_cache_gb * 1e9) or DEFAULT_LIMIT
        cache = ShardCache(reading.shard_cache or default_folder(), limit)
    return Loader(index, plan=plan, pixels=pixels, shard_cache=cache, device=device, **common)


def decoding_device(
    loader: Loader | ForeignLoader, recipe: Recipe, world: World, reading: Reading
) -> torch.device | None:
    """Where this run decodes JPEGs, as `reading` asks for; None: on the cores.

    All processes do as the first. Raises UsageError for a GPU that is not there.
    """
    if reading.decode == "gpu" and world.device.type != "cuda":
        raise UsageError(f"--decode gpu: this run computes on {world.device}; use auto or cpu")
    if reading.decode == "gpu" and reading.decoded:
        raise UsageError(
            "--decode gpu: pictures kept by --decoded are decoded by the CPU; give one of the two"
        )
    fixed = recipe.training.deterministic or reading.decoded or world.device.type != "cuda"
    if isinstance(loader, ForeignLoader) or reading.decode == "cpu" or (reading.decode == "auto" and fixed):
        return None
    if reading.decode == "gpu":
        return world.device
    from usfmae.stream.trial import choose

    chosen = ""
    if world.leads:
        chosen = "cpu" if choose(loader, world.device).device is None else "gpu"
    return world.device if world.tell(chosen) == "gpu" else None


class Feeder:
    """Brings batches to the device and augments them there. `micro_batch`: images to be taken at once."""

    def __init__(self, recipe: Recipe, config: MAEConfig, world: World) -> None:
        d, self.device = recipe.data, world.device
        local = local_batch(recipe, world)
        limit = MOST_ON_CPU if self.device.type == "cpu" else local
        self.micro_batch = min(local, recipe.training.micro_batch or limit)
        self.augment = Augment(
            flip=d.flip, flip_v=d.flip_v, rotate=d.rotate, degrees=d.degrees, blur=d.blur, speckle=d.speckle,
            strength=d.strength, mean=_one_or_more(config.mean), std=_one_or_more(config.std),
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images float [B,C,S,S], normalised, and seeds int64 [B], on the device."""
        images = batch.images.to(self.device, non_blocking=True)
        seeds = batch.seeds.to(self.device, non_blocking=True)
        return self.augment(images, seeds), seeds

    def parts(self, images: Tensor, seeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch in equal pieces (to within one image) of at most `micro_batch`."""
        count = -(-len(images) // self.micro_batch)
        yield from zip(images.tensor_split(count), seeds.tensor_split(count), strict=True)


def _one_or_more(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else values
