"""Key layouts of masked autoencoder weights, and how to get from one to another.

Ours is the layout of the reference MAE (github.com/facebookresearch/mae), which timm's ViT shares for the
encoder. What others write is recognised by `usfmae.model.foreign`; here: ours, and Hugging Face's to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from openus.errors import OpenUSError
from usfmae.model.mae import IMAGENET_MEAN, IMAGENET_STD, SIZES, MAEConfig


class WeightsError(OpenUSError):
    """Weights or a training state are missing, truncated, refused as unsafe, or do not fit the model."""


DECODER_PREFIXES = ("decoder", "mask_token")

# Ours -> Hugging Face, for what is not inside a block.
_HF_TOP = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HF_BLOCKS = {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
_BLOCK = re.compile(r"^(blocks|decoder_blocks)\.(\d+)\.(.+)\.(weight|bias)$")


def is_decoder_key(key: str) -> bool:
    """Whether a key in our layout belongs to the decoder."""
    return key.startswith(DECODER_PREFIXES)


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Only the encoder's entries: what timm's ViT loads as it is."""
    return {key: value for key, value in state.items() if not is_decoder_key(key)}


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state in the names Hugging Face's ViTMAE stores; the fused qkv becomes three maps."""
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _BLOCK.match(key)
        if match is None:
            stem, dot, leaf = key.rpartition(".")
            result[_HF_TOP[key] if key in _HF_TOP else f"{_HF_TOP[stem]}{dot}{leaf}"] = value
            continue
        stack, number, part, leaf = match.groups()
        prefix = f"{_HF_BLOCKS[stack]}.{number}"
        if part == "attn.qkv":
            for which, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{prefix}.attention.attention.{which}.{leaf}"] = piece.contiguous()
        else:
            result[f"{prefix}.{_HF_BLOCK[part]}.{leaf}"] = value
    return result


def infer_config(state: Mapping[str, Tensor], name: str) -> MAEConfig:
    """The configuration of weights that came without one, from their shapes.

    The number of heads does not show in the shapes: it is that of the known size, else heads are 64 wide.
    Colour weights are taken to want ImageNet's normalisation.
    """
    dim, channels, patch, _ = state["patch_embed.proj.weight"].shape
    if channels not in (1, 3):
        raise WeightsError(
            f"{name}: these weights want images of {channels} channels; only grey (1) and colour (3) can be used"
        )
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    if grid * grid + 1 != state["pos_embed"].shape[1]:
        raise WeightsError(
            f"{name}: positions for {state['pos_embed'].shape[1]} tokens, not a square grid + 1 token"
        )
    heads = {size["embed_dim"]: size["num_heads"] for size in SIZES.values()}.get(dim, max(1, dim // 64))
    changes: dict[str, Any] = {}
    if channels == 3:
        changes = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if "mask_token" in state:
        decoder_dim = state["mask_token"].shape[-1]
        cross = "decoder_blocks.0.attn.kv.weight" in state
        changes |= {
            "decoder": "cross" if cross else "full",
            "decoder_embed_dim": decoder_dim,
            "decoder_depth": _depth(state, "decoder_blocks."),
            "decoder_num_heads": 16
            if decoder_dim % 16 == 0 and decoder_dim >= 256
            else max(1, decoder_dim // 32),
        }
    return MAEConfig(
        img_size=grid * patch, patch_size=patch, in_chans=channels, embed_dim=dim, num_heads=heads,
        depth=_depth(state, "blocks."), **changes,
    )  # fmt: skip


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(
        (int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix)), default=-1
    )
