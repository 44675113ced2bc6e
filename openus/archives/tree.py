"""`Tree`: one dataset's files, wherever they lie, under paths that do not depend on how it was packed."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from openus.archives.folder import FileStore, FolderStore, open_file
from openus.archives.formats import Opener, Workspace, open_store
from openus.archives.limits import Budget, Limits
from openus.archives.names import Group, group_archives
from openus.archives.roots import Root, complete_roots, identity
from openus.archives.store import Item, Store, spooled
from openus.archives.unpacked import UnpackedStore
from openus.errors import ArchiveError, did_you_mean

DEFAULT = Limits()
OPEN_STORES = 16
"""Archives kept open at once; a dataset may consist of thousands."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a dataset.

    path:   POSIX path inside the dataset, NFC. A folder root gives paths relative to it; an archive root
            prefixes its stem (``train.zip`` -> ``train/…``), a nested archive likewise (``a/b.zip`` ->
            ``a/b/…``); a plain file root is its name. The same data packed or unpacked
            differ by leading folders only.
    size:   expanded bytes.
    unit:   files of the same non-empty unit are best read together, in one `Tree.read`, by one worker.
    random: False where each separate read costs a pass over the unit (compressed tar, unshared spool).
    """

    path: str
    size: int
    unit: str
    random: bool


class Member:
    """A file that `Tree.read` stands on."""

    def __init__(self, path: str, size: int, opener: Callable[[], BinaryIO]) -> None:
        self.path, self.size, self._opener = path, size, opener

    def open(self) -> BinaryIO:
        """A seekable reader, spooled to disk above 64 MiB; valid while the iteration stands on this member.

        Raises `ArchiveError` if the member's data are truncated or fail their checksum.
        """
        return self._opener()


class _Node:
    """A container in its place: what it holds directly, and the archives nested in it."""

    def __init__(self, store: Store, prefix: str, unit: str, depth: int, nests: bool = True) -> None:
        self.store, self.prefix, self.unit, self.depth = store, prefix, unit, depth
        self.items = items = {item.name: item for item in store.items()}
        groups = group_archives(items) if nests else []
        self.nested = [(group, [items[part] for part in group.parts]) for group in groups]
        inside = {part for group in groups for part in group.parts}
        self.files = {name: item for name, item in items.items() if name not in inside}


def _lies_unpacked(inside: dict[str, Item], stem: str, folder: dict[str, Item]) -> bool:
    """True if all files of an archive lie in its folder too, under its stem or right beside it, by name and size.

    So a dataset is not counted twice when somebody unpacked an archive and kept it.
    """
    beside = stem.rpartition("/")[0]
    for base in (f"{stem}/", f"{beside}/" if beside else ""):
        if inside and all(
            base + name in folder and folder[base + name].size == item.size for name, item in inside.items()
        ):
            return True
    return False


_Lazy = tuple[str, str, Callable[[], _Node]]
"""A container not yet opened: its prefix, a key that tells it from all others, how to open it."""


class Tree:
    """The files of a dataset over its roots: folders, archives, plain files.

    Picklable and cheap to make: nothing is opened before it is asked for, and looking for one path opens only
    the archives on the way to it. Not for use by several threads at once; a forked process starts afresh.

    roots:  folders, archives (all parts of a split one may be given, or lie beside the first) or plain files.
    limits: what hostile archives may not exceed.
    An archive in a folder is left out if all its files lie there unpacked as well.

    work:   folder for what must be unpacked or spooled (rar, 7z, compressed archives inside archives). It is
            shared by all processes and kept; without it each process uses a temporary folder of its own.
    """

    def __init__(self, roots: Sequence[Path], limits: Limits = DEFAULT, work: Path | None = None) -> None:
        self.roots, self.limits, self.work = tuple(Path(root) for root in roots), limits, work
        self._reset()

    def __reduce__(self) -> tuple[type[Tree], tuple[tuple[Path, ...], Limits, Path | None]]:
        return Tree, (self.roots, self.limits, self.work)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._budget = Budget(self.limits)
        self._workspace = Workspace(self.work)
        self._top: list[_Lazy] | None = None
        self._nodes: dict[str, _Node] = {}
        self._open: OrderedDict[int, Store] = OrderedDict()

    def close(self) -> None:
        """Give back file handles and temporary files; the tree can be used again."""
        for node in self._nodes.values():
            node.store.close()
        self._reset()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self) -> list[Entry]:
        """All files, sorted by path. Raises `ArchiveError` for damaged or hostile archives, or if two files
        with different content would have the same path."""
        self._same_process()
        found: dict[str, Entry] = {}
        origin: dict[str, str] = {}
        for node in self._walk():
            for name, item in node.files.items():
                entry = Entry(node.prefix + name, item.size, node.unit, not node.unit)
                if entry.path in found:
                    raise ArchiveError(
                        f"two files have the path {entry.path!r}: one in {origin[entry.path]}, one in "
                        f"{node.store.label}; keep either the archive or what was unpacked from it, not both"
                    )
                found[entry.path], origin[entry.path] = entry, node.store.label
        return [found[path] for path in sorted(found)]

    def read(self, paths: Sequence[str]) -> Iterator[Member]:
        """Each wanted path once, in the order that suits the archives. Unknown paths raise `ArchiveError`."""
        self._same_process()
        by_node: dict[int, tuple[_Node, list[Item]]] = {}
        for path in sorted(set(paths)):
            node, item = self._find(path)
            by_node.setdefault(id(node), (node, []))[1].append(item)
        for node, items in by_node.values():
            yield from self._read_node(node, items)

    def _read_node(self, node: _Node, items: list[Item]) -> Iterator[Member]:
        store = self._touch(node.store)
        if store.random:
            for item in items:
                yield Member(node.prefix + item.name, item.size, partial(store.open, item))
            return
        with contextlib.closing(store.stream(items)) as stream:
            for item, reader in stream:
                yield Member(node.prefix + item.name, item.size, partial(spooled, reader, item.size))

    def open(self, path: str) -> BinaryIO:
        """A seekable reader of one file, independent of others. Raises `ArchiveError` for an unknown path."""
        self._same_process()
        node, item = self._find(path)
        return self._touch(node.store).open(item)

    def _same_process(self) -> None:
        # File handles inherited over a fork share their position with the parent: never read through them.
        if self._pid != os.getpid():
            self._reset()

    def _touch(self, store: Store) -> Store:
        self._open[id(store)] = store
        self._open.move_to_end(id(store))
        while len(self._open) > OPEN_STORES:
            self._open.popitem(last=False)[1].close()
        return store

    def _find(self, path: str) -> tuple[_Node, Item]:
        for node in self._walk(path):
            item = node.files.get(path[len(node.prefix) :]) if path.startswith(node.prefix) else None
            if item is not None:
                return node, item
        where = ", ".join(str(root) for root in self.roots)
        hint = did_you_mean(
            path, (node.prefix + name for node in self._nodes.values() for name in node.files)
        )
        raise ArchiveError(f"no file {path!r} in {where}{hint}")

    def _walk(self, towards: str | None = None) -> Iterator[_Node]:
        """All containers, or only those on the way to the path `towards`; outer before inner."""
        if self._top is None:
            self._top = [self._root(group) for group in complete_roots(self.roots)]
        waiting = self._top[::-1]
        while waiting:
            prefix, key, make = waiting.pop()
            if towards is not None and not towards.startswith(prefix):
                continue
            if key not in self._nodes:
                self._nodes[key] = make()
                self._touch(self._nodes[key].store)
            node = self._nodes[key]
            yield node
            for group, items in reversed(node.nested):
                name = f"{key}/{group.parts[-1]}"
                waiting.append(
                    (f"{node.prefix}{group.stem}/", name, partial(self._nested, node, group, items, name))
                )

    def _root(self, root: Root) -> _Lazy:
        first, budget = root.paths[0], self._budget
        key = str(first)
        if first.is_dir():
            return "", key, lambda: _Node(FolderStore(first, budget), "", "", 0)
        if root.group is None:
            return "", key, lambda: _Node(FileStore(first, budget), "", "", 0, nests=False)
        group = root.group
        openers: list[Opener] = [partial(open_file, path) for path in root.paths]

        def make() -> _Node:
            return self._archive(
                key, group, openers, lambda: root.paths, f"{group.stem}/", "", 1, identity(root.paths)
            )

        return f"{group.stem}/", key, make

    def _nested(self, outer: _Node, group: Group, items: Sequence[Item], key: str) -> _Node:
        prefix = f"{outer.prefix}{group.stem}/"
        identity_ = f"{key}\0{[item.size for item in items]}\0{identity(self.roots)}"
        direct = all(outer.store.viewable(item) for item in items)

        def paths() -> list[Path]:
            return self._spool(outer, identity_, items)

        openers: list[Opener]
        if direct:
            openers = [partial(outer.store.view, item) for item in items]
        else:
            openers = [partial(open_file, path) for path in paths()]
        unit = outer.unit or ("" if direct or self._workspace.shared else key)
        node = self._archive(key, group, openers, paths, prefix, unit, outer.depth + 1, identity_)
        if isinstance(outer.store, FolderStore) and _lies_unpacked(node.items, group.stem, outer.items):
            node.files, node.nested = {}, []
        return node

    def _spool(self, outer: _Node, key: str, items: Sequence[Item]) -> list[Path]:
        """The parts of a nested archive as files on disk."""
        paths: dict[str, Path] = {}
        with contextlib.closing(outer.store.stream(items)) as stream:
            for item, reader in stream:
                paths[item.name] = self._workspace.spool(key, item.name, reader)
        return [paths[item.name] for item in items]

    def _archive(
        self, label: str, group: Group, openers: Sequence[Opener], paths: Callable[[], Sequence[Path]],
        prefix: str, unit: str, depth: int, key: str,
    ) -> _Node:  # fmt: skip
        if group.missing:
            raise ArchiveError(f"{label}: {', '.join(group.missing)} missing; put all parts into one folder")
        self._budget.check_depth(label, depth)
        store = open_store(label, openers, group.split, self._budget, self._workspace, key, paths)
        own = (
            label
            if not store.random or (isinstance(store, UnpackedStore) and not self._workspace.shared)
            else ""
        )
        return _Node(store, prefix, unit or own, depth)
