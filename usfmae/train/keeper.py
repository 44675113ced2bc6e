"""Keeps a run on disk: what is written at a checkpoint, and how a run is put back to one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from openus.errors import OpenUSError
from usfmae.model.mae import MAE
from usfmae.model.weights import load_weights, save_weights
from usfmae.train.checkpoint import EMA, begin, complete, load_state, newest_whole, write_state
from usfmae.train.distributed import World
from usfmae.train.state import fill, live_tensors, whole


class Keeper:
    """Saves and restores network, optimiser and average of one run.

    Copied processes (and one alone) write everything from rank 0. Sharded ones write their shards in the
    background; such a checkpoint appears once the last shard is on disk, at the latest before the next one.
    """

    def __init__(
        self, run: Path, world: World, mae: MAE, optimizer: torch.optim.Optimizer, *, keep: int, sharded: bool
    ) -> None:
        self.run, self.world, self.mae, self.optimizer = run, world, mae, optimizer
        self.keep, self.sharded = keep, sharded
        self._pending: tuple[Future[Any], int] | None = None

    def save(
        self, step: int, config: Mapping[str, Any], state: Mapping[str, Any], ema: Mapping[str, Tensor] | None
    ) -> None:
        """Write the checkpoint of `step`; all processes call this."""
        self.finish()
        live = live_tensors(self.mae, self.optimizer)
        weights = whole({k.removeprefix("model."): v for k, v in live.items() if k.startswith("model.")})
        average = None if ema is None else whole(ema)
        small = {"version": 1, "step": step, **state}
        if self.world.leads:
            with self._writing(step):
                folder = begin(self.run, step)
                save_weights(folder, weights, config)
                if average is not None:
                    save_weights(folder, average, config, name=EMA)
                moments = (
                    {} if self.sharded else {k: v for k, v in live.items() if not k.startswith("model.")}
                )
                write_state(folder, {**small, "sharded": self.sharded, "moments": moments})
        if self.sharded:
            from usfmae.train.sharded import SHARDS, save_shards

            self.world.barrier()
            self._pending = save_shards(begin(self.run, step, fresh=False) / SHARDS, live), step
        else:
            if self.world.leads:
                with self._writing(step):
                    complete(self.run, step, self.keep)
            self.world.barrier()

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
        """Finish a save whose shards are all written; never waits."""
        if self._pending is not None and self._pending[0].done():
            self._publish()

    def finish(self) -> None:
        """Wait for a save in the background; all processes call this."""
        if self._pending is not None:
            self._publish()
        self.world.barrier()

    def _publish(self) -> None:
        assert self._pending is not None
        future, step = self._pending
        self._pending = None
        with self._writing(step):
            future.result()
            if self.world.leads:
                complete(self.run, step, self.keep)

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
