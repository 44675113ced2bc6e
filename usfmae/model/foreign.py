"""Other people's weights, recognised by their keys and shapes, brought into a layout this package builds.

    reference MAE, USF-MAE    blocks.0.attn.qkv, decoder_blocks.…       the layout kept here
    timm ViT, encoder only    blocks.0.attn.qkv, head.…                 the same, without a decoder
    DINOv2                    … and blocks.0.ls1.gamma                  layer scale folded into the linear maps
    Hugging Face ViT, ViTMAE  encoder.layer.0.… or layers.0.…           renamed, query/key/value joined
    mmpretrain ViT            backbone.layers.0.ln1.…                   renamed
    SAM                       image_encoder.blocks.0.attn.rel_pos_h     timm's samvit
    UltraSam                  backbone.layers.0.attn.rel_pos_h          timm's samvit

Every key of the file is used, folded into another, or listed as left out with the reason. What cannot be
represented (register tokens, rotary positions) is refused with the way to use it all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from usfmae.model.blocks import sincos_positions
from usfmae.model.layouts import WeightsError, infer_config
from usfmae.model.mae import MAEConfig

_WRAPPERS = ("state_dict", "model", "teacher", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Foreign:
    """Recognised weights.

    family: ``encoder`` (our layout, `model` says its shape) or ``timm`` (the model called `name`).
    left_out: keys that are not part of an encoder (or autoencoder), by reason; folded: keys absorbed by others.
    """

    layout: str
    family: str
    state: dict[str, Tensor]
    model: MAEConfig | None = None
    name: str = ""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recognise(loaded: Mapping[str, Any], where: str) -> Foreign:
    """Say what a loaded file is, and convert it. `where` names the file in the message of a `WeightsError`."""
    tensors = unwrap(loaded)
    if not tensors:
        raise WeightsError(f"{where}: holds no tensors; give the file of a model's weights")
    for known in (_sam, _ultrasam, _mmpretrain, _refuse_dinov3, _huggingface, _dino, _plain):
        found = known(tensors, where)
        if found is not None:
            return found
    some = ", ".join(list(tensors)[:3])
    raise WeightsError(
        f"{where}: not the weights of a ViT or MAE this package knows ({len(tensors)} tensors, first: {some}); "
        "known are reference MAE, timm ViT, DINOv2, Hugging Face ViT and ViTMAE, mmpretrain ViT, SAM and "
        "UltraSam. For any other timm model: usfmae finetune --model NAME --weights FILE"
    )


def unwrap(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the wrapper and the prefixes that training code adds."""
    inner: Mapping[str, Any] = loaded
    for wrapper in _WRAPPERS:
        if isinstance(inner.get(wrapper), Mapping):
            inner = inner[wrapper]
    tensors = {}
    for key, value in inner.items():
        if isinstance(value, Tensor):
            for prefix in _PREFIXES:
                key = key.removeprefix(prefix)
            tensors[key] = value
    return tensors


def _under(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """Entries below a prefix, without it, and the keys that are not."""
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return inside, [key for key in tensors if not key.startswith(prefix)]


# SAM and UltraSam: windowed attention with relative positions, which timm builds as samvit_*.

_SAM_SIZES = {768: "samvit_base_patch16", 1024: "samvit_large_patch16", 1280: "samvit_huge_patch16"}
_MM_SAM = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"^channel_reduction\.", "neck."),
)


