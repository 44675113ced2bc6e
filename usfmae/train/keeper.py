"""Keeps a run on disk: what is written at a checkpoint, and how a run is put back to one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from openus.errors import OpenUSError
from usfmae.model.mae import MAE
from usfmae.model.runs import newest_whole
from usfmae.model.weights import load_weights, save_weights
from usfmae.train.checkpoint import EMA, begin, complete, load_state, write_state
from usfmae.train.distributed import World
from usfmae.train.state import fill, live_tensors, whole


class Keeper:
    """Saves and restores network, optimiser and average of one run.

    Tensors are copied, then written in the background while training goes on: everything by rank 0, or of sharded
    processes by each its shards. A checkpoint appears once its last file is on disk, at the latest before the next one.
    """

    def __init__(
        self, run: Path, world: World, mae: MAE, optimizer: torch.optim.Optimizer, *, keep: int, sharded: bool
    ) -> None:
        self.run, self.world, self.mae, self.optimizer = run, world, mae, optimizer
        self.keep, self.sharded = keep, sharded
        self._pending: tuple[Future[Any], int] | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")

    def save(
        self, step: int, config: Mapping[str, Any], state: Mapping[str, Any], ema: Mapping[str, Tensor] | None
    ) -> None:
        """Begin to write the checkpoint of `step`, as everything is now; all processes call this."""
        self.finish()
        live = live_tensors(self.mae, self.optimizer)
        weights = whole({k.removeprefix("model."): v for k, v in live.items() if k.startswith("model.")})
        average = None if ema is None else whole(ema)
        moments = {} if self.sharded else {k: v for k, v in live.items() if not k.startswith("model.")}
        small = deepcopy({"version": 1, "step": step, "sharded": self.sharded, **state})
        shards: Future[Any] | None = None
        if self.world.leads:
            with self._writing(step):
                begin(self.run, step)
        if self.sharded:
            from usfmae.train.sharded import SHARDS, save_shards

            self.world.barrier()
            shards = save_shards(begin(self.run, step, fresh=False) / SHARDS, live)
        if self.world.leads:
            small["moments"] = whole(moments)
            written = self._writer.submit(
                self._write, step, deepcopy(dict(config)), weights, average, small, shards
            )
            self._pending = written, step
        elif shards is not None:
            self._pending = shards, step

    def _write(
        self, step: int, config: Mapping[str, Any], weights: Mapping[str, Tensor], average: Mapping[str, Tensor] | None,
        state: Mapping[str, Any], shards: Future[Any] | None,
    ) -> None:  # fmt: skip
        folder = begin(self.run, step, fresh=False)
        save_weights(folder, weights, config)
        if average is not None:
            save_weights(folder, average, config, name=EMA)
        write_state(folder, state)
        if shards is not None:
            shards.result()
        complete(self.run, step, self.keep)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """What is written within this is the checkpoint of `step`; a disk that refuses it is named."""
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            reasons = [error, error.__context__]  # PyTorch raises an error of its own over the system's
            if isinstance(error, CheckpointException):
                reasons += [failure for failure, _ in error.failures.values()]
            found = next((reason for reason in reasons if isinstance(reason, OSError)), None)
            if found is None and isinstance(error, RuntimeError):
                raise
            why = str(error).strip().split("\n")[-1] if found is None else found.strerror or found
            shutil.rmtree(begin(self.run, step, fresh=False), ignore_errors=True)
            raise OpenUSError(
                f"{self.run}: the checkpoint of step {step} cannot be written ({why}); make room there, or keep fewer "
                "(report.keep), and run the same command again: it goes on from the checkpoint before"
            ) from error

    def poll(self) -> None:
        """Look whether what is being written came to a good end; never waits."""
        if self._pending is not None and self._pending[0].done():
            self._settle()

    def finish(self) -> None:
        """Wait for a save in the background; all processes call this."""
        if self._pending is not None:
            self._settle()
        self.world.barrier()

    def close(self) -> None:
        """Let what is being written come to its end, whatever ended the run."""
        self._writer.shutdown()

    def _settle(self) -> None:
        assert self._pending is not None
        future, step = self._pending
        self._pending = None
        with self._writing(step):
            future.result()

    def newest(self) -> Path | None:
        """The newest whole checkpoint, the same for all processes; None when there is none yet."""
        self.finish()
        found = newest_whole(self.run) if self.world.leads else None
        name = self.world.tell(found.name if found else "")
        return self.run / "checkpoints" / name if name else None

    def restore(self, folder: Path, ema: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """Put network, optimiser and average back; returns the rest of the state.

        A checkpoint of any number of processes, copied or sharded, can be read by any other.
        """
        state = load_state(folder)
        live = live_tensors(self.mae, self.optimizer)
        if state["sharded"]:
            from usfmae.train.sharded import SHARDS, load_shards

            load_shards(folder / SHARDS, live)
        else:
            weights = {f"model.{k}": v for k, v in load_weights(folder).state.items()}
            fill(live, {**weights, **state.pop("moments")}, str(folder))
        if ema is not None:
            fill(ema, load_weights(folder / EMA).state, str(folder))
        return state
