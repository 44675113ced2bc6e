"""Networks for tasks: our encoder with a head, or any timm model by name, behind one face.

A `Network` takes grey images in 0..1, one channel, and does its own normalisation, so that training and
prediction cannot disagree on it. Its `architecture` is plain JSON, enough to build it again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openus.errors import OpenUSError, UsageError, did_you_mean
from usfmae.model.foreign import unwrap
from usfmae.model.weights import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    WeightsError,
    backbone,
    build_encoder,
    load_weights,
    read_tensors,
)

FOLD = "{fold}"


@dataclass(frozen=True)
class Start:
    """Where a network begins.

    `weights`: a run, a checkpoint folder or a weights file. `timm`: a timm model by name, from random weights,
    from `weights` (a file of that model), or `pretrained` (what timm publishes). `size`: a fresh encoder of ours
    ("tiny" … "large", or "small/8" for patches of 8 px). ``{fold}`` in `weights` stands for the name of the fold.
    """

    weights: str | None = None
    timm: str | None = None
    pretrained: bool = False
    size: str | None = None

    def __post_init__(self) -> None:
        ways = (self.weights is not None or self.timm is not None) + (self.size is not None)
        if ways != 1:
            raise UsageError(
                "give one of --weights (a run or a weights file), --model (a timm name), --scratch (a size)"
            )
        if self.pretrained and (self.timm is None or self.weights is not None):
            raise UsageError(
                "--pretrained goes with --model alone: it asks timm for the weights it publishes"
            )

    def of_fold(self, fold: str) -> Start:
        """With ``{fold}`` in the path of the weights replaced by the name of a fold."""
        if self.weights is None or FOLD not in self.weights:
            return self
        return replace(self, weights=self.weights.replace(FOLD, fold))

    @property
    def fresh(self) -> bool:
        """Whether the network begins with random weights."""
        return self.weights is None and not self.pretrained

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        if self.weights is not None:
            path = Path(self.weights.replace(FOLD, "").rstrip("/-_."))
            return path.name if path.is_dir() else path.stem
        return (self.timm or f"vit-{self.size}".replace("/", "-p")) + ("-scratch" if self.fresh else "")


class Network(nn.Module):
    """A model that normalises its own input.

    forward: float [B, 1, S, S] in 0..1 (grey) to whatever `body` gives for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, architecture: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.body = body
        self.architecture = dict(architecture)
        if self.architecture["family"] == "timm":
            body.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def normalise(self, grey: Tensor) -> Tensor:
        """Grey [B, 1, S, S] in 0..1 to the body's input [B, C, S, S]."""
        return (grey - self.mean) / self.std

    def forward(self, grey: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(grey))
        return out

    @property
    def input(self) -> dict[str, Any]:
        """Normalisation and channels, as stored in config.json."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


def build(
    start: Start, *, outputs: int, size: int, drop_path: float = 0.0,
    pool: Literal["avg", "token"] = "avg",
    grey: tuple[float, float] = (0.2, 0.2),
) -> Network:  # fmt: skip
    """The network of a run, with its starting weights and a fresh head of `outputs` values.

    grey: mean and deviation of the training images (0..1), the normalisation of networks that bring none.
    Raises UsageError (unknown name), WeightsError (which keys do not fit, NaN), OpenUSError (unreachable).
    """
    if start.timm is not None:
        return _timm_network(start, outputs, size, drop_path, grey)
    ours = read_folder_config(start.weights)
    if ours.get("architecture", {}).get("family") == "focus":
        raise UsageError(
            f"{start.weights}: is a segmenter before a classifier, for 'usfmae predict' and export to onnx; give "
            "the weights that its classifier began with"
        )
    if ours.get("architecture", {}).get("family") == "timm":
        state = backbone(read_tensors(Path(str(start.weights)) / WEIGHTS), ours)
        return from_state(ours, state, str(start.weights), outputs=outputs, size=size, drop_path=drop_path)
    if start.size is not None:
        from usfmae.model.mae import MAEConfig

        config = MAEConfig.preset(start.size, img_size=size, mean=(grey[0],), std=(grey[1],))
        weights = None
    else:
        weights = load_weights(str(start.weights))
        refuse_nan(weights.state, str(start.weights))
        config = weights.model
        if "norm.weight" not in weights.state:
            pool = "avg"  # fine-tuned so: its norm comes after the mean of the patches
    body = build_encoder(
        weights, config=config.to_dict(), img_size=size, num_classes=outputs, drop_path=drop_path,
        global_pool=pool,
    )  # fmt: skip
    mean, std = normalisation(body)
    model = config.with_(img_size=size, in_chans=1, mean=tuple(mean), std=tuple(std)).to_dict()
    return Network(body, {"family": "encoder", "pool": pool, "model": model, "outputs": outputs}, mean, std)


def rebuild(architecture: Mapping[str, Any], input_: Mapping[str, Any], size: int) -> Network:
    """The network that config.json describes, for `load_state_dict`: its weights are whatever lay in memory."""
    with _Undrawn():
        return _rebuild(architecture, input_, size)


class _Undrawn(TorchFunctionMode):
    """Parameters are not initialised: for a ViT-S that takes a second, and they are about to be replaced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _INITIAL and args and isinstance(args[0], nn.Parameter):
            return args[0]
        if getattr(func, "__module__", "") == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


