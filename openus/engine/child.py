"""A process beside a Ray worker that does its tasks: it may die of one, and it may not take more memory than agreed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openus.engine.local import WorkerLostError, ending, serve

_POLL = 0.2  # seconds between two looks at the memory of a task


class Child:
    """The process; it is started with the first task, and anew when it died."""

    def __init__(self) -> None:
        self._alive = False

    def ask(self, job: bytes, on_lost: bytes, memory: int) -> bytes:
        """The answer to a task, pickled as (True, result) or (False, exception).

        job: (function, task), pickled; it is not unpickled on this side unless the process dies of it. on_lost:
        pickled, as `Engine.run` has it. memory: bytes of resident memory above which the process is ended.
        """
        losses, tried = 0, job
        while True:
            answer, why = self._try(tried, memory)
            if answer is not None:
                return answer
            ask: Callable[[Any], Any] | None = pickle.loads(on_lost)
            function, task = pickle.loads(tried)
            instead = ask(task) if ask is not None else None
            if instead is not None:
                losses, tried = 0, pickle.dumps((function, instead))
            elif losses:
                return pickle.dumps((False, WorkerLostError(task, why)))
            else:
                losses += 1

    def _try(self, job: bytes, memory: int) -> tuple[bytes | None, str]:
        if not self._alive:
            self._start()
        try:
            self._pipe.send_bytes(job)
            while not self._pipe.poll(_POLL):
                if _resident(self._process.pid) > memory:
                    self._process.kill()
                    self._process.join()
                    self._end()
                    return None, f"it took more than {memory / 2**30:.1f} GiB of memory"
            return self._pipe.recv_bytes(), ""
        except (EOFError, OSError):
            return None, ending(self._end())

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: Any = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._alive = True

    def _end(self) -> int | None:
        """Let the process go; returns its exit code, negative for a signal."""
        if not self._alive:
            return None
        self._alive = False
        self._pipe.close()
        self._process.join()
        code: int | None = self._process.exitcode
        self._process.close()
        return code


def _resident(pid: int | None) -> int:
    """Bytes of memory a process holds; 0 where this system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
