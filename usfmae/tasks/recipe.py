"""Recipes of fine-tuning: every value of a run, in a YAML file that travels with the package.

A recipe is a name (``finetune-base``) or the path of a YAML file of one's own; unknown fields are refused.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from openus.errors import UsageError, did_you_mean

RECIPES = Path(__file__).resolve().parents[1] / "recipes"

Aspect = Literal["stretch", "pad", "crop"]


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Mild random changes of a training image, drawn on the device for a whole batch at once."""

    hflip: float = 0.5
    """Chance of a left-right mirror image."""
    vflip: float = 0.0
    """Chance of an upside-down image; 0 where the beam's direction means something (shadows point down)."""
    rotate: float = 10.0
    """Largest rotation in degrees, either way."""
    zoom: tuple[float, float] = (0.9, 1.2)
    """Range of magnification, drawn evenly on a log scale; above 1 looks closer."""
    stretch: float = 0.1
    """Largest change of width against height, as a share."""
    shift: float = 0.05
    """Largest displacement as a share of the side."""
    gain: float = 0.1
    """Largest change of brightness: every grey value is multiplied by 1 ± so much."""
    contrast: float = 0.0
    """Largest change of the distance from the mean grey, either way, on a log scale; black stays black."""
    gamma: float = 0.2
    """Largest change of the exponent of the grey curve, either way, on a log scale."""
    erase: float = 0.0
    """Chance that a box of 2 to 20 % of the area is blackened."""

    def __post_init__(self) -> None:
        limits = {"rotate": 180.0, "gamma": 4.0, "contrast": 4.0, "stretch": 2.0}
        for item in dataclasses.fields(self):
            value, high = getattr(self, item.name), limits.get(item.name, 1.0)
            if item.name != "zoom" and not 0 <= value <= high:
                raise UsageError(f"recipe: augment.{item.name} is {value}, expected 0 to {high:g}")
        if not 0.1 <= self.zoom[0] <= self.zoom[1] <= 10:
            raise UsageError(
                f"recipe: augment.zoom is {list(self.zoom)}, expected two magnifications of 0.1 to 10 in order"
            )


