"""Where a build keeps its files: a folder of this machine, or one that all machines share.

`openus.storage.bucket` has the same for object storage, `openus.storage.choose` knows which one an address means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from openus.checksum import sha256_of
from openus.errors import UsageError
from openus.storage.locks import one_builder

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Files:
    """What a task reads (`needs`), what it makes in the order of sending (`gives`, its mark of being done last), and
    what of that the build itself reads afterwards (`back`)."""

    needs: Sequence[Path] = ()
    gives: Sequence[Path] = ()
    back: Sequence[Path] = ()


class Depot:
    """A corpus folder on a disk of this machine, or one that all machines share: every file is where it is."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def builder(self) -> AbstractContextManager[None]:
        """Hold the corpus for one build. Raises `CorpusError` where another one is at work."""
        if self.folder.is_file():
            raise UsageError(f"{self.folder}: is a file; name a folder for the corpus")
        return one_builder(self.folder / ".work")

    def reader(self) -> AbstractContextManager[None]:
        """Look at the corpus without building. Raises `CorpusError` where storage cannot be read."""
        return nullcontext()

    def around(
        self, function: Callable[[Task], Result], files: Callable[[Task], Files] | None
    ) -> Callable[[Task], Result]:
        """`function`, with the fetching and sending that its tasks need."""
        return function

    def fetch(self, *paths: Path) -> None:
        """Have these files here."""

    def send(self, *paths: Path) -> None:
        """Put these files, in this order, where the corpus lies."""

    def remove(self, *paths: Path) -> None:
        """Remove files wherever they are; those that do not exist are no matter."""
        for path in paths:
            path.unlink(missing_ok=True)

    def size(self, path: Path) -> int | None:
        """Bytes of a file of the corpus, None where there is none."""
        try:
            return path.stat().st_size
        except OSError:
            return None

    def sha256(self, path: Path) -> str:
        """Of a file of the corpus, read where it lies. Raises OSError, or CorpusError where storage fails."""
        return sha256_of(path)

    def have(self, *paths: Path) -> None:
        """Fetch those of these files that there are."""
        self.fetch(*(path for path in paths if self.size(path) is not None))

    def files(self) -> list[Path]:
        """All files of the corpus, those of the work folder included; inputs and what is unpacked left out."""
        return [
            path
            for top in (*self.folder.glob("*"), *self.folder.glob(".work/[!iu]*"))
            if top.name != ".work"
            for path in ([top] if top.is_file() else top.rglob("*"))
            if path.is_file()
        ]

    def publish(self, sent: Collection[Path], after: Sequence[Path] = ()) -> None:
        """Put the files of a finished corpus in their place, `corpus.json` last, and then those in `after`; those in
        `sent` are there."""
