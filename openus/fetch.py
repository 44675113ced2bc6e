"""From a source to its files on this machine: a copy at hand, the drop folder, a mirror, or a route.

``CACHE/SLUG/`` is the drop folder: what a person puts there is taken before anything is fetched.
``CACHE/fetched/SLUG/`` holds what was fetched, and ``CACHE/fetched/SLUG.json`` is the receipt of a route that
came through completely, so that the next run asks no host.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openus.archives import required_tools
from openus.errors import (
    ChecksumError,
    ManifestError,
    MissingExtraError,
    NeedsPersonError,
    OfflineError,
    SourceError,
    TransferError,
    UnreachableError,
)
from openus.glob import Glob, any_matches
from openus.hosts import refused, resolve
from openus.hosts.base import RemoteFile
from openus.hosts.manual import instructions, last_steps
from openus.manifest import Route, Source
from openus.net import HttpError
from openus.transfer.download import Transfer
from openus.transfer.drop import DropState, examine, measure
from openus.transfer.lock import LockFile
from openus.transfer.tally import OnBytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Obtained:
    """A dataset at hand.

    roots: folders, archives or files for `openus.archives.Tree`. route: where it came from, for people.
    bytes: of all files in the roots.
    """

    slug: str
    roots: tuple[Path, ...]
    route: str
    bytes: int


def default_cache() -> Path:
    """``$OPENUS_CACHE``, or ``~/.cache/openus``."""
    return Path(os.environ.get("OPENUS_CACHE") or "~/.cache/openus").expanduser()


def obtain(
    source: Source,
    *,
    cache: Path,
    mirrors: Sequence[str] = (),
    local: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
    transfer: Transfer | None = None,
) -> Obtained:
    """The verified files of a source.

    local:    a copy at hand, packed or unpacked; nothing else is tried.
    mirrors:  folders or addresses that hold files under HOST/PATH, asked first.
    transfer: the engine to use, instead of one made from `cache`, `mirrors`, `offline` and `on_bytes`.

    The routes of the manifest are tried in order and a dead one falls to the next. Raises
    `NeedsPersonError` with numbered steps, or another `SourceError` saying why each route failed.
    """
    if local is not None:
        return _from_local(source, local)
    cache = cache.expanduser().absolute()
    dropped = dropped_files(source, cache)
    if dropped.complete:
        return Obtained(source.slug, dropped.roots, "drop folder", dropped.bytes)
    transfer = transfer or Transfer(cache, mirrors=mirrors, offline=offline, on_bytes=on_bytes)
    for route in source.routes:
        at_hand = _at_hand(source, route, transfer)
        if at_hand is not None:
            return at_hand
    failures: list[tuple[Route, Exception]] = []
    for route in source.routes:
        try:
            return _by_route(source, route, transfer)
        except ManifestError:
            raise
        except (SourceError, MissingExtraError) as error:
            log.info("%s: %s: %s", source.slug, route_name(route), error)
            failures.append((route, error))
    raise _failure(source, failures, dropped, drop_folder(source, cache))


def drop_folder(source: Source, cache: Path) -> Path:
    """Where a person puts the files of a source."""
    return cache.expanduser().absolute() / source.slug


def dropped_files(source: Source, cache: Path) -> DropState:
    """What is in the drop folder of a source; raise `ChecksumError` for files that are not the expected ones."""
    return examine(source, drop_folder(source, cache), LockFile(cache.expanduser().absolute()))


def cached(source: Source, cache: Path) -> str:
    """``dropped`` or ``fetched`` where a source is complete on this machine, else an empty string."""
    cache = cache.expanduser().absolute()
    try:
        if dropped_files(source, cache).complete:
            return "dropped"
    except ChecksumError:
        return ""
    found = any(_receipt(source, route, cache) is not None for route in source.routes)
    return "fetched" if found else ""


def route_name(route: Route) -> str:
    """A route in a word or two, for people."""
    return f"{route.host} {route.id}" if route.id else route.host


def _from_local(source: Source, path: Path) -> Obtained:
    path = path.expanduser().absolute()
    if not path.exists():
        raise SourceError(
            f"{source.slug}: {path}: no such file or folder; correct --local {source.slug}=PATH"
        )
    if path.is_file():
        if not path.stat().st_size:
            raise SourceError(f"{source.slug}: {path}: the file is empty; give another copy with --local")
        return Obtained(source.slug, (path,), "local", path.stat().st_size)
    files, size = measure(path)
    if not files:
        raise SourceError(
            f"{source.slug}: {path}: the folder holds no files; correct --local {source.slug}=PATH"
        )
    _check_depth(source, path, files)
    return Obtained(source.slug, (path,), "local", size)


def _check_depth(source: Source, folder: Path, files: Sequence[str]) -> None:
    """A person may point too deep, below the folder a selector names; say so instead of finding nothing."""
    globs = [Glob(pattern) for pattern in source.images]
    if any(any_matches(globs, name) for name in files):
        return
    for up in folder.parents[:3]:
        prefix = folder.relative_to(up).as_posix()
        if any(any_matches(globs, f"{prefix}/{name}") for name in files):
            raise SourceError(
                f"{source.slug}: {folder} lies inside the dataset (its images are {', '.join(source.images[:2])}); "
                f"give the folder above: --local {source.slug}={up}"
            )


def _resolved(source: Source, route: Route, transfer: Transfer, online: bool) -> list[RemoteFile]:
    return resolve(source, route, session=transfer.session, online=online, retry=transfer.retry)


def _folder(source: Source, route: Route, files: Sequence[RemoteFile]) -> str:
    """Files with folders in their names need a folder of their own, which is then the root."""
    nested = any("/" in file.name for file in files)
    return f"fetched/{source.slug}" + (f"/{route.host}-{_digest(route)[:8]}" if nested else "")


def _at_hand(source: Source, route: Route, transfer: Transfer) -> Obtained | None:
    """The files of a route, if all are in a mirror folder or were fetched completely before."""
    if transfer.mirrors.folders:
        try:
            files = _resolved(source, route, transfer, online=False)
            if all(any(transfer.mirrors.files(file)) for file in files):
                return _gather(source, route, transfer, files)
        except (
            SourceError,
            MissingExtraError,
        ) as error:  # said again, with its consequences, when the route is tried
            log.info("%s: not from a mirror folder: %s", source.slug, error)
    return _receipt(source, route, transfer.cache)


def _by_route(source: Source, route: Route, transfer: Transfer) -> Obtained:
    try:
        files = _resolved(source, route, transfer, online=not transfer.offline)
    except NeedsPersonError:
        raise
    except SourceError as error:
        if transfer.offline:
            raise OfflineError(f"{error} (the network is switched off)") from error
        raise
    lacking = required_tools([file.name for file in files])
    if lacking:  # before the first byte: nobody should fetch gigabytes that cannot be opened here
        raise SourceError(f"nothing was downloaded, because {'; '.join(lacking)}")
    try:
        return _gather(source, route, transfer, files)
    except HttpError as error:
        if error.status not in (401, 403):
            raise
        needs = refused(source, route, error)
        if needs is error:
            raise
        raise needs from error


def _gather(source: Source, route: Route, transfer: Transfer, files: Sequence[RemoteFile]) -> Obtained:
    files = _unique(source, route, files)
    folder = _folder(source, route, files)
    paths = transfer.fetch_all(files, folder)
    roots = tuple(paths)
    if folder.count("/") > 1:
        root = transfer.cache / folder
        _prune(root, set(paths))
        roots = (root, *(path for path in paths if not path.is_relative_to(root)))  # in place in a mirror
    obtained = Obtained(source.slug, roots, route_name(route), sum(path.stat().st_size for path in paths))
    _write_receipt(route, transfer.cache, obtained, paths)
    return obtained


def _unique(source: Source, route: Route, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """A host may list a file twice; two different files of one name cannot both be kept."""
    named: dict[str, RemoteFile] = {}
    for file in files:
        other = named.setdefault(file.name, file)
        if other is not file and (file.hash is None or file.hash != other.hash) and file.url != other.url:
            raise SourceError(
                f"{source.slug}: {route_name(route)} lists two different files called {file.name!r}; name what is "
                "wanted in 'files' with its address"
            )
    return list(named.values())


def _prune(folder: Path, keep: set[Path]) -> None:
    """Remove files of an earlier version of the dataset from a folder that holds only fetched files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in keep:
            path.unlink()


def _digest(route: Route) -> str:
    facts = route.model_dump(mode="json", include={"host", "id", "revision", "files", "include"})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_receipt(route: Route, cache: Path, obtained: Obtained, paths: Sequence[Path]) -> None:
    path = cache / "fetched" / f"{obtained.slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [(os.path.relpath(p, cache), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    roots = [os.path.relpath(root, cache) for root in obtained.roots]
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps({"schema": 1, "route": _digest(route), "roots": roots, "files": files}))
    fresh.replace(path)


def _receipt(source: Source, route: Route, cache: Path) -> Obtained | None:
    """What an earlier run fetched by this route, if the route and all its files are as they were then."""
    try:
        note = json.loads((cache / "fetched" / f"{source.slug}.json").read_text())
        if note["schema"] != 1 or note["route"] != _digest(route):
            return None
        total = 0
        for name, size, mtime in note["files"]:
            stat = (cache / name).stat()
            if (stat.st_size, stat.st_mtime_ns) != (size, mtime):
                return None
            total += size
        roots = tuple(Path(os.path.normpath(cache / root)) for root in note["roots"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Obtained(source.slug, roots, route_name(route), total)


def _failure(
    source: Source, failures: Sequence[tuple[Route, Exception]], dropped: DropState, drop: Path
) -> SourceError:
    """All that went wrong as one error, and what a person can do."""
    if dropped.found and dropped.missing:
        incomplete = f"{drop} holds {', '.join(dropped.found)} and still lacks {', '.join(dropped.missing)}"
        return _person(source, incomplete, failures, drop)
    if dropped.unfinished:
        halves = f"{', '.join(dropped.unfinished)} in {drop} is not finished downloading"
        return _person(source, halves, failures, drop)
    if not failures:
        return SourceError(
            f"{source.slug}: its manifest has no routes; give a copy with --local {source.slug}=PATH, or put it "
            f"into {drop}"
        )
    error = _worst(source, failures, drop)
    if len(failures) > 1:
        people = [str(other) for _, other in failures if isinstance(other, NeedsPersonError)]
        error.brief = people[-1] if people else f"none of its {len(failures)} routes works"
        error.tried = tuple(
            _tried(source, route, other) for route, other in failures if route.host != "manual"
        )
    return error


def _tried(source: Source, route: Route, error: Exception) -> str:
    name = route_name(route)
    return f"{name}: {str(error).removeprefix(source.slug + ': ').removeprefix(name + ': ')}"


def _worst(source: Source, failures: Sequence[tuple[Route, Exception]], drop: Path) -> SourceError:
    """The failure that says what is to be done next: where only the network lacks, nobody need fetch by hand."""
    errors = [error for _, error in failures]
    fetching = [error for route, error in failures if route.host != "manual"]
    for kind, lacks in (
        (OfflineError, "not in the cache nor in a mirror folder, and the network is switched off"),
        (UnreachableError, "no host of its routes can be reached; is there a network?"),
    ):
        if len(errors) > 1 and fetching and all(isinstance(error, kind) for error in fetching):
            return kind(f"{source.slug}: {lacks}")
    people = [error for error in errors if isinstance(error, NeedsPersonError)]
    reasons = "; ".join(
        str(error) if isinstance(error, NeedsPersonError) else f"{route_name(route)}: {error}"
        for route, error in failures
    )
    if people:
        alone = len(failures) == len(people) == 1
        why = str(people[-1]).removeprefix(f"{source.slug}: ") if alone else reasons
        return _person(source, why, failures, drop)
    if len(errors) == 1 and isinstance(errors[0], SourceError):
        return errors[0]
    same = (k for k in (ChecksumError, OfflineError, TransferError) if all(isinstance(e, k) for e in errors))
    return next(same, SourceError)(f"{source.slug}: none of its {len(failures)} routes works: {reasons}")


def _person(
    source: Source, why: str, failures: Sequence[tuple[Route, Exception]], drop: Path
) -> NeedsPersonError:
    steps, last = _steps(source, failures), last_steps(source, str(drop))
    return NeedsPersonError(f"{source.slug}: {why}", steps, last)


def _steps(source: Source, failures: Sequence[tuple[Route, Exception]]) -> Sequence[str]:
    """What a person does for this source alone: its way by hand, else what a route asked for, else its page."""
    manual = next((route for route in source.routes if route.host == "manual"), None)
    if manual is not None:
        return instructions(source, manual)
    needing = next((error for _, error in failures if isinstance(error, NeedsPersonError)), None)
    if needing is not None:
        return needing.own
    return instructions(source, next(iter(source.routes), Route(host="manual")))
