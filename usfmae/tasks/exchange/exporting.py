"""`usfmae export`: a run or a fine-tuned model for other people's software, with a model card beside it.

    safetensors  weights.safetensors + config.json of ours
    timm         model.safetensors + config.json; timm.create_model("local-dir:FOLDER") loads it
    hf-vitmae    encoder and decoder for transformers' ViTMAE, in the names its files have always had
    hf-vit       the encoder for transformers' ViTModel
    onnx         model.onnx: grey images 0..1 to features, or to probabilities; checked against ours

What a format cannot hold is refused with the format that can.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from openus.errors import MissingExtraError, OpenUSError, UsageError, did_you_mean
from usfmae.model.layouts import encoder_state, to_huggingface
from usfmae.model.mae import MAEConfig
from usfmae.model.weights import CONFIG, WEIGHTS, Weights, load_weights, save_weights, write_atomic
from usfmae.tasks.exchange.card import write_card
from usfmae.tasks.network.base import Network, refuse_nan
from usfmae.tasks.network.build import build
from usfmae.tasks.network.features import pooled
from usfmae.tasks.network.finetuned import load_model
from usfmae.tasks.network.start import Start, read_folder_config

TOLERANCE = 1e-4


def export(source: Path, out: Path, form: str) -> dict[str, Any]:
    """Write `source` (a run, a checkpoint or a fine-tuned model) into the folder `out` in one format.

    Returns what was written. Raises UsageError (unknown or unfit format), WeightsError, MissingExtraError.
    """
    if form not in FORMATS:
        raise UsageError(f"no format '{form}'{did_you_mean(form, FORMATS)} (known: {', '.join(FORMATS)})")
    config = read_folder_config(str(source))
    out.mkdir(parents=True, exist_ok=True)
    written = FORMATS[form](source, config, out)
    write_card(out / "README.md", source.name, form, config or load_weights(source).config)
    return {
        "source": str(source),
        "format": form,
        "out": str(out),
        "files": sorted(p.name for p in out.iterdir()),
    } | written


def _encoder(source: Path, form: str) -> Weights:
    """The weights of a plain ViT; other networks are refused."""
    weights = load_weights(source)
    refuse_nan(weights.state, str(source))
    if form.startswith("hf") and weights.model.mlp_ratio * weights.model.embed_dim % 1:
        raise UsageError(
            f"{source}: the hidden width of its layers is no whole number; {form} cannot hold that"
        )
    return weights


def _safetensors(source: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    if "architecture" in config:  # a fine-tuned or imported model: as it lies, head included
        state = safetensors.torch.load_file(source / WEIGHTS)
        refuse_nan(state, str(source))
    else:
        weights = load_weights(source)
        refuse_nan(weights.state, str(source))
        state, config = weights.state, weights.config
    save_weights(
        out, state, {key: value for key, value in config.items() if key not in ("format", "version")}
    )
    return {"tensors": len(state)}


def _timm(source: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    weights = _encoder(source, "timm")
    model = weights.model
    state = encoder_state(weights.state)
    values = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": model.embed_dim,
        "global_pool": "token",
        "model_args": {
            "img_size": model.img_size, "patch_size": model.patch_size, "in_chans": model.in_chans,
            "embed_dim": model.embed_dim, "depth": model.depth, "num_heads": model.num_heads,
            "mlp_ratio": model.mlp_ratio, "global_pool": "token",
        },
        "pretrained_cfg": {
            "input_size": [model.in_chans, model.img_size, model.img_size], "mean": list(model.mean),
            "std": list(model.std), "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    kept = {key: value for key, value in state.items() if not key.startswith("fc_norm.")}
    if "norm.weight" not in kept:
        raise UsageError(
            f"{source}: fine-tuned with its patches averaged, which leaves out the last norm that this format "
            "needs; export the pretraining run, or this model as safetensors or onnx"
        )
    _save(out, kept, values)
    return {"tensors": len(kept)}


def _save(out: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomic(out / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_atomic(out / CONFIG, json.dumps(config, indent=2).encode() + b"\n")


def _hf_common(model: MAEConfig) -> dict[str, Any]:
    return {
        "hidden_size": model.embed_dim, "num_hidden_layers": model.depth, "num_attention_heads": model.num_heads,
        "intermediate_size": int(model.mlp_ratio * model.embed_dim), "hidden_act": "gelu", "qkv_bias": True,
        # The reference's epsilon; transformers would take 1e-12.
        "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "image_size": model.img_size, "patch_size": model.patch_size, "num_channels": model.in_chans,
    }  # fmt: skip


def _preprocessor(out: Path, model: MAEConfig) -> None:
    values = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
        "do_normalize": True, "rescale_factor": 1 / 255, "image_mean": list(model.mean),
        "image_std": list(model.std), "size": {"height": model.img_size, "width": model.img_size},
    }  # fmt: skip
    write_atomic(out / "preprocessor_config.json", json.dumps(values, indent=2).encode() + b"\n")


def _hf_vitmae(source: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    weights = _encoder(source, "hf-vitmae")
    model = weights.model
    if not weights.has_decoder:
        raise UsageError(f"{source}: holds only an encoder; export it as hf-vit, or give the pretraining run")
    if model.decoder != "full":
        raise UsageError(
            f"{source}: its decoder attends across (CrossMAE), which ViTMAE cannot; export it as hf-vit"
        )
    values = _hf_common(model) | {
        "architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae",
        "decoder_hidden_size": model.decoder_embed_dim, "decoder_num_hidden_layers": model.decoder_depth,
        "decoder_num_attention_heads": model.decoder_num_heads,
        "decoder_intermediate_size": int(model.mlp_ratio * model.decoder_embed_dim),
        "mask_ratio": model.mask_ratio, "norm_pix_loss": model.norm_pix_loss,
    }  # fmt: skip
    state = to_huggingface(weights.state)
    _save(out, state, values)
    _preprocessor(out, model)
    return {"tensors": len(state)}


def _hf_vit(source: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    weights = _encoder(source, "hf-vit")
    if "norm.weight" not in weights.state:
        raise UsageError(
            f"{source}: fine-tuned with its patches averaged, which ViTModel cannot hold; export the pretraining "
            "run, or this model as safetensors or onnx"
        )
    kept = {
        key: value for key, value in encoder_state(weights.state).items() if not key.startswith("fc_norm.")
    }
    # ViTModel stands alone: its names carry no "vit." in front.
    state = {key.removeprefix("vit."): value for key, value in to_huggingface(kept).items()}
    _save(out, state, _hf_common(weights.model) | {"architectures": ["ViTModel"], "model_type": "vit"})
    _preprocessor(out, weights.model)
    return {"tensors": len(state)}


class _Features(nn.Module):
    """Grey images [B, 1, S, S] in 0..1 to the mean of the patch tokens [B, D]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, grey: Tensor) -> Tensor:
        return pooled(self.network, grey)


