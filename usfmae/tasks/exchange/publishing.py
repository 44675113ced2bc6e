"""`usfmae publish`: a model in the forms others load, in one repository of the Hub (or a folder, or any store).

    config.json, model.safetensors   the encoder for timm: timm.create_model("hf_hub:ORG/NAME", pretrained=True)
    transformers/                    for AutoModel.from_pretrained("ORG/NAME", subfolder="transformers")
    usfmae/                          weights.safetensors and config.json of ours, decoder or head included
    README.md                        the model card

A form that cannot hold the model is left out, and the card says why. Paths of this machine stay here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openus.checksum import sha256_of
from openus.errors import OpenUSError, UsageError
from openus.publish.stage import INDEX
from openus.publish.targets import deliver, parse_target
from openus.storage.files import write_bytes
from usfmae.model.weights import CONFIG, load_weights
from usfmae.tasks.exchange.card import hub_card
from usfmae.tasks.exchange.exporting import export
from usfmae.tasks.network.start import read_folder_config

_PLACES = (("timm", ""), ("hf-vitmae", "transformers"), ("hf-vit", "transformers"), ("safetensors", "usfmae"))
_LOCAL = re.compile(r"^(?:/|~|file://|[A-Za-z]:[\\/])")
Report = Callable[[str, int, int | None], None]


def publish(
    source: Path,
    to: str,
    *,
    licence: str = "other",
    private: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    report: Report = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Write `source` (a run, a checkpoint or a fine-tuned model) in every form that holds it, and send it to `to`.

    Returns what went where: `files` with their bytes, `forms`, `left_out` with the reasons. Raises UsageError (wrong
    target, or no form fits), WeightsError, and what `openus.publish.targets.deliver` raises.
    """
    target = parse_target(to)
    folder = (source if source.is_dir() else source.parent) / ".publish" / "model"
    shutil.rmtree(folder, ignore_errors=True)
    forms, left_out = _write(source, folder)
    if not forms:
        reasons = "; ".join(f"{form}: {why}" for form, why in left_out.items())
        raise UsageError(f"{source}: no form can hold this model: {reasons}")
    config = without_paths(read_folder_config(str(source)) or load_weights(source).config)
    name = target.base.rstrip("/").rsplit("/", 1)[-1]
    address = target.base if target.hub else target.base.rstrip("/")
    card = hub_card(name, address if target.hub else name, forms, left_out, config, licence)
    write_bytes(folder / "README.md", card.encode())
    files = _index(folder)
    result: dict[str, Any] = {
        "to": address,
        "forms": forms,
        "left_out": left_out,
        "files": {name: entry["bytes"] for name, entry in files.items()},
        "bytes": sum(int(entry["bytes"]) for entry in files.values()),
    }
    if dry_run:
        return result
    sent = deliver(
        folder, files, target, address, report, kind="model", private=private, quiet=quiet,
        stale=("*.safetensors", "*/*.safetensors", "*/*.json"), message="Published by usfmae",
    )  # fmt: skip
    return result | {"url": sent["url"]} | {key: sent[key] for key in ("commit",) if key in sent}


def _write(source: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Export every form that fits; of two for one place the first. Returns the forms, and the reasons of the others."""
    forms: list[str] = []
    left_out: dict[str, str] = {}
    taken: set[str] = set()
    for form, place in _PLACES:
        if place in taken:
            continue
        scratch = folder / f".{form}"
        try:
            export(source, scratch, form)
        except UsageError as error:
            left_out[form] = str(error).removeprefix(f"{source}: ")
            continue
        finally:
            (scratch / "README.md").unlink(missing_ok=True)
        (folder / place).mkdir(parents=True, exist_ok=True)
        for path in scratch.iterdir():
            path.replace(folder / place / path.name)
        _strip(folder / place / CONFIG)
        taken.add(place)
        forms.append(form)
    for scratch in folder.glob(".*"):
        shutil.rmtree(scratch)
    return forms, left_out


def _strip(path: Path) -> None:
    if path.exists():
        facts = without_paths(json.loads(path.read_text()))
        write_bytes(path, json.dumps(facts, indent=2).encode() + b"\n")


def without_paths(value: Any) -> Any:
    """The same values, local paths among them cut to their last part: they may name people and machines."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and _LOCAL.match(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != INDEX:
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
    if not files:
        raise OpenUSError(f"{folder}: nothing was written")
    text = json.dumps({"files": files}, indent=1) + "\n"
    files[INDEX] = {"bytes": len(text.encode()), "sha256": write_bytes(folder / INDEX, text.encode())}
    return files
