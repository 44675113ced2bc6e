"""The drop folder: files a person fetched, recognised however they were left there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from openus.checksum import split_hash
from openus.errors import ChecksumError
from openus.glob import Glob, any_matches
from openus.hosts.common import expected_hash
from openus.manifest import RemoteSpec, Source
from openus.transfer.lock import LockFile

UNFINISHED = (".part", ".crdownload", ".download", ".partial", ".tmp", ".opdownload", ".aria2", ".part.json")
ARCHIVES = (
    ".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".change2zip", ".h5", ".hdf5", ".npz", ".mat",
)  # fmt: skip


@dataclass(frozen=True)
class DropState:
    """What a drop folder holds.

    found, missing: files the manifest expects, by name. other: further files at the top (at most a few).
    complete: enough to go on with `roots`. unfinished: downloads of a browser that are still running.
    problem: a file that is not the expected one (only from `wait_for_files`).
    """

    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    complete: bool = False
    roots: tuple[Path, ...] = ()
    bytes: int = 0
    unfinished: tuple[str, ...] = ()
    problem: str | None = None


def measure(folder: Path) -> tuple[list[str], int]:
    """Paths of all files below `folder` relative to it (POSIX, sorted), and their bytes. Hidden ones are left out."""
    names: list[str] = []
    total = 0
    start = len(str(folder).rstrip("/")) + 1
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            if not name.startswith("."):
                path = f"{where.rstrip('/')}/{name}"
                names.append(path[start:])
                total += os.stat(path).st_size  # noqa: PTH116 (a `Path` costs more than the call)
    return sorted(names), total


def examine(source: Source, folder: Path, lock: LockFile) -> DropState:
    """What a person left in `folder`, for `source`.

    It is complete when it holds loose images the manifest selects, or every file some route names (at the
    top or one or two folders deeper, or unpacked into a folder of that name), or archives under other names.
    Raises `ChecksumError` where a file has the name of an expected one and other bytes.
    """
    if not folder.is_dir():
        return DropState(missing=_wanted(source))
    names, total = measure(folder)
    unfinished = tuple(name for name in names if name.lower().endswith(UNFINISHED))
    present = [name for name in names if name not in unfinished]
    if not present:
        return DropState(missing=_wanted(source), unfinished=unfinished)
    best = _best_match(source, folder, present, lock)
    expected = set(best.values())
    other = [name for name in present if name not in expected]
    globs, not_images = [Glob(p) for p in source.images], [Glob(p) for p in source.exclude]
    loose = any(any_matches(globs, name) and not any_matches(not_images, name) for name in present)
    foreign = not best and any(name.lower().endswith(ARCHIVES) for name in other)
    wanted = _wanted(source, tuple(best))
    missing = tuple(name for name in wanted if name not in best)
    complete = not unfinished and (loose or foreign or (bool(wanted) and not missing))
    top = sorted({name.partition("/")[0] for name in other})
    return DropState(
        tuple(best), missing, tuple(top[:8]), complete, (folder,) if complete else (), total, unfinished
    )


def _wanted(source: Source, found: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the route that `found` fits best, manual ones first."""
    routes = sorted(source.routes, key=lambda route: route.host != "manual")
    lists = [tuple(spec.name for spec in route.files) for route in routes if route.files]
    lists.sort(key=lambda names: -sum(name in found for name in names))
    return lists[0] if lists else ()


def _best_match(source: Source, folder: Path, present: Sequence[str], lock: LockFile) -> dict[str, str]:
    """Expected name to path, of the route of which most is there; its sizes and checksums are right."""
    best: dict[str, str] = {}
    problem: ChecksumError | None = None
    for route in sorted(source.routes, key=lambda route: route.host != "manual"):
        found: dict[str, str] = {}
        try:
            for spec in route.files:
                path = _find(spec.name, present)
                if path is not None:
                    _check(spec, folder / path, lock)
                    found[spec.name] = path
        except ChecksumError as error:
            problem = problem or error
            continue
        if len(found) > len(best):
            best = found
    if problem is not None and not best:
        raise problem
    return best


def _find(name: str, present: Sequence[str]) -> str | None:
    """The file of that name at most two folders deep, or any file of a folder called like the unpacked archive."""
    plain = PurePosixPath(name)
    stem = plain.name[: -len("".join(plain.suffixes[-2:]))] if plain.name.endswith(".tar.gz") else plain.stem
    # Files of one name may lie in several folders (train.txt of two sets), so the whole path is looked for first.
    whole = next((path for path in present if f"/{path}".endswith(f"/{name}")), None) if "/" in name else None
    if whole is not None:
        return whole
    unpacked = None
    for path in present:
        parts = PurePosixPath(path).parts
        if len(parts) <= 3 and parts[-1].lower() == plain.name.lower():
            return path
        if plain.suffix.lower() in ARCHIVES and any(part.lower() == stem.lower() for part in parts[:-1][:2]):
            unpacked = unpacked or path
    return unpacked


def _check(spec: RemoteSpec, path: Path, lock: LockFile) -> None:
    if path.name.lower() != PurePosixPath(spec.name).name.lower():
        return  # unpacked: what is inside is judged by the selectors and the expected counts
    size = path.stat().st_size
    if size == 0 or (spec.stable and spec.bytes is not None and size != spec.bytes):
        expected = f"{spec.bytes} bytes" if spec.bytes is not None else "a file with content"
        raise ChecksumError(
            f"{path}: expected {expected}, found {size} bytes; the download is not complete or another version: "
            "fetch it again"
        )
    wanted = expected_hash(spec)
    if wanted is None or not spec.stable:
        return
    algorithm, digits = split_hash(wanted)
    found = lock.digest(path, [algorithm])[algorithm]
    if found != digits:
        raise ChecksumError(
            f"{path}: expected {wanted}, found {algorithm}:{found}; this is another version or a damaged download: "
            "fetch it again, or give it with --local if you know it is right"
        )


def wait_for_files(
    source: Source, folder: Path, lock: LockFile, *, poll: float = 2.0, timeout: float | None = None
) -> Iterator[DropState]:
    """Watch a drop folder: yield its state when it is at rest and new, until it is complete.

    A folder is at rest when two looks, `poll` seconds apart, see the same files, sizes and times, so that a
    file still being copied is not judged. A file that is not the expected one is told in `problem`, and may be
    replaced. Ends without a complete state after `timeout` seconds.
    """
    began = time.monotonic()
    previous = judged = None
    while True:
        sight = _sight(folder)
        if sight == previous and sight != judged:
            judged = sight
            try:
                state = examine(source, folder, lock)
            except ChecksumError as error:
                state = DropState(missing=_wanted(source), problem=str(error))
            yield state
            if state.complete:
                return
        previous = sight
        if timeout is not None and time.monotonic() - began >= timeout:
            return
        time.sleep(poll)


def _sight(folder: Path) -> list[tuple[str, int, int]]:
    """Every file with size and time; a file that vanishes while being looked at is left out."""
    seen = []
    for where, _, files in os.walk(folder):
        for name in files:
            try:
                stat = Path(where, name).stat()
            except FileNotFoundError:
                continue
            seen.append((str(Path(where, name)), stat.st_size, stat.st_mtime_ns))
    return sorted(seen)
