"""Runs tasks on a Ray cluster: the same tasks as the local engine, so the same bytes.

Ray places the tasks, and this module decides what is sent to it and when. A task runs in a process of its own beside
the Ray worker, so that a crash in a native library, or a task that takes more memory than it said, costs one file
and is known for what it is; what is left are losses of whole workers and machines, whose tasks are sent again.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import pickle
import shutil
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openus import __version__
from openus.archives.roots import identity
from openus.engine.base import Engine
from openus.engine.child import Child
from openus.engine.code import code_version
from openus.errors import CorpusError, MissingExtraError, OpenUSError, UsageError
from openus.storage.depot import Depot, Files, Result, Task

MEMORY = 2 << 30
"""Bytes that one task may take, if nothing else is said."""
_AHEAD = 2  # tasks sent for each CPU of the cluster
_LOSSES = 4  # workers that one task may lose
_LOOK = 5.0  # seconds between two looks at the cluster


class RayEngine(Engine):
    """A Ray cluster: one of this machine, started for the build, or an existing one at `address`.

    workers: CPUs of a cluster started here. memory: bytes a task may take; no machine gets more tasks than its
    memory holds, and one that takes more is ended. say: called with what a person should know, line by line.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: there is no cluster at `address`.
    """

    def __init__(
        self,
        workers: int,
        depot: Depot,
        *,
        address: str | None = None,
        memory: int = MEMORY,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.depot, self.say = depot, say
        self.workers, self.memory = max(1, workers), memory
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.room = self.memory
        self.lost = 0
        """Workers and machines that were lost so far."""
        self._looked, self._cpus = 0.0, 1

    def __enter__(self) -> RayEngine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", "ray", "--engine ray") from error
        self._ray: Any = ray
        own = self.address == "local"
        size: dict[str, Any] = (
            {"num_cpus": self.workers, "include_dashboard": _has_dashboard()} if own else {}
        )
        try:
            _knock(self.address)
            context = ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **size)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--address {self.address}: no Ray cluster answers ({error}); start one with 'ray start --head', "
                "or leave --address out for one on this machine"
            ) from error
        try:
            self._meet(getattr(context, "dashboard_url", None))
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.depot.remote:
            self._everywhere(_forget, str(self.depot.folder), patient=False)
        self._ray.shutdown()

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        on_lost: Callable[[Task], Task | None] | None = None,
        files: Callable[[Task], Files] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        work, lost = self.depot.around(function, files), pickle.dumps(on_lost)
        sent = (_Sent(task, (pickle.dumps((work, task)), lost)) for task in tasks)
        for item, answer in self._stream(_perform, function.__name__, sent):
            ok, value = pickle.loads(answer)
            if not ok:
                raise value
            if files is not None:
                self.depot.fetch(*files(item.task).back)
            yield item.task, value

    def spread(
        self, function: Callable[[Any, Task, int], Result], shared: Any, tasks: Iterable[Task]
    ) -> Iterator[Result]:
        one = self._ray.put(shared)
        sent = (_Sent(task, (function, one, task)) for task in tasks)
        for _, answer in self._stream(_apply, function.__name__, sent):
            yield answer

    def inputs(self, slug: str, roots: Sequence[Path]) -> tuple[Path, ...]:
        """The roots themselves where all machines see the same; else they are put into the corpus's storage."""
        found = [(str(root.absolute()), _state(root)) for root in roots]
        blind = [host for host, _, same in self._everywhere(_sees, found) if not same]
        if not blind:
            return tuple(root.absolute() for root in roots)
        if not self.depot.remote:
            raise CorpusError(
                f"{slug}: {blind[0]} does not see {roots[0]}; put the --cache and --local data on a file system that "
                "all machines share, or OUT into object storage (s3://…), where inputs are then put too"
            )
        version = identity(roots)[:16]  # files that were changed are other files
        places = []
        for root in roots:
            place = self.depot.folder / ".work" / "inputs" / slug / version / root.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(root.absolute())
            if root.is_dir() or self.depot.size(place) != root.stat().st_size:
                self.depot.send(place)
            places.append(place)
        return tuple(places)

    def _stream(
        self, function: Callable[..., Any], name: str, tasks: Iterator[_Sent]
    ) -> Iterator[tuple[_Sent, Any]]:
        """Send tasks, a bounded number at a time, and take their answers as they come; what is lost is sent again."""
        ray = self._ray
        remote = ray.remote(function)
        memory = min(self.memory, self._largest)
        again: deque[_Sent] = deque()
        running: dict[Any, _Sent] = {}
        try:
            while True:
                while len(running) < self._slots():
                    item = again.popleft() if again else next(tasks, None)
                    if item is None:
                        break
                    options = remote.options(num_cpus=1, memory=memory, max_retries=0, name=name)
                    running[options.remote(*item.arguments, memory)] = item
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK)
                for reference in done:
                    item = running.pop(reference)
                    try:
                        answer = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise OpenUSError(f"{name} failed on a worker: {error.cause!r}") from error
                    except ray.exceptions.RayError as error:
                        again.append(self._again(item, error))
                        continue
                    yield item, answer
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _again(self, item: _Sent, error: Exception) -> _Sent:
        item.losses += 1
        self.lost += 1
        self._looked = 0.0
        what = type(error).__name__
        if item.losses > _LOSSES:
            raise CorpusError(
                f"a task lost {item.losses} workers ({what}: {str(error).splitlines()[0]}); what is done is kept: look "
                "at the machines, then run it again to go on"
            ) from error
        self.say(f"a worker was lost ({what}); its task is sent again")
        return item

    def _slots(self) -> int:
        """Tasks that may be under way: a few for each CPU there is, looked up now and then, as clusters grow."""
        if time.monotonic() - self._looked > _LOOK:
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            if cpus < 1 <= self._cpus:
                self.say("the cluster has no CPU left; waiting for workers")
            self._looked, self._cpus = time.monotonic(), cpus
        return max(1, _AHEAD * self._cpus)

    def _meet(self, dashboard: str | None) -> None:
        """Look at the cluster: can its machines do the work, do they see the corpus?"""
        ray = self._ray
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not nodes:
            raise UsageError(
                f"the Ray cluster at {self.address} has no CPU; add a worker with 'ray start --address'"
            )
        self._largest = int(max(node["Resources"].get("memory", 0) for node in nodes))
        cpus = sum(int(node["Resources"]["CPU"]) for node in nodes)
        machines = f"{len(nodes)} machine{'s' if len(nodes) > 1 else ''}"
        self.say(f"Ray: {machines}, {cpus} CPUs" + (f", dashboard: http://{dashboard}" if dashboard else ""))
        probe = self.depot.folder / ".work" / f"probe-{uuid.uuid4().hex}"
        if not self.depot.remote:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
        try:
            for host, version, sees in self._everywhere(_sees, [(str(probe.absolute()), (0,))]):
                if version != _version():
                    raise CorpusError(
                        f"{host} has openus {version}, this machine {_version()}: install the same version on all"
                    )
                if not sees and not self.depot.remote:
                    raise CorpusError(
                        f"{host} does not see {self.depot.folder.absolute()}: build into a folder that all machines "
                        "share, or into object storage (s3://…)"
                    )
        finally:
            probe.unlink(missing_ok=True)

    def _everywhere(
        self, function: Callable[[Any], Any], argument: Any, *, patient: bool = True
    ) -> list[Any]:
        """Answers of each machine of the cluster."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray, references = self._ray, []
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = ray.remote(function).options(num_cpus=0, scheduling_strategy=place, max_retries=1)
                references.append(options.remote(argument))
        try:
            answers: list[Any] = ray.get(references, timeout=120 if patient else 20)
        except ray.exceptions.RayError as error:
            if not patient:
                return []
            text = str(error).strip().splitlines()[-1]
            raise CorpusError(
                f"a machine of the Ray cluster cannot do the work ({text}); install the same openus and Python on it"
            ) from error
        return answers


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass
class _Sent:
    task: Any
    arguments: tuple[Any, ...] = field(repr=False)
    losses: int = 0


_child: Child | None = None


def _perform(job: bytes, on_lost: bytes, memory: int) -> bytes:
    """In a Ray worker: have the task done by the process that stands beside it."""
    global _child
    _child = _child or Child()
    return _child.ask(job, on_lost, memory)


def _apply(function: Callable[..., Any], shared: Any, task: Any, memory: int) -> Any:
    return function(shared, task, 1)


def _sees(files: list[tuple[str, tuple[int, ...]]]) -> tuple[str, str, bool]:
    """(name of this machine, version of openus on it, does it see these very files?)"""
    same = all(_state(Path(path)) == state for path, state in files)
    return socket.gethostname(), _version(), same


def _state(path: Path) -> tuple[int, ...]:
    """What tells a file from another of its name; of a folder, how much is in it."""
    if path.is_dir():
        return tuple(sorted(item.stat().st_size for item in itertools.islice(path.iterdir(), 10_000)))
    return (path.stat().st_size,) if path.exists() else ()


def _version() -> str:
    return f"{__version__} ({code_version()})"


def _forget(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _has_dashboard() -> bool:
    return importlib.util.find_spec("aiohttp_cors") is not None
