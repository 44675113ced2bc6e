import os
import signal

import pytest

from openus.engine.local import WorkerLostError, run_tasks


def square(task: int) -> int:
    return task * task


def fragile(task: int) -> int:
    if task < 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    return task + 1


def failing(task: int) -> int:
    if task == 3:
        raise ValueError("three")
    return task


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_task_once_whatever_the_workers(workers: int) -> None:
    assert sorted(run_tasks(square, range(20), workers)) == [(i, i * i) for i in range(20)]


def test_a_crash_costs_one_task() -> None:
    asked: list[int] = []

    def lost(task: int) -> int:
        asked.append(task)
        return 100

    results = dict(run_tasks(fragile, [1, 2, -1, 3, 4], 2, lost))
    assert results == {1: 2, 2: 3, 3: 4, 4: 5, -1: 101}
    assert asked == [-1]


def test_a_crash_nobody_handles_names_its_task() -> None:
    with pytest.raises(WorkerLostError) as caught:
        list(run_tasks(fragile, [-1], 1))
    assert caught.value.task == -1


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="three"):
        list(run_tasks(failing, range(5), 2))
