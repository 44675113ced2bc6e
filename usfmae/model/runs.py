"""Where a run keeps its checkpoints, and which of them is whole; `usfmae.train.checkpoint` writes them.

RUN/checkpoints/step-00001234/files.json   sizes and SHA-256 of the files beside it
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from openus.checksum import sha256_of
from openus.console import err
from usfmae.model.layouts import WeightsError

FILES = "files.json"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first; whether they are whole is not looked at."""
    found = (run / "checkpoints").glob("step-*")
    return sorted((p for p in found if p.name[5:].isdigit()), key=lambda p: int(p.name[5:]), reverse=True)


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
        if hashes and sha256_of(file) != want["sha256"]:
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
