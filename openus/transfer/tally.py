"""Progress of several downloads as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from openus.hosts.base import RemoteFile

OnBytes = Callable[[RemoteFile, int, int | None], None]


class Tally:
    """Adds up what several threads report of `files`, and passes it on as one file called ``N files``.

    The total is None until the length of every file is known.
    """

    def __init__(self, files: Sequence[RemoteFile], on_bytes: OnBytes) -> None:
        self._all = RemoteFile(f"{len(files)} files", "")
        self._on_bytes = on_bytes
        self._have = dict.fromkeys((file.name for file in files), 0)
        self._lengths = {file.name: file.size for file in files if file.size is not None}
        self._sum, self._total = 0, sum(self._lengths.values())
        self._turn = threading.Lock()

    def __call__(self, file: RemoteFile, have: int, total: int | None) -> None:
        with self._turn:
            self._sum += have - self._have[file.name]
            self._have[file.name] = have
            if total is not None:
                self._total += total - self._lengths.get(file.name, 0)
                self._lengths[file.name] = total
            known = len(self._lengths) == len(self._have)
            self._on_bytes(self._all, self._sum, self._total if known else None)
