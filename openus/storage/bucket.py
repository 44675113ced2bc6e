"""A corpus in object storage, with a folder of this machine standing in for it.

All stages work on paths. Where the corpus lies in object storage (`s3://…`, anything fsspec knows), each machine has
a folder of the same layout that stands in for it (the *stand-in*): a task's inputs are fetched into it before the
task runs, what it makes is sent when it is whole (the file that marks it as done last), and large files leave the
stand-in again. Objects appear whole or not at all, so a build that was killed leaves nothing half done.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from filelock import FileLock

from openus.errors import CorpusError
from openus.storage.claim import claimed
from openus.storage.depot import Depot, Files, Result, Task
from openus.storage.locks import one_builder
from openus.storage.pieces import Piece, mount
from openus.storage.places import file_system, open_url

_AT_ONCE = 64  # requests under way at the same time
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
_DESCRIBING = ("corpus.json", "manifest/rejected.parquet", "manifest/duplicates.parquet")
_NOTES = (".work/sources/*/*.parquet", ".work/sources/*/*.prints", ".work/pack/*.json", ".work/dedup/*")


class Bucket(Depot):
    """A corpus in object storage.

    url: its address. scratch: a folder of each machine, with room for inputs and for some shards; the stand-in lies
    in it, at the same path on every machine.

    Raises:
        MissingExtraError, UsageError: the address needs a package that is missing, or is of no known kind.
    """

    remote = True

    def __init__(self, url: str, scratch: Path | None = None) -> None:
        self.url = url.rstrip("/")
        top = scratch or Path(tempfile.gettempdir()) / f"openus-{getpass.getuser()}"
        super().__init__(top / hashlib.sha256(self.url.encode()).hexdigest()[:16])
        self._sizes: dict[str, int] = {}
        file_system(self.url)  # so that what is missing is said at once

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sizes": {}}

    @contextlib.contextmanager
    def builder(self) -> Iterator[None]:
        with one_builder(self.folder / ".work"), claimed(self.url):
            mount(self)
            self._synchronise()
            yield
        shutil.rmtree(self.folder, ignore_errors=True)  # all of it is in storage

    @contextlib.contextmanager
    def reader(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(dir=_made(self.folder.parent)) as own:
            self.folder = Path(own) / "corpus"  # beside a build on this machine, not in its way
            self.folder.mkdir()
            mount(self)
            self._list()
            there = [path for name in _DESCRIBING if self.size(path := self.folder / name) is not None]
            self.fetch(*there)
            yield

    def _synchronise(self) -> None:
        """List what is there; the stand-in forgets what is not, and gets the marks of what is done."""
        self._list()
        for path in super().files():
            name = self._name(path)
            # What a stage made of chunks has its inputs in its name; all else may have changed meanwhile.
            same = name.startswith(".work/sources/") and self._sizes.get(name) == path.stat().st_size
            if not same and name != ".work/lock":
                path.unlink()
        self.fetch(*(path for note in _NOTES for path in self.files() if path.match(note)))

    def _list(self) -> None:
        system, root = file_system(self.url)
        with self._said():
            system.invalidate_cache()
            found = system.find(root, detail=True) if system.exists(root) else {}
        prefix = len(root.rstrip("/")) + 1
        self._sizes = {name[prefix:]: facts["size"] for name, facts in found.items()}

    def files(self) -> list[Path]:
        return [
            self.folder / name
            for name in sorted(self._sizes)
            if not name.startswith((".work/inputs/", ".work/unpacked/", ".work/lock"))
        ]

    def size(self, path: Path) -> int | None:
        return self._sizes.get(self._name(path))

    def sha256(self, path: Path) -> str:
        if self.size(path) is None:
            raise FileNotFoundError(errno.ENOENT, "missing in object storage", str(path))
        digest = hashlib.sha256()
        with open_url(f"{self.url}/{self._name(path)}") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def around(
        self, function: Callable[[Task], Result], files: Callable[[Task], Files] | None
    ) -> Callable[[Task], Result]:
        return _Around(self, function, files)

    def fetch(self, *paths: Path) -> None:
        wanted = [path for path in paths if not path.exists()]
        if not wanted:
            return
        system, root = file_system(self.url)
        for path in wanted:
            with _turn(self.folder, path):
                if not path.exists():
                    with self._said(path):
                        self._fetch(system, f"{root}/{self._name(path)}", path)

    def _fetch(self, system: Any, name: str, path: Path) -> None:
        """A file, or a folder with all below it; under another name until it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        if system.isfile(name):
            system.get_file(name, str(temporary))
        else:
            inside = system.find(name)
            if not inside:
                raise FileNotFoundError("no such object")
            targets = [str(temporary) + item[len(name) :] for item in inside]
            system.get(inside, targets, batch_size=_AT_ONCE)
        temporary.rename(path)

    def send(self, *paths: Path) -> None:
        system, root = file_system(self.url)
        for path in paths:
            name = self._name(path)
            with self._said(path):
                if path.is_dir():
                    files = {f"{name}/{item.relative_to(path).as_posix()}": item for item in path.rglob("*")}
                    fresh = {
                        n: item for n, item in files.items() if item.is_file() and self._differs(n, item)
                    }
                    targets = [f"{root}/{target}" for target in fresh]
                    system.put([str(item) for item in fresh.values()], targets, batch_size=_AT_ONCE)
                else:
                    system.put_file(str(path), f"{root}/{name}")
                    self._sizes[name] = path.stat().st_size

    def remove(self, *paths: Path) -> None:
        super().remove(*paths)
        system, root = file_system(self.url)
        names = [name for name in map(self._name, paths) if self._sizes.pop(name, None) is not None]
        if names:
            with self._said():
                system.rm([f"{root}/{name}" for name in names])

    def discard(self, path: Path) -> None:
        """Remove a file of which this process does not know whether it is there."""
        path.unlink(missing_ok=True)
        system, root = file_system(self.url)
        with self._said(path), contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{root}/{self._name(path)}")

    def pieces(self, places: Sequence[Piece]) -> list[bytes]:
        """Parts of files, read at once."""
        system, root = file_system(self.url)
        names = [f"{root}/{self._name(path)}" for path, _, _ in places]
        with self._said():
            found: list[Any] = system.cat_ranges(
                names, [at for _, at, _ in places], [at + length for _, at, length in places],
                batch_size=_AT_ONCE, on_error="return",
            )  # fmt: skip
        for (path, _, _), data in zip(places, found, strict=True):
            if isinstance(data, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "missing in object storage", str(path))
            if isinstance(data, Exception):
                raise self._trouble(path, data) from data
        return found

    def publish(self, sent: Collection[Path], after: Sequence[Path] = ()) -> None:
        last = self.folder / "corpus.json"
        made = {path for path in super().files() if ".work" not in path.parts and path.suffix != ".tar"}
        self.send(*sorted(made - {*sent, last}), last, *after)

    def _differs(self, name: str, path: Path) -> bool:
        return self._sizes.get(name) != path.stat().st_size

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextlib.contextmanager
    def _said(self, path: Path | None = None) -> Iterator[None]:
        """Whatever the storage's own library raises, as one of our errors."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
                raise
            raise self._trouble(path, error) from error

    def _trouble(self, path: Path | None, error: Exception) -> CorpusError:
        where = self.url if path is None else f"{self.url}/{self._name(path)}"
        said = str(error) or type(error).__name__
        return CorpusError(
            f"{where}: object storage says: {said}; check the address and your access, run it again"
        )


@dataclass(frozen=True)
class _Around(Generic[Task, Result]):
    """A function of tasks with its files fetched before and sent after; large ones do not stay."""

    bucket: Bucket
    function: Callable[[Task], Result]
    files: Callable[[Task], Files] | None

    def __call__(self, task: Task) -> Result:
        bucket = self.bucket
        mount(bucket)
        if self.files is None:
            return self.function(task)
        files = self.files(task)
        bucket.fetch(*(path for path in files.needs if path.is_relative_to(bucket.folder)))
        result = self.function(task)
        bucket.send(*files.gives)
        for path in set(files.gives) - set(files.back):
            path.unlink(missing_ok=True)
        for path in files.needs:
            if path.suffix in (".bin", ".tar") and path.is_relative_to(bucket.folder):
                path.unlink(missing_ok=True)
        return result


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _turn(folder: Path, path: Path) -> Iterator[None]:
    """One process of this machine at a time fetches a file: inputs are large, and wanted by all workers at once."""
    locks = folder / ".work" / "unpacked" / "turns"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / hashlib.sha256(str(path).encode()).hexdigest()[:16]):
        yield


def bring(url: str, folder: Path) -> Path:
    """Inputs that lie in object storage, a file or all below a folder, brought into `folder`, once for each version.

    Raises:
        CorpusError: there is nothing at `url`, or storage fails.
    """
    system, root = file_system(url)
    try:
        found = system.find(root.rstrip("/"), detail=True)
        facts = [
            [name, info["size"], str(info.get("ETag") or info.get("mtime") or "")]
            for name, info in found.items()
        ]
        version = hashlib.sha256(json.dumps([url, sorted(facts)]).encode()).hexdigest()[:16]
        place = folder / version / root.rstrip("/").rpartition("/")[2]
        if not found:
            raise CorpusError(f"{url}: there is nothing there; check the address and your access")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.part")
            system.get(list(found), [str(temporary) + name[len(root.rstrip("/")) :] for name in found])
            # The time of change tells versions apart, wherever and whenever they are brought.
            for path in [temporary] if temporary.is_file() else temporary.rglob("*"):
                os.utime(path, ns=(0, int(version[:8], 16) * 10**6))
            temporary.rename(place)
    except OSError as error:
        raise CorpusError(f"{url}: cannot be read ({error}); check the address and your access") from error
    return place
