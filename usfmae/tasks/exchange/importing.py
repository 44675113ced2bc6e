"""`usfmae import`: other people's weights into a checkpoint folder of ours, every key accounted for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from openus.errors import UsageError
from usfmae.model.beside import fields_beside, normalisation_beside
from usfmae.model.foreign import Foreign, recognise
from usfmae.model.layouts import WeightsError
from usfmae.model.mae import IMAGENET_MEAN, IMAGENET_STD
from usfmae.model.weights import Weights, build_encoder, build_mae, read_tensors, save_weights
from usfmae.tasks.network.base import refuse_nan
from usfmae.tasks.network.timm import from_state

# Known files, by sha256: what they are. The first was recorded by a user of the release.
KNOWN = {
    "f815c629878c17136985af9f4fdc81c2cfa02a94e4d992c026699957f75ccb66": (
        "USF-MAE, 100 epochs (USF-MAE_full_pretrain_43dataset_100epochs.pt)"
    ),
}


def import_weights(
    source: Path, out: Path, *, mean: float | None = None, std: float | None = None
) -> dict[str, Any]:
    """Convert a weights file (or a folder holding one) into `out`, and return the account of its keys.

    mean, std: the normalisation the weights were trained with, in 0..1, the same for all channels, where the
    file's neighbours do not say it and it is not ImageNet's. Raises WeightsError, UsageError.
    """
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together; give both, or neither")
    file = _file(source)
    found = recognise(read_tensors(file), str(file))
    refuse_nan(found.state, str(file))
    values, said = _normalisation(file, found, mean, std)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    origin = {"file": file.name, "sha256": digest, "layout": found.layout, "known_as": KNOWN.get(digest, "")}
    config: dict[str, Any] = {"imported": origin}
    if found.family == "encoder":
        assert found.model is not None
        channels = found.model.in_chans
        model = found.model.with_(
            mean=values[0] if channels == 3 else values[0][:1], std=values[1] if channels == 3 else values[1][:1],
            **fields_beside(file, decoder="mask_token" in found.state),
        )  # fmt: skip
        config["model"] = model.to_dict()
    else:
        config["architecture"] = {"family": "timm", "name": found.name, "outputs": 0}
        config["input"] = {"mean": list(values[0]), "std": list(values[1])}
    _try(found, config, file)
    save_weights(out, found.state, config)
    return {
        **origin, "family": found.family, "name": found.name, "normalisation": said,
        "tensors": len(found.state), "folded": found.folded, "left_out": found.left_out,
        "decoder": "mask_token" in found.state, "notes": found.notes, "out": str(out),
    }  # fmt: skip


def _file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.exists():
        raise WeightsError(f"{source}: no such file or folder; give a weights file")
    for name in ("model.safetensors", "pytorch_model.bin", "weights.safetensors"):
        if (source / name).is_file():
            return source / name
    raise WeightsError(
        f"{source}: holds no model.safetensors, pytorch_model.bin or weights.safetensors; name the file itself"
    )


def _normalisation(
    file: Path, found: Foreign, mean: float | None, std: float | None
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], str]:
    if mean is not None and std is not None:
        return ((mean,) * 3, (std,) * 3), "as given"
    said, where = normalisation_beside(file)
    if said is not None:
        return said, f"from {where}"
    if found.model is not None and found.model.in_chans == 1:
        return (
            (found.model.mean[0],) * 3,
            (found.model.std[0],) * 3,
        ), "assumed: this package's for grey input"
    return (IMAGENET_MEAN, IMAGENET_STD), "assumed: ImageNet's; another with --mean and --std"


def _try(found: Foreign, config: dict[str, Any], file: Path) -> None:
    """Build the network before anything is written: a key that is missing or misshapen is found now."""
    if found.family == "timm":
        from_state(config, found.state, str(file), outputs=2, size=64)
        return
    weights = Weights(found.state, config, file)
    model = weights.model
    if weights.has_decoder:
        build_mae(weights)
    build_encoder(weights, img_size=model.img_size, in_chans=model.in_chans, global_pool="token")
