"""What a dataset's roots are: folders, plain files, archives with all their parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openus.archives.folder import open_file
from openus.archives.formats import sniff
from openus.archives.names import Group, group_archives
from openus.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or plain file (`group` is None), or an archive: its parts in order and their grouping."""

    paths: tuple[Path, ...]
    group: Group | None = None


def complete_roots(roots: Sequence[Path]) -> list[Root]:
    """The roots with the parts of split archives put together; parts lying beside a named one are added.

    Raises `ArchiveError` for a root that does not exist.
    """
    complete: list[Root] = []
    for root in roots:
        if not root.exists():
            raise ArchiveError(f"{root}: does not exist; fetch the dataset again or give the right folder")
        if any(root in known.paths for known in complete):
            continue
        complete.append(Root((root,)) if root.is_dir() else _file_root(root, roots))
    return complete


def _file_root(root: Path, roots: Sequence[Path]) -> Root:
    first_word = root.name.split(".")[0]
    beside = {path.name: path for path in root.parent.iterdir() if path.name.startswith(first_word)}
    beside |= {path.name: path for path in roots if path.is_file()}
    for group in group_archives(beside):
        if root.name in group.parts:
            return Root(tuple(beside[part] for part in group.parts), group)
    # Some hosts hand out archives under a bare identifier; anything with another suffix is what it says.
    if not root.suffix and _is_archive(root):
        return Root((root,), Group(root.name, (root.name,)))
    return Root((root,))


def _is_archive(path: Path) -> bool:
    with open_file(path) as reader:
        return bool(sniff(reader.read(512)))


def identity(paths: Sequence[Path]) -> str:
    """Tells these very files from later versions of them: a hash of their path, size and time of change."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(
            f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()
