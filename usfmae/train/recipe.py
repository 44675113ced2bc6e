"""Recipes: everything that decides the result of a pretraining run, in one readable file.

A recipe is a YAML file (those of this package lie in `usfmae/recipes`) that names only what differs from the
defaults below. Unknown fields are refused. The resolved recipe, with every field, is saved with the run;
a run goes on only under the recipe it began with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openus.errors import UsageError, did_you_mean
from usfmae.model.mae import GREY_MEAN, GREY_STD, MAEConfig
from usfmae.stream.mixture import Mixture
from usfmae.train.fields import build, flatten, one_of, plain, set_field

FREE = (
    "name", "report.", "training.micro_batch", "training.checkpointing", "training.compile", "training.shard",
)  # fmt: skip
"""Fields that may change between stop and resume."""

SHARES = (
    "data.scale", "data.flip", "data.flip_v", "data.rotate", "data.blur", "data.speckle", "optim.betas",
)  # fmt: skip
NOT_NEGATIVE = (
    "data.degrees", "data.strength", "optim.lr", "optim.min_lr", "optim.weight_decay", "training.micro_batch",
    "training.most_images", "guard.spike", "guard.rollbacks", "report.pictures", "report.probe_every",
)  # fmt: skip

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@dataclass(frozen=True, kw_only=True)
class MixtureRecipe:
    """How often each source is drawn; see `usfmae.stream.mixture.Mixture`. The defaults draw each sample once."""

    temperature: float = 1.0
    """A source of n samples gets a share in proportion to n^(1/temperature)."""
    organs: float = 0.0
    """The same across anatomies, before sources; 0: anatomies do not matter."""
    cap: float = 1.0
    """Greatest share of one source."""
    repeats: float = 0.0
    """How often a sample may be drawn in an epoch, on average over its source; 0: no limit."""
    factors: dict[str, float] = field(default_factory=dict)
    """Multiplies the share of the named sources; 0 leaves one out."""
    samples: int = 0
    """Draws in an epoch; 0: as many as the set has samples."""

    def build(self) -> Mixture | None:
        """The mixture, or None for every sample once an epoch."""
        if self == MixtureRecipe():
            return None
        return Mixture(
            temperature=self.temperature, organs=self.organs or None, cap=self.cap,
            repeats=self.repeats or math.inf, factors=self.factors, samples=self.samples or None,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is shown, and how it is altered."""

    set: str = "pretrain"
    """Set of the corpus."""
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Further sets, with the published splits taken from each: {bus-bra: [fold2, fold3, fold4, fold5]} adds the
    training folds of a benchmark and leaves fold 1 for its test."""
    mixture: MixtureRecipe = field(default_factory=MixtureRecipe)
    """How often each source is drawn."""
    order: str = "auto"
    """global (any sample may follow any other), blocks (few shards at a time; for remote shards), or auto: blocks for a
    remote corpus."""
    lanes: int = 16
    """Shards read side by side by the order in blocks. Where it is a multiple of the number of processes, each reads
    its own shards only."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random resized crop, as a share of the image."""
    interpolation: str = "linear"
    """Of the resize of the crop: linear or cubic."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    flip_v: float = 0.0
    """Probability of a top-bottom flip."""
    rotate: float = 0.0
    """Probability of a rotation."""
    degrees: float = 15.0
    """Greatest angle of a rotation, to either side."""
    blur: float = 0.0
    """Probability of a Gaussian blur of 0.1 to 2 pixels."""
    speckle: float = 0.0
    """Probability of multiplicative noise."""
    strength: float = 0.1
    """Standard deviation of that noise."""


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The network; see `usfmae.model.mae.MAEConfig`."""

    size: str = "base"
    """tiny, small, base, large or huge; the three fields below replace parts of it where they are not 0."""
    embed_dim: int = 0
    """Width of the encoder's tokens."""
    depth: int = 0
    """Blocks of the encoder."""
    num_heads: int = 0
    """Attention heads of a block."""
    img_size: int = 224
    """Side of a view in pixels; a multiple of patch_size."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    in_chans: int = 1
    """1: grey. 3: the grey image three times, for continuing colour weights as they are."""
    mean: tuple[float, ...] = GREY_MEAN
    """Of pixels in 0..1, one for each channel; subtracted."""
    std: tuple[float, ...] = GREY_STD
    """Of pixels in 0..1, one for each channel; divided by."""
    positions: str = "sincos"
    """sincos (fixed) or learned."""
    decoder: str = "full"
    """full (the reference's) or cross (CrossMAE: faster)."""
    decoder_embed_dim: int = 512
    """Width of the decoder's tokens."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_num_heads: int = 16
    """Attention heads of a decoder block."""
    init: str = ""
    """Weights to begin with (a file, folder or run); empty: random."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRecipe:
    """What is hidden and what must be painted."""

    masking: str = "random"
    """A file of usfmae/model/masking: random, drawn, block, sector or frequency."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden."""
    predict_ratio: float = 1.0
    """Share of the hidden patches that is painted and scored; below 1 only with the cross decoder."""
    target: str = "pixels"
    """pixels, normalised (each patch by its own mean and variance), deblur or denoise."""


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """AdamW and its schedule: linear warm-up from 0, then half a cosine, step by step."""

    lr: float = 0.0
    """Peak learning rate; 0: base_lr times batch_size / 256."""
    base_lr: float = 1.5e-4
    """Peak learning rate for a batch of 256."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    warmup: float = 0.05
    """Share of all steps spent warming up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices."""
    decay_all: bool = False
    """Decay biases, norms and tokens too (the reference does not)."""
    clip: float = 0.0
    """Largest norm of the gradient; 0: no limit."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How long and how."""

    epochs: int = 100
    """Passes over the data."""
    most_images: int = 0
    """The run ends after so many images even if its epochs are not over; 0: no limit."""
    batch_size: int = 256
    """Images in one step, over all processes and accumulated parts together."""
    micro_batch: int = 0
    """Most images a process takes at once, the rest of its share by accumulation; 0: as many as fit."""
    precision: str = "bf16"
    """bf16 (autocast; norms and the residual stream in float32), bf16-residual (the stream in bfloat16 too: some 5 %
    faster on a GPU, a little less exact) or fp32."""
    compile: bool = False
    """torch.compile the step: slower start, faster steps."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    shard: bool = False
    """Shard parameters and optimiser over the processes (FSDP2) instead of copying them (DDP)."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, kept beside them; 0: none. Less in the first steps."""
    seed: int = 0
    """Of the order of samples, their views, what is hidden, and the first weights."""
    deterministic: bool = False
    """Only deterministic kernels on the GPU: same losses twice, somewhat slower. On the CPU always so."""

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        whole = steps_per_epoch * self.epochs
        return min(whole, max(1, self.most_images // self.batch_size)) if self.most_images else whole


@dataclass(frozen=True, kw_only=True)
class GuardRecipe:
    """What happens when the loss or its gradient is not a number, or the loss leaps."""

    spike: float = 0.0
    """A loss above this many times the running mean counts as a fault; 0: only a loss or gradient that is no number."""
    rollbacks: int = 3
    """After so many returns to the last checkpoint the run ends with an error."""


@dataclass(frozen=True, kw_only=True)
class ReportRecipe:
    """What the run says of itself. Nothing here changes the result, so it may change between stop and resume."""

    log_every: int = 10
    """Steps between lines of log.jsonl."""
    save_every: int = 1000
    """Steps between checkpoints; one more at the end of the run and whenever it is stopped."""
    keep: int = 2
    """Checkpoints that are kept."""
    tensorboard: bool = True
    """Write RUN/tb."""
    wandb: str = ""
    """Project of Weights & Biases to log to as well; empty: none."""
    pictures: int = 8
    """Images in the reconstruction grid written beside each checkpoint; 0: none."""
    probe_set: str = ""
    """Labelled set for k-NN and a linear probe during training; empty: none."""
    probe_label: str = ""
    """Label of that set to predict."""
    probe_every: int = 0
    """Epochs between probes; 0 and 1: after each."""
    figure: bool = True
    """Draw curves.png and write report.html when the run ends or is stopped."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe; see each part."""

    name: str = "custom"
    """For people; decides nothing."""
    data: DataRecipe = field(default_factory=DataRecipe)
    """What is shown."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    """The network."""
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    """What it learns from."""
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    """How it is changed."""
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    """How long, and how the work is done."""
    guard: GuardRecipe = field(default_factory=GuardRecipe)
    """What is done when the loss goes wrong."""
    report: ReportRecipe = field(default_factory=ReportRecipe)
    """What the run says of itself."""

    def __post_init__(self) -> None:
        t, o = self.training, self.optim
        self.data.mixture.build()
        one_of("data.interpolation", self.data.interpolation, ("linear", "cubic"))
        one_of("data.order", self.data.order, ("auto", "global", "blocks"))
        one_of("training.precision", t.precision, ("bf16", "bf16-residual", "fp32"))
        from usfmae.model.masking import MASKINGS
        from usfmae.model.targets import TARGETS

        one_of("objective.masking", self.objective.masking, MASKINGS)
        one_of("objective.target", self.objective.target, TARGETS)
        for name, value in (("training.epochs", t.epochs), ("training.batch_size", t.batch_size),
                            ("report.log_every", self.report.log_every), ("report.save_every", self.report.save_every),
                            ("report.keep", self.report.keep), ("data.lanes", self.data.lanes)):  # fmt: skip
            if value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")
        if not 0 <= o.warmup <= 1 or o.lr < 0 or o.base_lr <= 0 or o.clip < 0 or not 0 <= t.ema < 1:
            raise UsageError(
                "optim.warmup must be within 0..1, learning rates and clip not negative, training.ema below 1"
            )
        flat = flatten(self.to_dict())
        for name in SHARES:
            if not all(0 <= value <= 1 for value in np.atleast_1d(flat[name])):
                raise UsageError(f"{name} must be within 0..1, found {flat[name]}")
        for name in NOT_NEGATIVE:
            if not flat[name] >= 0:
                raise UsageError(f"{name} must not be negative, found {flat[name]}")
        if not 0 < self.data.scale[0] <= self.data.scale[1]:
            raise UsageError(f"data.scale must be two shares in order, above 0, found {self.data.scale}")
        if max(o.betas) >= 1:
            raise UsageError(f"optim.betas must be below 1, found {o.betas}")
        self.mae_config()

    @property
    def peak_lr(self) -> float:
        return self.optim.lr or self.optim.base_lr * self.training.batch_size / 256

    def mae_config(self) -> MAEConfig:
        """The network of this recipe; raises `UsageError` when sizes do not fit together."""
        m, o = self.model, self.objective
        changes: dict[str, Any] = {
            k: getattr(m, k) for k in ("embed_dim", "depth", "num_heads") if getattr(m, k)
        }
        same = ("img_size", "patch_size", "in_chans", "mean", "std", "positions", "decoder", "decoder_embed_dim",
                "decoder_depth", "decoder_num_heads")  # fmt: skip
        changes |= {k: getattr(m, k) for k in same}
        return MAEConfig.preset(
            m.size, mask_ratio=o.mask_ratio, predict_ratio=o.predict_ratio,
            norm_pix_loss=o.target == "normalised", **changes,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(plain(asdict(self)), sort_keys=False)


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of this package by name, or a YAML file; `overrides` are like ``training.epochs=3``.

    Raises `UsageError` for an unknown recipe or field, or a value of the wrong kind.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(p.stem for p in RECIPES.glob("*.yaml") if not p.stem.startswith("finetune"))
        if str(name) not in known:
            hint = did_you_mean(str(name), known)
            raise UsageError(
                f"unknown recipe '{name}', known: {', '.join(known)} (or give a .yaml file){hint}"
            )
        path = RECIPES / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such recipe file") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected fields like 'training:', found {type(values).__name__}")
    values.setdefault("name", path.stem)
    for override in overrides:
        set_field(values, override)
    return recipe_from(values, str(path))


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe of nested dictionaries; `where` is named in the message of a `UsageError`."""
    recipe = build(Recipe, values, where, "")
    assert isinstance(recipe, Recipe)
    return recipe


def changed_fields(old: Recipe, new: Recipe) -> list[str]:
    """Fields that decide the result and differ: ``["training.seed: 0 -> 1"]``.

    Reports may differ, and how the work is cut up (memory and speed), which moves losses by rounding only.
    """
    a, b = flatten(old.to_dict()), flatten(new.to_dict())
    return [f"{k}: {a[k]} -> {b[k]}" for k in a if a[k] != b[k] and not k.startswith(FREE)]
