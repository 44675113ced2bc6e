"""What a run says: lines of log.jsonl, TensorBoard, optionally Weights & Biases, and a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from usfmae.train.boards import Appended, TensorBoard, WeightsAndBiases
from usfmae.train.recipe import ReportRecipe


class RunLog:
    """Writes scalars by step. After a resume, lines past the checkpoint are dropped: they will be written again.

    config: what the run is, for Weights & Biases.
    """

    def __init__(
        self, run: Path, recipe: ReportRecipe, *, step: int, config: Mapping[str, Any], quiet: bool = False
    ) -> None:
        path = run / "log.jsonl"
        _drop_after(path, step)
        self._wandb = WeightsAndBiases(recipe.wandb, run, config, quiet=quiet) if recipe.wandb else None
        self._lines = Appended(path)
        self._board = TensorBoard(run / "tb", step) if recipe.tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line: ``{"step": …, **values}``; numbers go to the boards too (nested ones as ``group/name``)."""
        self._lines.write(json.dumps({"step": step, **values}).encode() + b"\n")
        for board in (self._board, self._wandb):
            if board is not None:
                board.write(step, _flat(values))

    def close(self, failed: bool = False) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.close(failed)


class Clock:
    """Time since the last line, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time within this is a wait for data."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - began

    @property
    def elapsed(self) -> float:
        return max(1e-9, time.perf_counter() - self.start)

    def rates(self) -> dict[str, float]:
        """Images a second, and the share of time in which the model had nothing to do."""
        return {
            "images_per_second": round(self.images / self.elapsed, 3),
            "data_wait": round(min(1.0, self.waited / self.elapsed), 5),
        }


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl; a line cut off by a crash is left out."""
    lines = []
    for text in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_log(path.parent) if line["step"] <= step]
    temporary = path.with_name(".log.jsonl.part")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat
