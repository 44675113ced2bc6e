"""Checksums written as ``algorithm:hexadecimal``, over streams and files.

``git`` is the identifier of a git blob: SHA-1 over ``blob <size>`` NUL and the content. Hosts that keep data
in git (Hugging Face, GitHub) publish it for files they publish no other checksum of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from openus.errors import SourceError

LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "git": 40}
CHUNK = 1 << 20


def split_hash(text: str) -> tuple[str, str]:
    """``"MD5:AB…"`` as ``("md5", "ab…")``; raise `SourceError` where it is no such checksum."""
    algorithm, _, digits = text.partition(":")
    algorithm, digits = algorithm.strip().lower(), digits.strip().lower()
    if len(digits) != LENGTHS.get(algorithm) or not re.fullmatch(r"[0-9a-f]+", digits):
        known = ", ".join(f"{name} ({length} digits)" for name, length in LENGTHS.items())
        raise SourceError(f"'{text}' is not a checksum written as algorithm:hexadecimal; known: {known}")
    return algorithm, digits


class Digests:
    """Several checksums over one stream of known or unknown length.

    `size` is needed beforehand by ``git`` only; without it that one is left out (see `file_digests`).
    """

    def __init__(self, algorithms: Iterable[str], size: int | None = None) -> None:
        self.length = 0
        self._states: dict[str, Any] = {}
        for algorithm in algorithms:
            if algorithm == "git":
                if size is not None:
                    self._states["git"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            else:
                self._states[algorithm] = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self.length += len(data)
        for state in self._states.values():
            state.update(data)

    def covers(self, algorithms: Iterable[str], length: int) -> bool:
        """Whether these are the checksums `algorithms` of a stream of exactly `length` bytes so far."""
        return self.length == length and set(algorithms) <= set(self._states)

    def results(self) -> dict[str, str]:
        """Algorithm to lower-case hexadecimal."""
        return {name: state.hexdigest() for name, state in self._states.items()}


def file_digests(
    path: Path, algorithms: Iterable[str], on_bytes: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Checksums of a whole file, read once; `on_bytes` hears how much has been read."""
    digests = Digests(algorithms, path.stat().st_size)
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            digests.update(data)
            if on_bytes is not None:
                on_bytes(digests.length)
    return digests.results()


def sha256_of(path: Path) -> str:
    """SHA-256 of a whole file, hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
