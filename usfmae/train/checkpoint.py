"""Checkpoints that are whole or absent: written beside, synced, renamed. `usfmae.model.runs` finds them.

RUN/checkpoints/step-00001234/   weights.safetensors, config.json   what tasks need
                                 state.pt                           what going on needs: optimiser, cursor
                                 files.json                         sizes and SHA-256 of the above
RUN/latest -> checkpoints/step-00001234
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from openus.checksum import sha256_of
from openus.errors import UsageError
from openus.storage.locks import alone
from usfmae.model.layouts import WeightsError
from usfmae.model.runs import FILES, checkpoints, fault
from usfmae.model.weights import write_atomic

STATE, EMA = "state.pt", "ema.safetensors"


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep a run's folder to this process, however it ends. Raises `UsageError` where another one is at work in it."""
    said = f"{run}: another process is at work in this run; wait for it, stop it, or give another --out"
    with alone(run, UsageError(said)):
        yield


def begin(run: Path, step: int, fresh: bool = True) -> Path:
    """The hidden folder in which the checkpoint of `step` is written; when `fresh`, empty and the only one."""
    final = step_folder(run, step)
    temporary = final.with_name(f".{final.name}.part")
    if fresh:
        for left in final.parent.glob(".step-*.part"):  # by a save that was interrupted
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
    return temporary


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what `load_state` reads: tensors, numbers and text in dictionaries and lists."""
    with (folder / STATE).open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())


def complete(run: Path, step: int, keep: int) -> Path:
    """Seal what was begun, put it in its place, point `latest` at it, keep the newest `keep`."""
    temporary, final = begin(run, step, fresh=False), step_folder(run, step)
    seal(temporary)
    publish(temporary, final)
    prune(run, keep, step)
    return final


def seal(folder: Path) -> None:
    """Write the list of a folder's files, with sizes and hashes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILES)
    listed = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files}
    write_atomic(folder / FILES, json.dumps(listed, indent=1).encode())


def publish(temporary: Path, final: Path) -> None:
    """Put a sealed folder in its place and point `latest` at it."""
    if final.exists():  # a run that went back and reached the same step again
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(final.parent)
    latest = final.parent.parent / "latest"
    pointer = latest.with_name(".latest.part")
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(final.relative_to(latest.parent), target_is_directory=True)
    pointer.replace(latest)
    _sync(latest.parent)


def prune(run: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to that of `step`.

    Later ones were damaged, or the run would not stand at `step`; they, and any that is cut short, would be kept in
    place of whole ones.
    """
    kept = 0
    for folder in checkpoints(run):
        if kept < keep and int(folder.name[5:]) <= step and not fault(folder, hashes=False):
            kept += 1
        else:
            shutil.rmtree(folder, ignore_errors=True)


def load_state(folder: Path) -> dict[str, Any]:
    """The resumable state of a checkpoint; nothing in it is executed. Raises `WeightsError`."""
    file = folder / STATE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols: what follows says more
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = str(error).split("\n")[0]
        raise WeightsError(
            f"{file}: not a training state this package wrote ({why}); begin again with another --out"
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"{file}: holds a {type(state).__name__}, expected a training state")
    return state


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
