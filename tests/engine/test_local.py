import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pytest

from openus.engine.local import WorkerLostError, kept_workers, run_tasks


def square(task: int) -> int:
    return task * task


def fragile(task: int) -> int:
    if task < 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    return task + 1


def dies_once(task: str) -> str:
    if not Path(task).exists():
        Path(task).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def naps(task: str) -> None:
    Path(task).write_text(str(os.getpid()))
    time.sleep(60)


def tables(task: str) -> tuple[bool, str]:
    import pyarrow

    table = pyarrow.Table.from_pylist([{"a": task}])
    loaded = "pandas" in sys.modules
    import pandas

    return loaded, table["a"][0].as_py() + pandas.read_csv(io.StringIO("a,b\n1,2\n"), dtype=str)["b"][0]


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


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


def test_a_crash_nobody_handles_is_tried_once_more_and_then_names_its_task() -> None:
    with pytest.raises(WorkerLostError, match=r"died \(SIGSEGV\).*fewer --workers") as caught:
        list(run_tasks(fragile, [-1], 1))
    assert caught.value.task == -1


def test_a_worker_that_was_killed_costs_nothing(tmp_path: Path) -> None:
    """The system kills a process when memory is short; the task is not to blame, and is repeated."""
    tasks = [str(tmp_path / name) for name in "abc"]
    assert sorted(run_tasks(dies_once, tasks, 2)) == [(task, task) for task in tasks]


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = f"from tests.engine.test_local import *; list(run_tasks(naps, [{str(tmp_path / 'pid')!r}], 1))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    worker = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(worker):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.02)


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="three"):
        list(run_tasks(failing, range(5), 2))


def who(task: int) -> int:
    return os.getpid()


class UnsendableError(Exception):
    """Cannot be rebuilt from what pickle keeps of it."""

    def __init__(self, number: int, unit: str) -> None:
        super().__init__(f"{number} {unit}")


def raises_unsendable(task: int) -> None:
    raise UnsendableError(task, "volts")


def test_an_error_that_cannot_be_sent_still_says_where_it_happened() -> None:
    with pytest.raises(RuntimeError, match="UnsendableError: 7 volts") as caught:
        list(run_tasks(raises_unsendable, [7], workers=1))
    assert "in raises_unsendable" in "".join(caught.value.__notes__)


def test_workers_are_kept_from_stage_to_stage_and_let_go_after() -> None:
    with kept_workers():
        first = {pid for _, pid in run_tasks(who, range(4), 1)}
        second = {pid for _, pid in run_tasks(who, range(4), 1)}
        assert first == second and len(first) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(first.pop(), 0)


def test_kept_workers_survive_a_crash() -> None:
    with kept_workers():
        assert dict(run_tasks(fragile, [1, -1], 1, lambda task: 5)) == {1: 2, -1: 6}
        assert list(run_tasks(square, [3], 1)) == [(3, 9)]


def test_workers_load_no_pandas_until_a_task_does() -> None:
    asks_again = int(pyarrow.__version__.split(".")[0]) < 18  # and finds it, which costs no more than time
    assert list(run_tasks(tables, ["x"], 1)) == [("x", (asks_again, "x2"))]


def test_workers_settle_their_threads_before_numpy_is_loaded() -> None:
    code = "import sys, openus.engine.local; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
