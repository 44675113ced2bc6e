"""Weights in and out: ``weights.safetensors`` + ``config.json``, and whatever others publish.

Nothing here unpickles: `.pt` files are read with ``weights_only=True``, and one that holds code is refused.
Every key is accounted for: what does not fit raises `WeightsError` and lists the keys.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from usfmae.model.beside import fields_beside, normalisation_beside
from usfmae.model.foreign import recognise
from usfmae.model.layouts import WeightsError, encoder_state, is_decoder_key
from usfmae.model.mae import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, MAE, MAEConfig
from usfmae.model.runs import newest_whole

if TYPE_CHECKING:  # timm doubles the time it takes to start; only who builds an encoder pays for it
    from timm.models.vision_transformer import VisionTransformer

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
WEIGHTS, CONFIG, FORMAT = "weights.safetensors", "config.json", "usfmae-weights"


@dataclass
class Weights:
    """Weights in our layout; `config` is ``{"format", "model": MAEConfig fields, …}``, `path` their file."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    path: Path

    @property
    def model(self) -> MAEConfig:
        return MAEConfig.from_dict(self.config["model"])

    @property
    def has_decoder(self) -> bool:
        return "mask_token" in self.state


def save_weights(
    folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], name: str = WEIGHTS
) -> None:
    """Write `state` and `config` into `folder` (made if absent); each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    whole = {"format": FORMAT, "version": 1, **config}
    write_atomic(folder / CONFIG, json.dumps(whole, indent=2).encode() + b"\n")
    write_atomic(folder / name, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, synced to disk, in one step."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_weights(path: str | Path) -> Weights:
    """Read weights from a run folder (its newest whole checkpoint), a checkpoint folder, or a file.

    Files: ``.safetensors``, or ``.pt``/``.pth``/``.bin`` without pickled code, in any layout of
    `usfmae.model.foreign` that is a plain ViT. Raises `WeightsError`.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(
            f"{path}: no such file or folder; give a run folder, a checkpoint folder, or a weights file"
        )
    if path.is_dir():
        path = _file_in(_checkpoint_of(path) if (path / "checkpoints").is_dir() else path)
    config = _read_config(path)
    if config is not None and "model" not in config:
        name = config.get("architecture", {}).get("name", "another network")
        raise WeightsError(
            f"{path}: the weights of {name}, not of a plain ViT; finetune and probe can use them"
        )
    found = recognise(backbone(read_tensors(path), config), str(path))
    if found.model is None:
        raise WeightsError(
            f"{path}: {found.layout}, not a plain ViT; bring it into a folder of ours first with: "
            f"usfmae import {path} --out FOLDER"
        )
    if config is None:
        config = {"format": FORMAT, "version": 1, "model": _told(found.model, found.state, path).to_dict()}
    return Weights(found.state, config, path)


def _checkpoint_of(run: Path) -> Path:
    folder = newest_whole(run)
    if folder is None:
        raise WeightsError(
            f"{run}: this run has no checkpoint yet; let it reach its first one, or give other weights"
        )
    return folder


def _told(model: MAEConfig, state: Mapping[str, Tensor], file: Path) -> MAEConfig:
    """The network of foreign weights, with what the files beside them say of it."""
    fields = fields_beside(file, decoder="mask_token" in state)
    stats, _ = normalisation_beside(file)
    if stats is not None:
        fields |= {"mean": stats[0][: model.in_chans], "std": stats[1][: model.in_chans]}
    return model.with_(**fields)


def _file_in(folder: Path) -> Path:
    for name in (WEIGHTS, "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder}: neither a run (no checkpoints/) nor a checkpoint (no {WEIGHTS}) is in this folder"
    )


def _read_config(file: Path) -> dict[str, Any] | None:
    """The config.json beside our own weights; None for weights that others wrote."""
    config = file.with_name(CONFIG)
    if not config.is_file():
        return None
    try:
        values = json.loads(config.read_text())
    except ValueError as error:
        raise WeightsError(
            f"{config}: not valid JSON ({error}); restore it from the run it belongs to"
        ) from error
    ours = isinstance(values, dict) and values.get("format") == FORMAT
    return values if ours else None


