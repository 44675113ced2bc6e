"""What an engine is: it runs tasks somewhere. Where, and how many at a time, changes no byte of what they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openus.storage.depot import Depot, Files, Result, Task

Report = Callable[[str, int, int | None], None]
"""How long work tells of its progress: called with (stage, units done now, total units or None)."""


class Engine(ABC):
    """Runs the tasks of a build whose files lie in `depot`."""

    depot: Depot
    room: int = 1 << 62
    """Bytes of memory that a task of `spread` may take."""

    @abstractmethod
    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        on_lost: Callable[[Task], Task | None] | None = None,
        files: Callable[[Task], Files] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        """Run `function` over `tasks`, each in a process of its own worker; yield (task, result) as they finish.

        A task that ends its process is handed to `on_lost`, which returns a task to run in its place; where it
        returns None or is not given, the task is repeated once. `files` says what a task reads and makes.

        Raises:
            WorkerLostError: a task cannot be brought to its end.
        """

    @abstractmethod
    def spread(
        self, function: Callable[[Any, Task, int], Result], shared: Any, tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Results of `function(shared, task, threads)`, a pure function of arrays, in no order. `shared` is sent to
        each machine once; `threads` is how many the function may use."""

    def inputs(self, slug: str, roots: Sequence[Path]) -> tuple[Path, ...]:
        """Where the workers find the files of a source that lie at `roots` for this process.

        Raises:
            CorpusError: they cannot get at them.
        """
        return tuple(roots)