_INITIAL = (
    Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.zero_,
    Tensor.fill_,
)  # fmt: skip


def _rebuild(architecture: Mapping[str, Any], input_: Mapping[str, Any], size: int) -> Network:
    if architecture["family"] == "focus":
        from usfmae.tasks.network.focus import rebuild_focus

        return rebuild_focus(architecture)
    if architecture["family"] == "timm":
        body: Any = _create_timm(
            architecture["name"], None, architecture["outputs"], size, 0.0, len(input_["mean"])
        )
    else:
        body = build_encoder(
            None, config=architecture["model"], img_size=size, num_classes=architecture["outputs"],
            global_pool=architecture["pool"],
        )  # fmt: skip
    network = Network(body, architecture, input_["mean"], input_["std"])
    if "maps" in architecture:
        from usfmae.tasks.network.segmenter import dress

        dress(network, architecture["maps"], size)
    return network


def read_folder_config(weights: str | None) -> dict[str, Any]:
    """config.json of a checkpoint folder of ours; empty for anything else."""
    if weights is None:
        return {}
    file = Path(weights) / CONFIG
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and config.get("format") == FORMAT else {}


def from_state(
    config: Mapping[str, Any], state: Mapping[str, Tensor], where: str, *, outputs: int, size: int,
    drop_path: float = 0.0,
) -> Network:  # fmt: skip
    """A timm model as `config` describes it (imported, or fine-tuned), with the weights of `state` and a fresh head.

    Raises WeightsError naming `where`: keys that do not fit, NaN.
    """
    name, input_ = config["architecture"]["name"], config["input"]
    refuse_nan(state, where)
    body = _create_timm(name, None, outputs, size, drop_path, len(input_["mean"]))
    _load_body(body, state, where)
    architecture = {"family": "timm", "name": name, "outputs": outputs}
    return Network(body, architecture, input_["mean"], input_["std"])


def _load_body(body: Any, state: Mapping[str, Tensor], where: str) -> None:
    """All but the classifier; positions are resampled to the body's grid."""
    own = body.state_dict()
    heads = _heads(body)
    fit: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(heads):
            continue
        if key == "pos_embed" and key in own and value.ndim == 3 and value.shape != own[key].shape:
            value = resample_abs_pos_embed(
                value, list(body.patch_embed.grid_size), num_prefix_tokens=body.num_prefix_tokens
            )
        fit[key] = value
    wrong = [key for key in fit if key not in own or own[key].shape != fit[key].shape]
    missing = [key for key in own if key not in fit and not key.startswith(heads)]
    if wrong or missing:
        parts = [
            f"{len(k)} {w} (first: {k[0]})" for k, w in ((wrong, "do not fit"), (missing, "missing")) if k
        ]
        raise WeightsError(f"{where}: the weights are not those of this network: {', '.join(parts)}")
    body.load_state_dict(fit, strict=False)


def _timm_network(
    start: Start, outputs: int, size: int, drop_path: float, grey: tuple[float, float]
) -> Network:
    name = str(start.timm)
    if start.fresh:
        body = _create_timm(name, None, outputs, size, drop_path, 1)
        mean: tuple[float, ...] = (grey[0],)
        std: tuple[float, ...] = (grey[1],)
    else:
        # Published weights see three equal channels under their own normalisation: exact, where folding the RGB
        # kernels into one is not (ImageNet's mean and deviation differ by channel).
        source: dict[str, Any] | None = {}
        if start.weights is not None:
            state = unwrap(read_tensors(Path(start.weights)))
            refuse_nan(state, start.weights)
            source = {"state_dict": state}
        body = _create_timm(name, source, outputs, size, drop_path, 3, start.weights or "")
        mean, std = normalisation(body)
        refuse_nan(body.state_dict(), name)
    return Network(body, {"family": "timm", "name": name, "outputs": outputs}, mean, std)


