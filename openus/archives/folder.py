"""A folder, or one plain file, as a container."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openus.archives.limits import Budget, refused
from openus.archives.names import decoded, is_litter
from openus.archives.store import Item, Store
from openus.errors import ArchiveError


class FolderStore(Store):
    """A folder and all below it. Links to files inside it are followed; links that leave it are refused."""

    random = True

    def __init__(self, root: Path, budget: Budget) -> None:
        self.label, self._root, self._budget = str(root), root.resolve(), budget

    def items(self) -> list[Item]:
        items: dict[str, Item] = {}
        start = len(str(self._root).rstrip("/")) + 1
        for path, status in self._walk(self._root):
            below = path[start:]
            name = below if below.isascii() else "/".join(map(_text, below.split("/")))
            if is_litter(name):
                continue
            if name in items:
                raise refused(self.label, name, "two files have this name once accents are normalised (NFC)")
            self._budget.charge(self.label, name, status.st_size)
            items[name] = Item(name, status.st_size, path)
        return sorted(items.values(), key=lambda item: item.name)

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        waiting = [str(folder)]
        while waiting:
            current = waiting.pop()
            try:
                children = list(os.scandir(current))
            except OSError as error:
                raise ArchiveError(
                    f"{current}: cannot be listed ({error.strerror}); check its permissions"
                ) from error
            for child in children:
                if child.is_symlink():
                    yield from self._link(Path(child.path))
                elif child.is_dir():
                    waiting.append(child.path)
                elif child.is_file():
                    yield child.path, child.stat()
                else:
                    raise refused(self.label, child.name, "it is a device, socket or pipe, not a plain file")

    def _link(self, path: Path) -> Iterator[tuple[str, os.stat_result]]:
        target = path.resolve()
        if not target.is_relative_to(self._root):
            raise refused(
                self.label,
                str(path.relative_to(self._root)),
                f"it is a link that leaves the folder (to {target})",
            )
        # A link to a folder inside would list the same files twice; its target is listed anyway.
        if target.is_file():
            yield str(path), target.stat()

    def open(self, item: Item) -> BinaryIO:
        return open_file(item.token)

    def viewable(self, item: Item) -> bool:
        return True


class FileStore(Store):
    """One plain file, under its own name."""

    random = True

    def __init__(self, path: Path, budget: Budget) -> None:
        self.label, self._path, self._budget = str(path), path, budget

    def items(self) -> list[Item]:
        size = self._path.stat().st_size
        name = _text(self._path.name)
        self._budget.charge(self.label, name, size)
        return [Item(name, size, self._path)]

    def open(self, item: Item) -> BinaryIO:
        return open_file(item.token)


def open_file(path: Path | str) -> BinaryIO:
    """A plain file for reading; `ArchiveError` if it is not one (any more) or cannot be opened."""
    try:
        reader = open(path, "rb")  # noqa: PTH123, SIM115 (of very many paths, which need not be taken apart)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
        reader.close()
        raise ArchiveError(f"{path}: is not a plain file any more")
    return reader


def _text(part: str) -> str:
    return unicodedata.normalize("NFC", decoded(os.fsencode(part)))