class _Answers(nn.Module):
    """Grey images [B, 1, S, S] in 0..1 to what `usfmae predict` says of each, without the mirror image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network, self.link = model.network, model.link

    def forward(self, grey: Tensor) -> Tensor:
        found: Tensor = self.link(self.network(grey))
        return found


def _onnx(source: Path, config: dict[str, Any], out: Path) -> dict[str, Any]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "onnx", "export to ONNX")
    module: nn.Module
    if "kind" in config:
        size, name = int(config["input"]["size"]), "answer"
        module = _Answers(load_model(source, "cpu"))
    else:
        name = "features"
        size = (
            int(config["input"].get("size", 224))
            if "input" in config
            else load_weights(source).model.img_size
        )
        module = _Features(build(Start(weights=str(source)), outputs=0, size=size, pool="token"))
    path = out / "model.onnx"
    module.eval()
    torch.onnx.export(
        module, (torch.rand(2, 1, size, size),), str(path), input_names=["grey"], output_names=[name],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    return {"input": ["batch", 1, size, size], "output": name, "difference": check_onnx(path, module, size)}


def check_onnx(path: Path, module: nn.Module, size: int) -> float:
    """The largest difference between a written ONNX model and ours, for batches of other sizes than exported.

    Raises OpenUSError above the tolerance of 1e-4 (of the largest value, where that is above 1).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        grey = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            ours = module(grey).numpy()
        theirs = session.run(None, {"grey": grey.numpy()})[0]
        worst = max(worst, float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max()))))
    if worst > TOLERANCE:
        raise OpenUSError(
            f"{path}: the ONNX model differs from ours by {worst:.1e}, above {TOLERANCE:g}; not usable"
        )
    return worst


FORMATS: dict[str, Callable[[Path, dict[str, Any], Path], dict[str, Any]]] = {
    "safetensors": _safetensors, "timm": _timm, "hf-vitmae": _hf_vitmae, "hf-vit": _hf_vit, "onnx": _onnx,
}  # fmt: skip
