"""Checkpoints that are whole or absent: written beside, synced, renamed; the newest whole one is used.

RUN/checkpoints/step-00001234/   weights.safetensors, config.json   what tasks need
                                 state.pt                           what going on needs: optimiser, cursor
                                 files.json                         sizes and SHA-256 of the above
RUN/latest -> checkpoints/step-00001234
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from openus.console import err
from openus.errors import UsageError
from openus.ledger import alone
from usfmae.model.layouts import WeightsError
from usfmae.model.weights import Weights, load_weights, write_atomic

STATE, FILES, EMA = "state.pt", "files.json", "ema.safetensors"


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first; whether they are whole is not looked at."""
    found = (run / "checkpoints").glob("step-*")
    return sorted((p for p in found if p.name[5:].isdigit()), key=lambda p: int(p.name[5:]), reverse=True)


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
    listed = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
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


def fault(folder: Path, hashes: bool = True) -> str:
    """Why a checkpoint cannot be used, in a few words; empty when it is whole (without `hashes`: seems so)."""
    try:
        listed = json.loads((folder / FILES).read_text())
    except FileNotFoundError:
        return f"{FILES} is missing"
    except ValueError:
        return f"{FILES} is damaged"
    for name, want in listed.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != want["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {want['bytes']}"
        if hashes and _sha256(file) != want["sha256"]:
            return f"{name} is altered (its SHA-256 is not the recorded one)"
    return ""


def newest_whole(run: Path, say: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole checkpoint of a run, or None if it has none yet; a damaged one is passed over aloud.

    Raises `WeightsError` when there are checkpoints and none of them is whole.
    """
    say = say or (lambda text: err.print(text, style="yellow", markup=False, soft_wrap=True))
    found = checkpoints(run)
    for folder in found:
        why = fault(folder)
        if not why:
            return folder
        say(f"{folder}: damaged checkpoint, {why}; using the one before it")
    if found:
        raise WeightsError(
            f"{run}: none of its {len(found)} checkpoints is whole; begin again with another --out"
        )
    return None


def newest_weights(run: Path) -> Weights:
    """The weights of a run's newest whole checkpoint."""
    folder = newest_whole(run)
    if folder is None:
        raise WeightsError(
            f"{run}: this run has no checkpoint yet; let it reach its first one, or give other weights"
        )
    return load_weights(folder)


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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