def backbone(state: dict[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The encoder's part of a fine-tuned segmenter's state; any other state as it is."""
    if config is None or "maps" not in config.get("architecture", {}):
        return state
    inside = "encoder."
    return {key.removeprefix(inside): value for key, value in state.items() if key.startswith(inside)}


def read_tensors(file: Path) -> dict[str, Any]:
    """What a weights file holds, whatever its layout; nothing in it is executed. Raises `WeightsError`."""
    size = file.stat().st_size
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols: what follows says more
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = str(error).split("\n")[0]
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise WeightsError(
                f"{file}: refused, the file holds pickled code besides tensors, which could run anything; "
                "ask its author for a .safetensors file, or for a .pt file of only the state_dict"
            ) from error
        raise WeightsError(f"{file}: not a PyTorch weights file ({size} bytes): {why}") from error
    except OSError:
        raise
    except Exception as error:  # what is no weights file trips its readers in any way there is
        raise WeightsError(
            f"{file}: truncated or not a weights file ({size:,} bytes); copy it again"
        ) from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{file}: holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return dict(loaded)


def fold_channels(
    state: Mapping[str, Tensor], old: MAEConfig, in_chans: int, mean: Iterable[float], std: Iterable[float]
) -> tuple[dict[str, Tensor], MAEConfig]:
    """The same function of a grey image, for another number of channels and another normalisation.

    With input ``x_c = (g - mean_c) / std_c`` of a grey image g, the patch projection is linear in g, so that
    kernels and bias can absorb the change exactly: the new network gives the old one's tokens. The decoder's
    last map, if there, is carried over so that the painted grey values stay (three channels: their mean).
    """
    new = old.with_(in_chans=in_chans, mean=tuple(mean), std=tuple(std))
    result = dict(state)
    dtype = state["patch_embed.proj.weight"].dtype
    old_mean, old_std = _column(old.mean), _column(old.std)
    new_mean, new_std = _column(new.mean), _column(new.std)

    weight = state["patch_embed.proj.weight"].double()  # [D,C,p,p], per unit of x
    grey = (weight / old_std).sum(dim=1, keepdim=True)  # per unit of g
    offset = (weight * (-old_mean / old_std)).sum(dim=(1, 2, 3))
    share = grey / new.in_chans
    result["patch_embed.proj.weight"] = (share * new_std).to(dtype)
    bias = state["patch_embed.proj.bias"].double() + offset + (share * new_mean).sum(dim=(1, 2, 3))
    result["patch_embed.proj.bias"] = bias.to(dtype)

    for key in ("decoder_pred.weight", "decoder_pred.bias"):
        if key not in state:
            continue
        value = state[key].double()
        value = value.view(-1, old.in_chans, *value.shape[1:])  # [p*p, C, ...]
        ones = (1,) * (value.ndim - 2)
        if not old.norm_pix_loss:  # back to units of g, then to the new ones; only the bias feels the means
            value = value * old_std.view(1, -1, *ones)
            value = value + (old_mean.view(1, -1) if key.endswith("bias") else 0.0)
        value = value.mean(dim=1, keepdim=True).expand(-1, new.in_chans, *value.shape[2:])
        if not old.norm_pix_loss:
            value = value - (new_mean.view(1, -1) if key.endswith("bias") else 0.0)
            value = value / new_std.view(1, -1, *ones)
        result[key] = value.flatten(0, 1).to(state[key].dtype)
    return result, new


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float64).view(1, -1, 1, 1)


def adapt(
    weights: Weights, in_chans: int, img_size: int, normalisation: Normalisation | None = None
) -> tuple[dict[str, Tensor], MAEConfig]:
    """The state for another image size (positions resampled, bicubic), number of channels and normalisation.

    normalisation: mean and std of the input; None: as the weights want it, or where their number of channels
    changes, our grey one or ImageNet's.
    """
    state, config = dict(weights.state), weights.model
    if normalisation is None:
        normalisation = (GREY_MEAN, GREY_STD) if in_chans == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        if in_chans == config.in_chans:
            normalisation = (config.mean, config.std)
    if (in_chans, *normalisation) != (config.in_chans, config.mean, config.std):
        state, config = fold_channels(state, config, in_chans, *normalisation)
    if img_size != config.img_size:
        config = config.with_(img_size=img_size)
        for key in ("pos_embed", "decoder_pos_embed"):
            if key in state:
                state[key] = resample_positions(state[key], config.grid)
    return state, config


def resample_positions(table: Tensor, grid: int) -> Tensor:
    """Positions [1, 1+n*n, D] for another grid: [1, 1+grid*grid, D], bicubic as in timm; the first token's stay."""
    old = round((table.shape[1] - 1) ** 0.5)
    image = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = interpolate(image, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:, :1], image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], dim=1)