def _create_timm(
    name: str, source: dict[str, Any] | None, outputs: int, size: int, drop_path: float, channels: int,
    file: str = "",
) -> Any:  # fmt: skip
    """A timm model. source: None for random weights, {} for the published, or {"state_dict": …} of `file`."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise UsageError(f"timm knows no model '{name}'{did_you_mean(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": outputs, "in_chans": channels, "pretrained": source is not None}
    if source:
        options["pretrained_cfg_overlay"] = source
    paths = {"drop_path_rate": drop_path}
    # SAM's positions are resampled as images come; its tables keep the size they were published with.
    sized = {} if name.startswith("samvit") else {"img_size": size}
    wishes: tuple[dict[str, Any], ...] = ({**sized, **paths}, paths, {})
    for extra in wishes:
        try:
            with _loading() as loads:
                body = timm.create_model(name, **options, **extra)
        except TypeError:
            continue  # this family takes no image size, or no drop path
        except (OSError, RuntimeError, KeyError) as error:
            raise _cannot_create(name, source, size, file, error) from error
        if source:
            _account(body, loads, file, name)
        return body
    raise UsageError(f"timm cannot build '{name}' with {channels} input channels and {outputs} outputs")


@contextmanager
def _loading() -> Iterator[list[Any]]:
    """What every `load_state_dict` inside reports: timm only writes it to its log."""
    loads: list[Any] = []
    load = nn.Module.load_state_dict

    def recorded(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        loads.append(load(self, *args, **kwargs))
        return loads[-1]

    nn.Module.load_state_dict = recorded  # type: ignore[method-assign]
    log, level = logging.getLogger("timm"), logging.getLogger("timm").level
    log.setLevel(logging.ERROR)  # its warning names every key there is
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
        log.setLevel(level)


def _account(body: Any, loads: Sequence[Any], file: str, name: str) -> None:
    """WeightsError where a file left a part of the network random, or holds what the network has no place for."""
    spared = (*_heads(body), "decoder", "mask_token")
    missing, left = (
        [key for load in loads for key in getattr(load, kind) if not key.startswith(spared)]
        for kind in ("missing_keys", "unexpected_keys")
    )
    if missing or left:
        found = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for what, keys in (("missing", missing), ("left over", left))
            if keys
        ]
        raise WeightsError(
            f"{file}: not the weights of timm's '{name}': {', '.join(found)}; give the name of their model with "
            "--model, or leave --model away for a ViT"
        )


def _heads(body: Any) -> tuple[str, ...]:
    """How the names of a timm model's classifier begin."""
    classifier = body.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))


def _cannot_create(
    name: str, source: dict[str, Any] | None, size: int, file: str, error: Exception
) -> OpenUSError:
    said = " ".join(str(error).split())[:200]
    if source is None:
        return UsageError(f"timm cannot build '{name}' for {size} px: {said}")
    if source:
        return WeightsError(
            f"{file}: not the weights of timm's '{name}': {said}; give the name of their model"
        )
    return OpenUSError(
        f"the published weights of '{name}' cannot be had ({said}); place the file on this machine and give "
        "it with --weights beside --model, or leave --pretrained away"
    )


def normalisation(body: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation (units of 0..1, one per channel) that a timm model's weights want."""
    return tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])


def refuse_nan(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity."""
    # A sum of finite numbers is quick, and finite as a rule; where it is not, every number is looked at.
    bad = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all()
    ]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise WeightsError(
            f"{where}: '{bad[0]}'{more} holds NaN or infinite values; the run that wrote it diverged: "
            "take an earlier checkpoint of it"
        )


def grey_statistics(images: Any) -> tuple[float, float]:
    """Mean and deviation (0..1) of uint8 images [N, 1, S, S], from at most 512 of them, evenly spaced."""
    import numpy as np

    some = images[:: max(1, len(images) // 512)].astype(np.float32) / 255
    return float(some.mean()), float(max(some.std(), 1e-3))


__all__ = ["Network", "Start", "build", "grey_statistics", "rebuild", "refuse_nan"]
