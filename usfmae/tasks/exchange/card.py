"""The model card that travels with exported weights: what they are, what made them, what they may be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from openus import __version__
from usfmae.model.weights import write_atomic

_LOAD = {
    "safetensors": ("usfmae.model.weights", "load_weights", '("FOLDER")'),
    "timm": ("timm", "create_model", '("local-dir:FOLDER", pretrained=True)'),
    "hf-vitmae": ("transformers", "ViTMAEForPreTraining", '.from_pretrained("FOLDER")'),
    "hf-vit": ("transformers", "ViTModel", '.from_pretrained("FOLDER", add_pooling_layer=False)'),
    "onnx": ("onnxruntime", "InferenceSession", '("FOLDER/model.onnx")'),
}


def _loading(form: str) -> str:
    module, name, call = _LOAD[form]
    return f"```python\nfrom {module} import {name}\n\nmodel = {name}{call}\n```"


def write_card(path: Path, name: str, form: str, config: Mapping[str, Any]) -> None:
    """Write README.md for weights in a format, from what their config.json says; what is unknown is said to be."""
    loading = f"{_loading(form)}\n\n{_input(config)}"
    write_atomic(path, ("\n\n".join(_sections(name, config, loading)) + "\n").encode())


def _sections(name: str, config: Mapping[str, Any], loading: str) -> list[str]:
    sections = [
        f"# {name}",
        _what(config),
        f"## Loading\n\n{loading}",
        f"## Data\n\n{_data(config)}",
        f"## Recipe\n\n{_recipe(config)}",
    ]
    if config.get("metrics"):
        sections.append(f"## Scores\n\n{_scores(config)}")
    sections.append(f"## Licence\n\n{_licence(config)}")
    sections.append(
        "## Limits\n\nFor research. Not a medical device; not validated for any clinical use. Written by usfmae "
        f"{__version__}."
    )
    return sections


def hub_card(
    name: str,
    repo: str,
    forms: Sequence[str],
    left_out: Mapping[str, str],
    config: Mapping[str, Any],
    licence: str,
) -> str:
    """README.md of a published model: the header the Hub reads, and how each of its `forms` is loaded from `repo`."""
    task = {"classifier": "image-classification", "segmenter": "image-segmentation"}
    facts: dict[str, Any] = {"license": licence}
    if licence == "other":
        facts |= {"license_name": "terms-of-the-data", "license_link": "README.md"}
    facts |= {
        "library_name": "timm" if "timm" in forms else "usfmae",
        "pipeline_tag": task.get(str(config.get("kind")), "image-feature-extraction"),
        "tags": ["ultrasound", "medical", "masked-autoencoder", "vit", "safetensors"],
    }
    header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    calls = {
        "timm": f'import timm\n\nencoder = timm.create_model("hf_hub:{repo}", pretrained=True)',
        "hf-vitmae": "from transformers import ViTMAEForPreTraining\n\n"
        f'model = ViTMAEForPreTraining.from_pretrained("{repo}", subfolder="transformers")',
        "hf-vit": "from transformers import ViTModel\n\n"
        f'model = ViTModel.from_pretrained("{repo}", subfolder="transformers", add_pooling_layer=False)',
        "safetensors": "from huggingface_hub import snapshot_download\n"
        "from usfmae.model.weights import load_weights\n\n"
        f'weights = load_weights(snapshot_download("{repo}") + "/usfmae")',
    }
    if config.get("kind"):
        calls["safetensors"] = (
            f'```sh\nhf download {repo} --include "usfmae/*" --local-dir MODEL\n'
            "usfmae predict MODEL/usfmae picture.png\n```"
        )
    parts = [text if (text := calls[form]).startswith("```") else f"```python\n{text}\n```" for form in forms]
    parts += [f"Not in the form `{form}`: {why}." for form, why in left_out.items()]
    loading = "\n\n".join([*parts, _input(config)])
    return f"---\n{header}---\n\n" + "\n\n".join(_sections(name, config, loading)) + "\n"


def _what(config: Mapping[str, Any]) -> str:
    imported = config.get("imported")
    if imported:
        return f"Weights imported from `{imported['file']}` ({imported['layout']}, sha256 `{imported['sha256']}`)."
    if config.get("kind"):
        names = ", ".join(config["classes"])
        return f"A {config['kind']} for ultrasound images, fine-tuned on `{config.get('benchmark', '?')}`: {names}."
    return "A masked autoencoder pretrained on ultrasound images."


def _input(config: Mapping[str, Any]) -> str:
    shape = config.get("input") or config.get("model") or {}
    size = shape.get("size") or shape.get("img_size", "unknown")
    mean, std = (", ".join(f"{v:.4g}" for v in shape.get(key, [])) or "unknown" for key in ("mean", "std"))
    return f"Input: {size} x {size} px, grey values 0..1, normalised by mean {mean} and deviation {std}."


def _corpus(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("corpus") or config.get("training", {}).get("corpus") or config.get("data") or {}
    return found if isinstance(found, Mapping) else {"name": str(found)}


def _data(config: Mapping[str, Any]) -> str:
    corpus = _corpus(config)
    facts = {
        key: value for key, value in corpus.items() if isinstance(value, str | int | float) and value != ""
    }
    return "\n".join(f"- {key}: `{value}`" for key, value in facts.items()) or "The weights do not say."


def _recipe(config: Mapping[str, Any]) -> str:
    training = config.get("training", {})
    recipe = training.get("recipe") or config.get("recipe")
    if not isinstance(recipe, Mapping):
        return "The weights do not say."
    flat = _flatten(recipe)
    return "\n".join(f"- {key}: {value}" for key, value in flat.items())


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _scores(config: Mapping[str, Any]) -> str:
    training = config.get("training", {})
    where = ", ".join(f"{key} {training[key]}" for key in ("protocol", "fold", "seed") if key in training)
    rows = "\n".join(
        f"| {key} | {value:.4f} |" for key, value in config["metrics"].items() if value is not None
    )
    return (
        f"Test part of `{config.get('benchmark', '?')}` ({where}).\n\n| score | value |\n|---|---:|\n{rows}"
    )


def _licence(config: Mapping[str, Any]) -> str:
    lines = [
        "The code is Apache-2.0. Weights learned from data are bound by what the terms of the data say of derived "
        "works: read LICENSES.md of the corpus before passing them on. Sources that forbid derivatives or commercial "
        "use (CC BY-NC-ND, CC BY-NC-SA and the like) are best taken to bind the weights too."
    ]
    if config.get("imported"):
        lines.append(
            "Imported weights keep the licence of their authors; weights that began from the ImageNet MAE of its "
            "authors come under CC BY-NC 4.0."
        )
    return " ".join(lines)