def build_mae(weights: Weights, *, in_chans: int | None = None, img_size: int | None = None) -> MAE:
    """The whole autoencoder with `weights`. Raises `WeightsError` for weights that have no decoder."""
    model = weights.model
    state, config = adapt(weights, in_chans or model.in_chans, img_size or model.img_size)
    if not weights.has_decoder:
        raise WeightsError(
            f"{weights.path}: these weights hold only an encoder, and reconstruction needs the decoder "
            "too; use the full checkpoint of the run (for the ImageNet MAE: a file named *_full or "
            "mae_visualize_*)"
        )
    mae = MAE(config)
    _load(mae, state, weights.path, may_miss=(), may_drop=("head.",))
    return mae


def build_encoder(
    weights: Weights | None,
    *,
    config: Mapping[str, Any] | None = None,
    img_size: int,
    num_classes: int = 0,
    drop_path: float = 0.0,
    global_pool: Literal["avg", "token", "max", ""] = "avg",
    in_chans: int = 1,
) -> VisionTransformer:
    """timm's ViT with our encoder's weights; `weights=None` gives a fresh one of `config` (MAEConfig fields).

    Positions are resampled to `img_size`, channels folded to `in_chans`; the normalisation the input needs is
    in ``encoder.pretrained_cfg["mean"]`` and ``["std"]`` (units of 0..1). With ``global_pool="avg"`` timm
    pools before a fresh ``fc_norm``, and the pretrained ``norm`` is left out, as in the reference's
    fine-tuning. Raises `WeightsError` when a key is missing or left over.
    """
    from timm.models.vision_transformer import VisionTransformer

    if weights is None:
        model = MAEConfig.from_dict(dict(config or {}))
        model = model.with_(img_size=img_size) if model.img_size != img_size else model
        in_chans, state = model.in_chans, None
    else:
        state, model = adapt(weights, in_chans, img_size)
    encoder = VisionTransformer(
        img_size=img_size, patch_size=model.patch_size, in_chans=in_chans, num_classes=num_classes,
        global_pool=global_pool, embed_dim=model.embed_dim, depth=model.depth, num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio, drop_path_rate=drop_path,
    )  # fmt: skip
    cfg: Any = {
        "input_size": (in_chans, img_size, img_size), "mean": model.mean, "std": model.std,
        "num_classes": num_classes, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    encoder.pretrained_cfg = encoder.default_cfg = cfg
    if weights is not None and state is not None:
        pooled = isinstance(encoder.fc_norm, torch.nn.LayerNorm)
        may_miss = ("head.", "fc_norm.") if pooled else ("head.",)
        may_drop = ("head.", "norm.", "fc_norm.") if pooled else ("head.",)
        _load(encoder, encoder_state(state), weights.path, may_miss=may_miss, may_drop=may_drop)
    return encoder


def _load(
    module: torch.nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    may_miss: tuple[str, ...],
    may_drop: tuple[str, ...],
) -> None:
    """Load with every key accounted for; `may_miss` may stay fresh, `may_drop` may be left out."""
    own = module.state_dict()
    fit = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    unfit = [k for k in state if k not in fit and not k.startswith(may_drop)]
    left = [k for k in unfit if k not in own]
    wrong = [f"{k} {list(state[k].shape)} for {list(own[k].shape)}" for k in unfit if k in own]
    missing = [k for k in own if k not in fit and k not in unfit and not k.startswith(may_miss)]
    if left or wrong or missing:
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
            for what, keys in (("missing", missing), ("left over", left), ("of another shape", wrong))
            if keys
        ]
        raise WeightsError(
            f"{path}: the weights do not fit the model; {'; '.join(parts)}; "
            "give the model the size, patch and decoder these weights were trained with"
        )
    module.load_state_dict(fit, strict=False)


__all__ = [
    "Weights", "WeightsError", "adapt", "build_encoder", "build_mae", "fold_channels", "is_decoder_key",
    "load_weights", "save_weights", "write_atomic",
]  # fmt: skip
