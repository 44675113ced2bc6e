"""Networks built for a run, our encoder with a head or any timm model by name, and rebuilt from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openus.errors import UsageError
from usfmae.model.mae import MAEConfig
from usfmae.model.weights import (
    WEIGHTS,
    backbone,
    build_encoder,
    load_weights,
    read_tensors,
)
from usfmae.tasks.network.base import Network, refuse_nan
from usfmae.tasks.network.focus import IDENTITY, Focus
from usfmae.tasks.network.segmenter import dress
from usfmae.tasks.network.start import Start, read_folder_config
from usfmae.tasks.network.timm import create_timm, from_state, normalisation, timm_network
from usfmae.tasks.recipe import FocusSettings


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
        return timm_network(start, outputs, size, drop_path, grey)
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
        return _rebuild_focus(architecture)
    if architecture["family"] == "timm":
        body: Any = create_timm(
            architecture["name"], None, architecture["outputs"], size, 0.0, len(input_["mean"])
        )
    else:
        body = build_encoder(
            None, config=architecture["model"], img_size=size, num_classes=architecture["outputs"],
            global_pool=architecture["pool"],
        )  # fmt: skip
    network = Network(body, architecture, input_["mean"], input_["std"])
    if "maps" in architecture:
        dress(network, architecture["maps"], size)
    return network


def _rebuild_focus(architecture: Mapping[str, Any]) -> Network:
    settings = FocusSettings(**architecture["settings"])
    sides = {"classifier": settings.size, "segmenter": architecture["segmenter_size"]}
    parts = {
        name: _rebuild(architecture[name]["architecture"], architecture[name]["input"], side)
        for name, side in sides.items()
    }
    body = Focus(parts["classifier"], parts["segmenter"], sides["segmenter"], settings)
    return Network(body, architecture, *IDENTITY)
