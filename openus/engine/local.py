"""Runs tasks in processes of this machine. Results never depend on how many there are."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from typing import Any, Generic

from openus.engine.base import Engine
from openus.errors import OpenUSError
from openus.storage.depot import Depot, Files, Result, Task


class WorkerLostError(OpenUSError):
    """A worker process died (a crash in a native library, the system out of memory) while it ran `task`."""

    def __init__(self, task: object, why: str) -> None:
        super().__init__(
            f"a worker process died ({why}) and the task it had died again when repeated; what is done is "
            "kept: run it again to go on, with fewer --workers if memory is short"
        )
        self.task, self.why = task, why

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[object, str]]:
        return type(self), (self.task, self.why)


class LocalEngine(Engine):
    """Processes of this machine; with `workers` 0, this very process."""

    def __init__(self, workers: int, depot: Depot) -> None:
        self.workers, self.depot = workers, depot

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        on_lost: Callable[[Task], Task | None] | None = None,
        files: Callable[[Task], Files] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        return run_tasks(self.depot.around(function, files), tasks, self.workers, on_lost)

    def spread(
        self, function: Callable[[Any, Task, int], Result], shared: Any, tasks: Iterable[Task]
    ) -> Iterator[Result]:
        return (function(shared, task, max(1, self.workers)) for task in tasks)


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    on_lost: Callable[[Task], Task | None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Run `function` over `tasks` and yield (task, result) as they finish.

    `workers` is the number of processes; 0 works in this one. Each process has one task at a time, so that when
    it dies the one to blame is known: that task is handed to `on_lost`, which returns a task to run in its
    place. Where `on_lost` returns None, or is not given, the task is repeated once.

    Raises:
        WorkerLostError: a task killed two workers, and `on_lost` knows no other to run.
    """
    if workers == 0:
        for task in tasks:
            yield task, function(task)
        return
    waiting = deque((task, task, 0) for task in tasks)  # as given, as run, lost so often
    crew: dict[Any, Worker[Task, Result]] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                worker = _idle.pop() if _idle else Worker()
                worker.function = function
                worker.give(*waiting.popleft())
                crew[worker.pipe] = worker
            for pipe in multiprocessing.connection.wait(list(crew)):
                worker = crew[pipe]
                given, run, lost = worker.task
                try:
                    ok, answer = worker.take()
                except (EOFError, OSError):
                    del crew[pipe]
                    waiting.appendleft(instead_of(given, run, lost, worker.end(), on_lost))
                    continue
                if waiting:  # before the result is handed on, so that nobody waits for the consumer
                    worker.give(*waiting.popleft())
                else:
                    del crew[pipe]
                    _let_go(worker)
                if not ok:
                    raise answer
                yield given, answer
    finally:
        for worker in crew.values():
            worker.process.terminate()
        for worker in crew.values():
            worker.end()


_idle: list[Worker[Any, Any]] = []
_keep: list[None] = []  # one for each `kept_workers` that is entered


@contextmanager
def kept_workers() -> Iterator[None]:
    """Within, the processes of one `run_tasks` serve the next: to start one takes as long as hundreds of pictures."""
    _keep.append(None)
    try:
        yield
    finally:
        _keep.pop()
        while _idle and not _keep:
            _idle.pop().end()


def _let_go(worker: Worker[Any, Any]) -> None:
    if _keep:
        _idle.append(worker)
    else:
        worker.end()


def instead_of(
    given: Task, run: Task, lost: int, code: int | None, on_lost: Callable[[Task], Task | None] | None
) -> tuple[Task, Task, int]:
    instead = on_lost(run) if on_lost is not None else None
    if instead is not None:
        return given, instead, 0
    if lost:
        raise WorkerLostError(given, ending(code))
    return given, run, lost + 1


class Worker(Generic[Task, Result]):
    """One process and the pipe to it."""

    function: Callable[[Task], Result]
    task: tuple[Task, Task, int]

    def __init__(self) -> None:
        # Spawned, not forked: a fork would copy locks held by threads of native libraries.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, given: Task, run: Task, lost: int) -> None:
        self.task = given, run, lost
        with suppress(OSError):  # if it is dead, taking its answer will tell
            self.pipe.send((self.function, run))

    def take(self) -> tuple[bool, Any]:
        answer: tuple[bool, Any] = self.pipe.recv()
        return answer

    def end(self) -> int | None:
        """Let the process go; returns its exit code, negative for a signal."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


def serve(pipe: Any) -> None:
    """What a worker process does: one (function, task) after the other, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before the function's libraries are imported
    leave_with_parent()
    leave_out_pandas()
    try:
        while True:
            pipe.send_bytes(_answer(*pipe.recv()))
    except (EOFError, OSError):
        os._exit(0)  # at once: threads of native libraries may refuse to end in order


def _answer(function: Callable[[Any], Any], task: Any) -> bytes:
    try:
        return pickle.dumps((True, function(task)))
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        try:
            whole = pickle.dumps((False, error))
            pickle.loads(whole)
            return whole
        except Exception:
            plain = RuntimeError(f"{type(error).__name__}: {error}")
            plain.__notes__ = error.__notes__  # where it happened, for --debug
            return pickle.dumps((False, plain))


def leave_out_pandas() -> None:
    """Tell pyarrow in this worker process that there is no pandas, which it loads to ask whether a list is a Series.

    It takes a quarter of the start of a worker, and no task makes a DataFrame of a table. Imports of pandas itself
    are not touched. PyArrow before 18 asks again later, and loads it.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow  # only now: it loads numpy, whose threads are settled then

    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        pyarrow.array([0])  # it looks once
    finally:
        sys.meta_path.remove(absent)


class _Absent(MetaPathFinder):
    """Of pandas alone."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("left out of worker processes", name=fullname)


def leave_with_parent() -> None:
    """From now on this worker process ends at once when the process that began it is gone.

    A parent that was killed closes no pipe while a task runs; two commands must not write the same files.
    """
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ending(code: int | None) -> str:
    """How a process ended, for people."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
