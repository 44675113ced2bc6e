"""Runs tasks in processes of this machine. Results never depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerLostError(RuntimeError):
    """A worker process died (a crash in a native library, the system out of memory) while it ran `task`."""

    def __init__(self, task: object) -> None:
        super().__init__("a worker process died")
        self.task = task


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    on_lost: Callable[[Task], Task | None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Run `function` over `tasks` and yield (task, result) as they finish.

    `workers` is the number of processes; 0 works in this one. If a worker dies, the tasks it may have been
    running are repeated one at a time in a process of their own, so that the one to blame is known; that one
    is handed to `on_lost`, which returns a task to run instead, or None to give up on it.

    Raises:
        WorkerLostError: a task killed its worker and `on_lost` is not given.
    """
    if workers == 0:
        for task in tasks:
            yield task, function(task)
        return
    waiting = list(tasks)[::-1]
    running: dict[Future[Result], Task] = {}
    pool = _pool(workers)
    try:
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                task = waiting.pop()
                running[pool.submit(function, task)] = task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken: list[Task] = []
            for future in done:
                task = running.pop(future)
                try:
                    yield task, future.result()
                except BrokenProcessPool:
                    broken.append(task)
            if broken:
                suspects = [*broken, *running.values()]
                running.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                for task in suspects:
                    yield from _alone(function, task, on_lost)
                pool = _pool(workers)
    except BaseException:
        _stop(pool)
        raise
    pool.shutdown()


def _alone(
    function: Callable[[Task], Result], task: Task, on_lost: Callable[[Task], Task | None] | None
) -> Iterator[tuple[Task, Result]]:
    current: Task | None = task
    while current is not None:
        pool = _pool(1)
        try:
            yield task, pool.submit(function, current).result()
            return
        except BrokenProcessPool as error:
            if on_lost is None:
                raise WorkerLostError(task) from error
            current = on_lost(current)
        finally:
            _stop(pool)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork would copy locks held by threads of native libraries.
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_worker
    )


def _quiet_worker() -> None:
    """Workers leave Ctrl-C to the parent and keep native libraries to one thread each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _stop(pool: ProcessPoolExecutor) -> None:
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)