def _sam(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    if "blocks.0.attn.rel_pos_h" in tensors:
        inside, others = _under(tensors, "")
    elif "image_encoder.blocks.0.attn.rel_pos_h" in tensors:
        inside, others = _under(tensors, "image_encoder.")
    else:
        return None
    state = {key.replace("mlp.lin", "mlp.fc"): value for key, value in inside.items()}
    return _samvit("SAM", state, others, where)


def _ultrasam(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    prefix = "backbone." if "backbone.layers.0.attn.rel_pos_h" in tensors else ""
    if f"{prefix}layers.0.attn.rel_pos_h" not in tensors:
        return None
    inside, others = _under(tensors, prefix)
    layout = "UltraSam (mmpretrain SAM encoder)"
    return _samvit(layout, {_renamed(key, _MM_SAM): value for key, value in inside.items()}, others, where)


def _samvit(layout: str, state: dict[str, Tensor], others: list[str], where: str) -> Foreign:
    width = state["patch_embed.proj.weight"].shape[0]
    if width not in _SAM_SIZES:
        raise WeightsError(
            f"{where}: a SAM encoder of width {width}; known are {', '.join(map(str, _SAM_SIZES))}"
        )
    left = {"prompt encoder and mask decoder": others} if others else {}
    notes = ["windowed attention: kept as timm's model, at any image size that is a multiple of 16"]
    return Foreign(layout, "timm", state, name=_SAM_SIZES[width], left_out=left, notes=notes)


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        new = re.sub(pattern, replacement, key)
        if new != key:
            return new
    return key


# Plain ViTs in other names.

_MM_VIT = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"^ln1\.", "norm."),
)


