"""What a fine-tuned model says of one file, over its frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from usfmae.tasks.data.files import Grey


@dataclass
class Prediction:
    """What is said of one file."""

    path: str
    classes: list[str]
    task: str = "classifier"
    format: str = ""
    kind: str = ""
    frames: list[int] = field(default_factory=list)
    """Indices of the frames that were scored."""
    frame_values: list[list[float]] = field(default_factory=list)
    """A row per frame: probabilities, values or covered shares, in the order of `classes`."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Frames left out, with the reason (dark)."""
    error: str = ""
    image: Grey | None = None
    """One of the frames, as the network saw it, and its mask (segmenter): for the picture."""
    mask: Grey | None = None

    @property
    def values(self) -> list[float]:
        """Mean over the frames."""
        return [float(p) for p in np.mean(self.frame_values, 0)] if self.frames else []

    @property
    def decision(self) -> str:
        """The class, the labels that are present, or the value; for a segmenter what covers most."""
        if not self.frames:
            return ""
        if self.task == "regressor":
            return f"{self.values[0]:.4g}"
        if self.task == "multilabel":
            present = [name for name, p in zip(self.classes, self.values, strict=True) if p >= 0.5]
            return ", ".join(present) or "none"
        if self.task == "segmenter" and max(self.values) == 0:
            return "none"
        return self.classes[int(np.argmax(self.values))]

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        if self.error:
            return {"file": self.path, "error": self.error}
        what = {"regressor": "value", "segmenter": "covered"}.get(self.task, "probabilities")
        named = [dict(zip(self.classes, row, strict=True)) for row in self.frame_values]
        return {
            "file": self.path,
            "format": self.format,
            "decision": self.decision,
            what: dict(zip(self.classes, self.values, strict=True)),
            "frames": [{"index": i, what: p} for i, p in zip(self.frames, named, strict=True)],
            "refused": [{"index": i, "reason": reason} for i, reason in self.refused],
        }
