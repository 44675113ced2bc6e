"""What does not show in the tensors of other people's weights: said by the JSON files that lie beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def fields_beside(file: Path, decoder: bool) -> dict[str, Any]:
    """Fields of MAEConfig: attention heads, and how targets were scaled. From config.json, of Hugging Face or timm."""
    said = _read(file, "config.json")
    heads = said.get("num_attention_heads") or _group(said, "model_args").get("num_heads")
    found = {
        "num_heads": heads,
        "decoder_num_heads": said.get("decoder_num_attention_heads") if decoder else None,
    }
    known = {key: value for key, value in found.items() if isinstance(value, int) and value > 0}
    scaled = said.get("norm_pix_loss")
    return known | ({"norm_pix_loss": scaled} if decoder and isinstance(scaled, bool) else {})


def normalisation_beside(file: Path) -> tuple[Stats | None, str]:
    """Mean and deviation of three channels in 0..1, and the file that says them; None where none does."""
    said = _read(file, "config.json")
    for values, names, where in (
        (_read(file, "preprocessor_config.json"), ("image_mean", "image_std"), "preprocessor_config.json"),
        (_group(said, "model"), ("mean", "std"), "config.json"),  # ours
        (_group(said, "pretrained_cfg"), ("mean", "std"), "config.json"),  # timm's
    ):
        mean, std = (values.get(name) for name in names)
        if isinstance(mean, list) and isinstance(std, list) and mean and std:
            return (_three(mean), _three(std)), where
    return None, ""


def _read(file: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads((file.parent / name).read_text())
    except (OSError, ValueError):
        return {}  # absent, or not what it seems: the weights stand on their own
    return values if isinstance(values, dict) else {}


def _group(values: dict[str, Any], name: str) -> dict[str, Any]:
    inside = values.get(name)
    return inside if isinstance(inside, dict) else {}


def _three(values: list[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers if len(numbers) == 3 else (numbers[0],) * 3
