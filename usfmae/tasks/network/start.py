"""Where a network begins: weights, a timm name, or a size; and what the folder of its weights says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openus.errors import UsageError
from usfmae.model.weights import CONFIG, FORMAT

FOLD = "{fold}"


@dataclass(frozen=True)
class Start:
    """Where a network begins.

    `weights`: a run, a checkpoint folder or a weights file. `timm`: a timm model by name, from random weights,
    from `weights` (a file of that model), or `pretrained` (what timm publishes). `size`: a fresh encoder of ours
    ("tiny" … "large", or "small/8" for patches of 8 px). ``{fold}`` in `weights` stands for the name of the fold.
    """

    weights: str | None = None
    timm: str | None = None
    pretrained: bool = False
    size: str | None = None

    def __post_init__(self) -> None:
        ways = (self.weights is not None or self.timm is not None) + (self.size is not None)
        if ways != 1:
            raise UsageError(
                "give one of --weights (a run or a weights file), --model (a timm name), --scratch (a size)"
            )
        if self.pretrained and (self.timm is None or self.weights is not None):
            raise UsageError(
                "--pretrained goes with --model alone: it asks timm for the weights it publishes"
            )

    def of_fold(self, fold: str) -> Start:
        """With ``{fold}`` in the path of the weights replaced by the name of a fold."""
        if self.weights is None or FOLD not in self.weights:
            return self
        return replace(self, weights=self.weights.replace(FOLD, fold))

    @property
    def fresh(self) -> bool:
        """Whether the network begins with random weights."""
        return self.weights is None and not self.pretrained

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        if self.weights is not None:
            path = Path(self.weights.replace(FOLD, "").rstrip("/-_."))
            return path.name if path.is_dir() else path.stem
        return (self.timm or f"vit-{self.size}".replace("/", "-p")) + ("-scratch" if self.fresh else "")


def read_folder_config(weights: str | None) -> dict[str, Any]:
    """config.json of a checkpoint folder of ours; empty for anything else."""
    if weights is None:
        return {}
    file = Path(weights) / CONFIG
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and config.get("format") == FORMAT else {}
