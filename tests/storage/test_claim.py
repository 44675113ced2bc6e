"""One builder at a time, on a storage that is in memory: who waits, who leaves, who takes over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from openus.errors import CorpusError
from openus.storage import claim

URL = "memory://claims/corpus"
PATH = "/claims/corpus/.work/claim.json"
DEAD = 6 * 0.1  # seconds for which a claim must stand still


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.1)


@pytest.fixture
def storage() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def held_by(storage: Any, **facts: Any) -> None:
    storage.pipe_file(PATH, json.dumps(facts).encode())


def holder(storage: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.cat_file(PATH))
    return found


def seconds_to_take() -> float:
    began = time.monotonic()
    with claim.claimed(URL):
        return time.monotonic() - began


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something between two looks at a claim."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            action()

    monkeypatch.setattr(claim.time, "sleep", sleep)


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came to that")


def ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_who_holds_it_counts_up_and_leaves_nothing(storage: Any) -> None:
    with claim.claimed(URL):
        first = holder(storage)
        assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
        until(lambda: holder(storage)["count"] >= first["count"] + 2)
        assert holder(storage)["id"] == first["id"]
    assert not storage.exists(PATH)


def test_who_stops_it_by_hand_is_not_told_of_another_build(storage: Any) -> None:
    with pytest.raises(KeyboardInterrupt), claim.claimed(URL):
        raise KeyboardInterrupt
    assert not storage.exists(PATH)


def test_one_that_stands_still_is_dead_however_it_looks(storage: Any) -> None:
    for facts in ({"id": "x", "count": 3, "host": "elsewhere", "pid": 1}, {}):
        held_by(storage, **facts)
        assert seconds_to_take() >= DEAD
    storage.pipe_file(PATH, b"cut off")
    assert seconds_to_take() >= DEAD


def test_one_of_this_machine_is_looked_for(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[dict[str, Any]] = []
    monkeypatch.setattr(claim._Claim, "_watch", lambda mine, found: watched.append(found))
    here = {"id": "x", "count": 3, "host": socket.gethostname()}
    held_by(storage, **here, pid=ended())
    assert seconds_to_take() >= 0 and not watched
    others = ({"pid": os.getpid()}, {"pid": "?"}, {"pid": ended(), "host": "elsewhere"})
    for facts in others:  # it is at work, or nobody can tell
        held_by(storage, **here | facts)
        assert seconds_to_take() >= 0
    assert watched == [here | facts for facts in others]


@pytest.mark.parametrize("next_", [{"id": "x", "count": 4}, {"id": "y", "count": 3}])
def test_one_that_moves_is_left_alone(
    storage: Any, next_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_by(storage, id="x", count=3, host="a", pid=7)
    meanwhile(monkeypatch, lambda: held_by(storage, **next_, host="b", pid=8))
    with pytest.raises(CorpusError, match=r"corpus: another build is at work here \(process 8 on b\)"):
        seconds_to_take()
    assert holder(storage) == {**next_, "host": "b", "pid": 8}


def test_one_that_is_given_up_meanwhile_is_free(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_DEAD", 10_000)
    held_by(storage, id="x", count=3, host="a", pid=7)
    meanwhile(monkeypatch, lambda: storage.rm_file(PATH))
    assert seconds_to_take() < 60


def test_of_two_that_take_over_the_later_one_wins(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = claim._Claim._made

    def overtaken(mine: claim._Claim) -> bool:
        done = made(mine)
        held_by(storage, id="later", count=0, host="b", pid=8)
        return done

    monkeypatch.setattr(claim._Claim, "_made", overtaken)
    with pytest.raises(CorpusError, match="process 8 on b"):
        seconds_to_take()
    assert holder(storage)["id"] == "later"


def test_a_count_that_is_under_way_is_waited_for(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, begun = type(storage).pipe_file, threading.Event()

    def slow(self: Any, path: str, data: bytes, **how: Any) -> None:
        if not how:
            begun.set()
            time.sleep(0.2)
        pipe(self, path, data, **how)

    monkeypatch.setattr(type(storage), "pipe_file", slow)
    with claim.claimed(URL):
        assert begun.wait(10)
    time.sleep(0.3)
    assert not storage.exists(PATH)


def test_a_storage_that_fails(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no such bucket")

    pipe = type(storage).pipe_file
    monkeypatch.setattr(type(storage), "pipe_file", refuse)
    with pytest.raises(CorpusError, match="cannot be written"):
        seconds_to_take()
    monkeypatch.setattr(type(storage), "pipe_file", pipe)
    with claim.claimed(URL):  # a network that is away for a moment
        tries: list[int] = []
        monkeypatch.setattr(type(storage), "pipe_file", lambda *_, **__: refuse(tries.append(1)))
        until(lambda: len(tries) > 1)
        monkeypatch.setattr(type(storage), "pipe_file", pipe)
        count = holder(storage)["count"]
        until(lambda: bool(holder(storage)["count"] > count))
        monkeypatch.setattr(type(storage), "rm_file", refuse)
    assert storage.exists(PATH)  # nobody fails at the end for a claim that will be seen to be dead
