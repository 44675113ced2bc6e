"""What a run says: lines of log.jsonl, TensorBoard, optionally Weights & Biases, and a progress bar."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openus.errors import MissingExtraError
from usfmae.train.recipe import ReportRecipe


class RunLog:
    """Writes scalars by step. After a resume, lines past the checkpoint are dropped: they will be written again."""

    def __init__(self, run: Path, recipe: ReportRecipe, *, step: int, config: Mapping[str, Any]) -> None:
        self.path = run / "log.jsonl"
        _drop_after(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._board: Any = None
        self._wandb: Any = None
        if recipe.tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(run / "tb"), purge_step=step + 1 if step else None)
        if recipe.wandb:
            try:
                import wandb  # type: ignore[import-not-found, unused-ignore]
            except ImportError as error:
                raise MissingExtraError("wandb", "wandb", "report.wandb") from error
            self._wandb = wandb.init(
                project=recipe.wandb, id=_identity(run), name=run.name, dir=str(run), config=dict(config),
                resume="allow",
            )  # fmt: skip

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line: ``{"step": …, **values}``; numbers go to the boards too (nested ones as ``group/name``)."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        flat = _flat(values)
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


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


def _identity(run: Path) -> str:
    """The name by which Weights & Biases knows this run again when it goes on."""
    path = run / "wandb.id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


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
