"""Networks of timm by name: from random, published or given weights, every key of which is accounted for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor, nn

from openus.errors import OpenUSError, UsageError, did_you_mean
from usfmae.model.foreign import unwrap
from usfmae.model.weights import WeightsError, read_tensors
from usfmae.tasks.network.base import Network, refuse_nan
from usfmae.tasks.network.start import Start


def from_state(
    config: Mapping[str, Any], state: Mapping[str, Tensor], where: str, *, outputs: int, size: int,
    drop_path: float = 0.0,
) -> Network:  # fmt: skip
    """A timm model as `config` describes it (imported, or fine-tuned), with the weights of `state` and a fresh head.

    Raises WeightsError naming `where`: keys that do not fit, NaN.
    """
    name, input_ = config["architecture"]["name"], config["input"]
    refuse_nan(state, where)
    body = create_timm(name, None, outputs, size, drop_path, len(input_["mean"]))
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


def timm_network(
    start: Start, outputs: int, size: int, drop_path: float, grey: tuple[float, float]
) -> Network:
    name = str(start.timm)
    if start.fresh:
        body = create_timm(name, None, outputs, size, drop_path, 1)
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
        body = create_timm(name, source, outputs, size, drop_path, 3, start.weights or "")
        mean, std = normalisation(body)
        refuse_nan(body.state_dict(), name)
    return Network(body, {"family": "timm", "name": name, "outputs": outputs}, mean, std)


def create_timm(
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