@dataclass(frozen=True, kw_only=True)
class FocusSettings:
    """A segmenter that finds the structure, so that the classifier sees it enlarged."""

    segmenter: str = ""
    """Folder of a segmenter that `usfmae finetune` wrote; ``{fold}`` stands for the fold's name. Empty: no focus, and
    the other values mean nothing."""
    size: int = 160
    """Side in pixels of what the classifier sees; the recipe's own `size` is that of the whole image."""
    margin: float = 1.5
    """Side of the square that is cut out, in units of the structure's longer axis."""
    least: float = 0.3
    """The smallest square, as a share of the image's side."""
    jitter: float = 0.15
    """In training the square is moved and resized by up to so much of its size."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 16, 2048),
            ("margin", 0.5, 10),
            ("least", 0.01, 1),
            ("jitter", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"recipe: focus.{name} is {getattr(self, name)}, expected {low} to {high}")

    def of_fold(self, fold: str) -> FocusSettings:
        """With the name of a fold in the path."""
        return dataclasses.replace(self, segmenter=self.segmenter.replace("{fold}", fold))


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Everything that decides a fine-tuning run besides the data, the model and the seed."""

    name: str = "finetune"
    size: int = 224
    """Side of the square input in pixels."""
    aspect: Aspect = "stretch"
    """How an image becomes square: `stretch` (as the paper), `pad` with black, or `crop` the centre."""
    frames_per_clip: int | None = None
    """At most so many frames of one clip, evenly spaced; None keeps all."""

    epochs: int = 50
    batch_size: int = 32
    lr: float = 5e-4
    """Peak learning rate of the head, as used (no scaling by batch size)."""
    min_lr: float = 1e-6
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    """Not applied to biases, norms, positions and tokens."""
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 0.75
    """Factor of the learning rate from each layer to the one before it; 1 treats all layers alike."""
    clip_norm: float | None = 1.0

    drop_path: float = 0.1
    pool: Literal["avg", "token"] = "avg"
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced", "sqrt"] = "balanced"
    """Weights of the classes in the loss by their frequency: inverse, its square root, or none."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    focus: FocusSettings = field(default_factory=FocusSettings)

    ema: float = 0.0
    """Decay per step of the moving average of the weights that is scored and kept; 0 is off."""
    patience: int = 0
    """Stop after so many epochs without a better validation score; 0 never stops early."""
    monitor: str = ""
    """Validation score that chooses the epoch; empty: the task's (auroc, mean_auroc, dice, mae); loss always works."""
    tta: Literal["none", "flip"] = "flip"
    """Test-time augmentation: probabilities averaged over the image and its mirror image."""
    calibrate: Literal["none", "temperature", "vector"] = "vector"
    """Of a classifier, on the validation part: a temperature, and with `vector` an offset per class, so that
    neither class weights nor overconfidence decide where the classes divide."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or float32; auto is bf16 where the hardware multiplies it (GPU, AMX, AVX-512)."""
    compile: bool = False
    """Compile the training forward and backward (torch.compile); pays only for runs of many minutes."""
    resamples: int = 1000
    """Bootstrap draws of the intervals."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"recipe '{self.name}': {name} is {value}, expected {low} to {high}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"recipe '{self.name}': betas are {list(self.betas)}, expected two below 1")

    def with_(self, **changes: Any) -> FinetuneRecipe:
        """A copy with some values replaced; None leaves a value as it is."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for YAML and JSON."""
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("size", 16, 2048), ("epochs", 1, 100_000), ("batch_size", 1, 65_536), ("lr", 0, 10), ("min_lr", 0, 10),
    ("warmup_epochs", 0, 100_000), ("weight_decay", 0, 10), ("layer_decay", 0.01, 1), ("drop_path", 0, 0.99),
    ("label_smoothing", 0, 0.99), ("mixup", 0, 10), ("ema", 0, 0.999_999), ("resamples", 0, 1_000_000),
    ("frames_per_clip", 1, 1_000_000),
)  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> FinetuneRecipe:
    """Read a recipe by name or path; `overrides` are like ``epochs=3`` or ``augment.rotate=0``."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    try:
        data = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        known = sorted(file.stem for file in RECIPES.glob("finetune-*.yaml"))
        raise UsageError(
            f"no fine-tuning recipe '{name}'{did_you_mean(str(name), known)} (known: {', '.join(known)}; "
            "or give the path of a .yaml file)"
        ) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    for override in overrides:
        _override(data, override)
    return from_dict(data, str(path))


def _override(data: Any, text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals or not isinstance(data, dict):
        raise UsageError(f"--set wants FIELD=VALUE, like epochs=20; found '{text}'")
    *groups, leaf = name.strip().split(".")
    for group in groups:
        data = data.setdefault(group, {})
    try:
        data[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: not a value ({' '.join(str(error).split())})") from error


def from_dict(data: Any, where: str) -> FinetuneRecipe:
    """Check plain values and make a recipe of them; `where` names their file in messages."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected a mapping of fields, found {type(data).__name__}")
    return typing.cast(FinetuneRecipe, _build(FinetuneRecipe, data, where, ""))


def _build(kind: type[Any], data: Mapping[str, Any], where: str, inside: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]
    values = {}
    for name, value in data.items():
        if name not in known:
            raise UsageError(f"{where}: unknown field '{inside}{name}'{did_you_mean(str(name), known)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: '{inside}{name}' must be a mapping of fields, found {value!r}")
            values[name] = _build(typing.cast("type[Any]", hint), value, where, f"{name}.")
        else:
            values[name] = _checked(value, hint, where, inside + name)
    return kind(**values)


def _checked(value: Any, hint: Any, where: str, name: str) -> Any:
    """The value as its declared type, or one clear line. YAML reads 1e-4 as text: numbers are converted."""
    options = typing.get_args(hint)
    origin = typing.get_origin(hint)
    try:
        if value is None and type(None) in options:
            return None
        if origin is Literal:
            if value in options:
                return value
            wanted = f"one of {', '.join(map(str, options))}"
            raise UsageError(
                f"{where}: '{name}' is {value!r}, expected {wanted}{did_you_mean(str(value), options)}"
            )
        if origin is tuple:
            return tuple(float(item) for item in _exactly(value, len(options)))
        plain = next((kind for kind in (options or (hint,)) if kind is not type(None)), str)
        if plain in (int, float) and isinstance(value, bool):
            raise TypeError
        if plain is int and float(value) != int(float(value)):
            raise TypeError
        return plain(float(value)) if plain is int else plain(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{where}: '{name}' is {value!r}, expected {getattr(hint, '__name__', hint)}"
        ) from None


def _exactly(value: Any, length: int) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) != length:
        raise TypeError
    return list(value)
