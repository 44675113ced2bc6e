"""From the options of a command to an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from openus.engine.base import Engine
from openus.engine.local import LocalEngine
from openus.engine.ray import MEMORY, RayEngine
from openus.errors import UsageError, did_you_mean
from openus.storage.depot import Depot

NAMES = ("local", "ray")
_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True)
class EngineOptions:
    """`name` is one of `NAMES`; `address` and `memory` (of one task, as "2GB") are of the cluster's."""

    name: str = "local"
    address: str | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"--engine {self.name}: expected local or ray{did_you_mean(self.name, NAMES)}")
        for option, value in (("--address", self.address), ("--task-memory", self.memory)):
            if value is not None and self.name != "ray":
                raise UsageError(f"{option} {value}: is of a cluster; add --engine ray")
        if self.memory is not None:
            memory_bytes(self.memory)


@contextmanager
def engine_of(
    options: EngineOptions, depot: Depot, workers: int, say: Callable[[str], None]
) -> Iterator[Engine]:
    """The engine, ready to work; `say` is told what a person should know of the cluster."""
    if options.name == "local":
        yield LocalEngine(workers, depot)
        return
    memory = memory_bytes(options.memory) if options.memory else MEMORY
    with RayEngine(workers, depot, address=options.address, memory=memory, say=say) as engine:
        yield engine


def memory_bytes(text: str) -> int:
    """Bytes of "2GB", "1500 MB", "2GiB". Raises `UsageError` for anything else, and below 256 MB."""
    word = text.replace(" ", "").upper()
    unit = next((unit for unit in _UNITS if word.endswith(unit)), None)
    try:
        size = int(float(word.removesuffix(unit)) * _UNITS[unit]) if unit else 0
    except ValueError:
        size = 0
    if size < 256 * 10**6:
        raise UsageError(f"--task-memory {text}: expected at least 256MB, as 1500MB or 2GB")
    return size
