"""Networks for tasks: our encoder with a head, or any timm model by name, behind one face.

A `Network` takes grey images in 0..1, one channel, and does its own normalisation, so that training and
prediction cannot disagree on it. Its `architecture` is plain JSON, enough to build it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openus.errors import OpenUSError, UsageError, did_you_mean
from usfmae.model.weights import WeightsError, build_encoder, load_weights


@dataclass(frozen=True)
class Start:
    """Where a network begins: weights of ours or others' (``weights``), or a timm model by name (``timm``).

    `pretrained` asks timm for its published weights; without it the network starts from random ones.
    """

    weights: str | None = None
    timm: str | None = None
    pretrained: bool = False
    size: str | None = None
    """A fresh encoder of ours ("tiny" … "large"), trained from random weights."""

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.weights, self.timm, self.size)) != 1:
            raise UsageError(
                "give one of --weights (a run or a weights file), --model (a timm name), --scratch"
            )

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        if self.weights is not None:
            path = Path(self.weights)
            return path.name if path.is_dir() else path.stem
        return f"{self.timm or f'vit-{self.size}'}" + ("" if self.pretrained else "-scratch")


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
        return _timm_network(start.timm, start.pretrained, outputs, size, drop_path, grey)
    if start.size is not None:
        from usfmae.model.mae import MAEConfig

        config = MAEConfig.preset(start.size, img_size=size, mean=(grey[0],), std=(grey[1],))
        weights = None
    else:
        weights = load_weights(str(start.weights))
        refuse_nan(weights.state, str(start.weights))
        config = weights.model
    body = build_encoder(
        weights, config=config.to_dict(), img_size=size, num_classes=outputs, drop_path=drop_path,
        global_pool=pool,
    )  # fmt: skip
    mean, std = normalisation(body)
    model = config.with_(img_size=size, in_chans=1, mean=tuple(mean), std=tuple(std)).to_dict()
    return Network(body, {"family": "encoder", "pool": pool, "model": model, "outputs": outputs}, mean, std)


def rebuild(architecture: Mapping[str, Any], input_: Mapping[str, Any], size: int) -> Network:
    """The network that config.json describes, with random weights, for `load_state_dict`."""
    if architecture["family"] == "timm":
        body: nn.Module = _create_timm(
            architecture["name"], False, architecture["outputs"], size, 0.0, len(input_["mean"])
        )
    else:
        body = build_encoder(
            None, config=architecture["model"], img_size=size, num_classes=architecture["outputs"],
            global_pool=architecture["pool"],
        )  # fmt: skip
    return Network(body, architecture, input_["mean"], input_["std"])


def _timm_network(
    name: str, pretrained: bool, outputs: int, size: int, drop_path: float, grey: tuple[float, float]
) -> Network:
    # Published weights see three equal channels under their own normalisation: exact, where folding the RGB
    # kernels into one is not (ImageNet's mean and deviation differ by channel).
    channels = 3 if pretrained else 1
    body = _create_timm(name, pretrained, outputs, size, drop_path, channels)
    mean: Sequence[float] = (grey[0],)
    std: Sequence[float] = (grey[1],)
    if pretrained:
        mean, std = normalisation(body)
        refuse_nan(body.state_dict(), name)
    return Network(body, {"family": "timm", "name": name, "outputs": outputs}, mean, std)


def _create_timm(
    name: str, pretrained: bool, outputs: int, size: int, drop_path: float, channels: int
) -> Any:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise UsageError(f"timm knows no model '{name}'{did_you_mean(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": outputs, "in_chans": channels, "pretrained": pretrained}
    optional: tuple[dict[str, Any], ...] = (
        {"img_size": size, "drop_path_rate": drop_path},
        {"drop_path_rate": drop_path},
        {},
    )
    for extra in optional:
        try:
            return timm.create_model(name, **options, **extra)
        except TypeError:
            continue  # this family takes no image size, or no drop path
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise UsageError(f"timm cannot build '{name}' for {size} px: {error}") from error
            raise OpenUSError(
                f"the published weights of '{name}' cannot be had ({' '.join(str(error).split())[:160]}); "
                "place the file on this machine and give it with --weights, or leave --pretrained away"
            ) from error
    raise UsageError(f"timm cannot build '{name}' with {channels} input channels and {outputs} outputs")


def normalisation(body: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation (units of 0..1, one per channel) that a timm model's weights want."""
    return tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])


def refuse_nan(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity."""
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
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
