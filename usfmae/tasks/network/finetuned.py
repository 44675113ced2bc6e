"""A fine-tuned model as `usfmae finetune` left it: loaded whole, and asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError

from openus.manifest import CleanSettings
from usfmae.model.weights import CONFIG, WEIGHTS, WeightsError
from usfmae.tasks.data.files import Grey, Looks
from usfmae.tasks.network.base import Network, refuse_nan
from usfmae.tasks.network.build import rebuild
from usfmae.tasks.network.calibration import Calibration
from usfmae.tasks.network.device import autocast, pick_device

KINDS = ("classifier", "multilabel", "regressor", "segmenter")


@dataclass(frozen=True)
class Model:
    """A fine-tuned model and what config.json says of it."""

    network: Network
    config: dict[str, Any]
    path: Path

    @property
    def kind(self) -> str:
        """classifier | multilabel | regressor | segmenter"""
        return str(self.config["kind"])

    @property
    def classes(self) -> list[str]:
        """What each number of an answer is called."""
        return list(self.config["classes"])

    @property
    def looks(self) -> Looks:
        """Cleaning, size and aspect of the training images."""
        cleaning = CleanSettings.model_validate(self.config.get("cleaning") or {})
        return Looks(cleaning, self.config["input"]["size"], self.config["input"]["aspect"])

    @torch.inference_mode()
    def answer(self, images: Sequence[Grey]) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
        """Squares uint8 [S, S] to numbers [B, C], and for a segmenter the masks uint8 [B, S, S].

        The numbers are class probabilities, probabilities of each label, the value of a regression, or the share
        of the image that each class covers. The mirror image is averaged in where training said so.
        """
        device = self.network.mean.device
        batch = torch.from_numpy(np.stack(images)[:, None]).to(device).float().div_(255)
        with autocast(device, "auto" if device.type == "cuda" else "fp32"):
            found = self.link(self.network(batch).double())
            if self.config.get("tta") == "flip":
                mirrored = self.link(self.network(batch.flip(-1)).double())
                found = (found + (mirrored.flip(-1) if mirrored.ndim == 4 else mirrored)) / 2
        if self.kind != "segmenter":
            return found.cpu().numpy(), None
        masks = found.argmax(1).to(torch.uint8)
        shares = torch.stack([(masks == c + 1).double().mean((1, 2)) for c in range(len(self.classes))], 1)
        return shares.cpu().numpy(), masks.cpu().numpy()

    def link(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the network to probabilities, or to values in the label's unit."""
        if self.kind == "multilabel":
            return torch.sigmoid(outputs)
        if self.kind == "regressor":
            mean, deviation = self.config["scale"]
            scaled: torch.Tensor = outputs * deviation + mean
            return scaled
        if self.kind == "classifier":
            outputs = Calibration.from_json(self.config.get("calibration")).apply(outputs)
        return F.softmax(outputs, 1)


def load_model(folder: str | Path, device: str = "auto") -> Model:
    """Load what `usfmae finetune` wrote.

    Raises WeightsError: no such folder, not a fine-tuned model (a bare encoder cannot classify), a file that is
    cut short, keys that do not fit, NaN.
    """
    folder = Path(folder)
    config_file, weights_file = folder / CONFIG, folder / WEIGHTS
    if not config_file.is_file() or not weights_file.is_file():
        raise WeightsError(_not_a_model(folder))
    try:
        config = json.loads(config_file.read_text())
        state = safetensors.torch.load_file(weights_file)
    except (ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder}: a file of the model is damaged ({error}); copy it again") from error
    if config.get("kind") not in KINDS:
        raise WeightsError(_no_classes(folder))
    refuse_nan(state, str(weights_file))
    network = rebuild(config["architecture"], config["input"], config["input"]["size"])
    _load(network, state, weights_file)
    return Model(network.to(pick_device(device)).eval(), config, folder)


def _no_classes(folder: Path) -> str:
    return (
        f"{folder}: these weights have no classes; fine-tune them first with: "
        f"usfmae finetune DATA --benchmark NAME --weights {folder} --out MODEL"
    )


def _not_a_model(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; give one that 'usfmae finetune' wrote"
    if (folder / "checkpoints").is_dir():
        return _no_classes(folder)
    inner = sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS}"))
    if inner:
        return f"{folder}: holds the models of several folds; give one of them, such as {folder / inner[0]}"
    return f"{folder}: no {CONFIG} with {WEIGHTS}; give a folder that 'usfmae finetune' wrote"


def _load(network: Network, state: dict[str, torch.Tensor], where: Path) -> None:
    own = network.body.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    other = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or extra or other:
        found = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for what, keys in (("missing", missing), ("left over", extra), ("of another shape", other))
            if keys
        ]
        raise WeightsError(
            f"{where}: the weights do not fit the architecture in {CONFIG}: {', '.join(found)}; "
            "the two files are not of the same model"
        )
    network.body.load_state_dict(state)
