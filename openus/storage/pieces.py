"""Parts of files, wherever these lie: on a disk, or in object storage that a folder stands in for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

Piece = tuple[Path, int, int]
"""A part of a file: path, offset, length in bytes."""

_OPEN_FILES = 128


class Storage(Protocol):
    """What lies behind a folder that stands in for it."""

    folder: Path

    def pieces(self, places: Sequence[Piece]) -> list[bytes]:
        """The bytes of each piece. Raises FileNotFoundError, with the path, or CorpusError."""

    def discard(self, path: Path) -> None:
        """Remove a file here and there."""


_mounted: dict[Path, Storage] = {}


def mount(storage: Storage) -> None:
    """From here on, this process reads what is missing in the storage's folder from the storage."""
    _mounted[storage.folder] = storage


class Pieces:
    """Reads parts of files; files stay open meanwhile, and parts of objects come many at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, places: Iterable[Piece]) -> Iterator[bytes]:
        """The bytes of each place, in their order. Raises OSError, or CorpusError where storage fails."""
        if not _mounted:
            yield from map(self._one, places)
            return
        wanted = list(places)
        absent = [place for place in wanted if not place[0].exists()]
        storages = {place: storage for place in absent if (storage := _storage_of(place[0])) is not None}
        data: dict[Piece, bytes] = {}
        for storage in set(storages.values()):
            theirs = [place for place in dict.fromkeys(wanted) if storages.get(place) is storage]
            data |= zip(theirs, storage.pieces(theirs), strict=True)
        for place in wanted:
            yield data[place] if place in data else self._one(place)

    def _one(self, place: Piece) -> bytes:
        path, at, length = place
        file = self._files.get(path)
        if file is None:
            if len(self._files) >= _OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[path] = self._stack.enter_context(path.open("rb"))
        file.seek(at)
        return file.read(length)


def read_piece(path: Path, at: int, length: int) -> bytes:
    """One part of a file, wherever it lies."""
    with Pieces() as pieces:
        return next(pieces.read([(path, at, length)]))


def discard(path: Path) -> None:
    """Remove a file, wherever it lies, from within a task."""
    storage = _storage_of(path)
    if storage is None:
        path.unlink(missing_ok=True)
    else:
        storage.discard(path)


def _storage_of(path: Path) -> Storage | None:
    return next((storage for folder, storage in _mounted.items() if path.is_relative_to(folder)), None)