def _mmpretrain(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    prefix = "backbone." if "backbone.layers.0.ln1.weight" in tensors else ""
    if f"{prefix}layers.0.ln1.weight" not in tensors:
        return None
    inside, others = _under(tensors, prefix)
    return _encoder("mmpretrain ViT", {_renamed(k, _MM_VIT): v for k, v in inside.items()}, where, others)


_HF_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
# Names of a block's parts: as stored by transformers 4, then as version 5 has them in memory.
_HF_PARTS = {
    "layernorm_before": "norm1", "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
_HF_QKV = {
    "attention.attention.query": 0, "attention.attention.key": 1, "attention.attention.value": 2,
    "attention.q_proj": 0, "attention.k_proj": 1, "attention.v_proj": 2,
}  # fmt: skip
_HF_BLOCK = re.compile(
    r"^(?P<stack>(?:encoder\.)?layers?|decoder\.decoder_(?:layers|encoder\.layer))\.(?P<n>\d+)\."
    r"(?P<part>.+)\.(?P<leaf>weight|bias)$"
)


def _huggingface(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    state = {key.removeprefix("vit."): value for key, value in tensors.items()}
    if "embeddings.patch_embeddings.projection.weight" not in state:
        return None
    if "encoder.layer.0.layer_scale1.lambda1" in state or "embeddings.mask_token" in state:
        raise WeightsError(
            f"{where}: DINOv2 in Hugging Face's names; use it through timm instead: usfmae finetune --model "
            "vit_small_patch14_dinov2 --pretrained (or the same model's .safetensors with --weights)"
        )
    converted: dict[str, Tensor] = {}
    joined: dict[str, dict[int, Tensor]] = {}
    others = []
    for key, value in state.items():
        match = _HF_BLOCK.match(key)
        stem, _, leaf = key.rpartition(".")
        if match is None:
            if key in _HF_TOP or stem in _HF_TOP:
                converted[_HF_TOP[key] if key in _HF_TOP else f"{_HF_TOP[stem]}.{leaf}"] = value
            else:
                others.append(key)
            continue
        stack = "decoder_blocks" if match["stack"].startswith("decoder.") else "blocks"
        block, part, leaf = f"{stack}.{match['n']}", match["part"], match["leaf"]
        if part in _HF_QKV:
            joined.setdefault(f"{block}.attn.qkv.{leaf}", {})[_HF_QKV[part]] = value
        elif part in _HF_PARTS:
            converted[f"{block}.{_HF_PARTS[part]}.{leaf}"] = value
        else:
            others.append(key)
    for key, parts in joined.items():
        if len(parts) != 3:
            raise WeightsError(f"{where}: {key} needs query, key and value; found only {len(parts)} of them")
        converted[key] = torch.cat([parts[0], parts[1], parts[2]])
    layout = "Hugging Face ViTMAE" if "mask_token" in converted else "Hugging Face ViT"
    return _encoder(layout, converted, where, others)


def _refuse_dinov3(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    odd = [key for key in tensors if key.endswith(("rope_embed.periods", "register_tokens", "reg_token"))]
    rope = "blocks.0.norm1.weight" in tensors and "pos_embed" not in tensors
    if odd or rope:
        what = "rotary positions" if rope or "rope" in odd[0] else f"register tokens ({odd[0]})"
        raise WeightsError(
            f"{where}: a ViT with {what}, which a plain ViT cannot represent (DINOv3, or DINOv2 with registers); "
            "use it through timm: usfmae finetune --model NAME --weights FILE, NAME one of "
            "vit_small_patch16_dinov3, vit_base_patch14_reg4_dinov2, …"
        )
    return None


def _dino(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    """DINOv2's layer scale, x + g * (W h + b), is the plain block with g * W and g * b."""
    if "blocks.0.ls1.gamma" not in tensors:
        return None
    if "blocks.0.mlp.w12.weight" in tensors:
        raise WeightsError(
            f"{where}: a giant DINOv2 with gated layers; use it through timm with --model NAME"
        )
    # DINOv2's own mask token stands for hidden patches of its training, not for a decoder's.
    state = {key: value for key, value in tensors.items() if key != "mask_token"}
    folded = []
    for key in [key for key in state if key.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = state.pop(key)
        stem = key.removesuffix(".ls1.gamma") + ".attn.proj"
        if key.endswith(".ls2.gamma"):
            stem = key.removesuffix(".ls2.gamma") + ".mlp.fc2"
        for leaf, shape in (("weight", (-1, 1)), ("bias", (-1,))):
            state[f"{stem}.{leaf}"] = state[f"{stem}.{leaf}"] * gamma.view(shape)
        folded.append(key)
    found = _encoder("DINOv2", state, where, ["mask_token"] if "mask_token" in tensors else [])
    found.folded = folded
    return found


def _plain(tensors: Mapping[str, Tensor], where: str) -> Foreign | None:
    if "patch_embed.proj.weight" not in tensors or "blocks.0.attn.qkv.weight" not in tensors:
        return None
    whole = "decoder_blocks.0.norm1.weight" in tensors or "decoder_pred.weight" in tensors
    return _encoder(
        "reference MAE, encoder and decoder" if whole else "ViT encoder (timm names)", tensors, where
    )


_OURS = re.compile(
    r"^(cls_token|pos_embed|mask_token|decoder_pos_embed"
    r"|(patch_embed\.proj|norm|fc_norm|decoder_embed|decoder_norm|decoder_pred)\.(weight|bias)"
    r"|(decoder_)?blocks\.\d+\.(norm[12]|attn\.(qkv|q|kv|proj)|mlp\.fc[12])\.(weight|bias)"
    r"|decoder_mix\..+)$"
)
_HEADS = ("head.", "classifier.", "pooler.", "fc.", "decode_head.", "data_preprocessor.", "head_dist.")


def _encoder(
    layout: str, state: Mapping[str, Tensor], where: str, others: list[str] | None = None
) -> Foreign:
    """Sort converted keys into those of an encoder or autoencoder, heads, and what else there is."""
    mine = {key: value for key, value in state.items() if _OURS.match(key)}
    rest = [key for key in state if key not in mine] + (others or [])
    heads = [key for key in rest if key.startswith(_HEADS) or key in ("mask_token", "dist_token")]
    unknown = [key for key in rest if key not in heads]
    if unknown:
        raise WeightsError(
            f"{where}: {layout} with {len(unknown)} keys this package has no place for (first: {unknown[0]}); "
            "if it is a variant that timm knows: usfmae finetune --model NAME --weights FILE"
        )
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight")
    missing = [key for key in needed if key not in mine]
    if missing:
        raise WeightsError(f"{where}: {layout} without {', '.join(missing)}; the file is not whole")
    model = infer_config(mine, where)
    table = sincos_positions(model.embed_dim, model.grid)
    if not torch.allclose(mine["pos_embed"].float(), table, atol=1e-4):
        model = model.with_(positions="learned")
    left = {"heads of other tasks": heads} if heads else {}
    return Foreign(layout, "encoder", mine, model=model, left_out=left)
