"""What makes a build resumable: fingerprints of its inputs. What they do not change for is done once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from openus.engine.code import code_version
from openus.select import Selected


def inputs_state(roots: Sequence[Path], entries: Collection[str]) -> str:
    """Identity of the archives among the roots of a source, and of those that lie in its folders.

    `entries` are the paths of all files of the dataset: a file in a folder that is none of them is an archive.
    Size and time are looked at, not the bytes; the name of the place is left out, so that moved data is known.
    """
    digest = hashlib.sha256(code_version().encode())
    for root in roots:
        if root.is_file():
            digest.update(root.name.encode() + _stat(root))
            continue
        start = len(str(root).rstrip("/")) + 1
        below = (f"{where.rstrip('/')}/{name}"[start:] for where, _, names in os.walk(root) for name in names)
        for name in sorted(name for name in below if name not in entries):
            if (path := root / name).is_file():
                digest.update(name.encode() + _stat(path))
    return digest.hexdigest()


def fingerprint(state: str, roots: Sequence[Path], members: Sequence[Selected]) -> str:
    """Identity of the bytes a chunk reads: the archives (`inputs_state`), and the files that lie unpacked."""
    digest = hashlib.sha256(state.encode())
    for root in roots:
        if root.is_dir():
            for member in members:
                digest.update(_stat(f"{root}/{member.path}"))
    return digest.hexdigest()


def _stat(path: Path | str) -> bytes:
    try:
        facts = os.stat(path)  # noqa: PTH116 (of very many paths, which need not be taken apart)
    except OSError:
        return b"-"
    return f"{facts.st_size} {facts.st_mtime_ns}\n".encode()
