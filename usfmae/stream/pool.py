"""Worker processes and the shared memory they fill.

Workers are plain child processes with a socket each, not forks: nothing of the main process (threads, CUDA)
is carried over, and they import no torch, so each takes some 60 MB. A batch is divided into parts of up to
64 samples that go to the least busy workers; which worker decodes what changes no byte of the result.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import CorpusError, OpenUSError
from usfmae.stream.views import Bad
from usfmae.stream.worker import HEADER

log = logging.getLogger("usfmae.stream")

_PART = 64
_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from usfmae.stream.worker import main; main()"


class SharedBatches:
    """`slots` batches uint8 [B, S, S] in memory that other processes can map; gone when nobody maps it.

    A slot handed out by `take` comes back by itself when the array over it is no longer referenced, so a
    consumer may keep a batch as long as it likes.
    """

    def __init__(self, slots: int, batch: int, size: int) -> None:
        self.shape = (slots, batch, size, size)
        self.file = _unnamed_file(int(np.prod(self.shape)))
        self.memory = np.frombuffer(mmap.mmap(self.file.fileno(), 0), np.uint8).reshape(self.shape)
        self.free = deque(range(slots))

    def take(self, slot: int) -> NDArray[np.uint8]:
        """The batch of a slot, uint8 [B, S, S], lent until the array and everything over it is gone."""
        lent: NDArray[np.uint8] = self.memory[slot][:]
        weakref.finalize(lent, self.free.append, slot).atexit = False
        return lent


def _unnamed_file(size: int) -> Any:
    """A file of `size` bytes, all reserved, in shared memory where there is room, else in the temporary folder."""
    folders = [folder for folder in ("/dev/shm", tempfile.gettempdir()) if Path(folder).is_dir()]
    for folder in folders:
        if shutil.disk_usage(folder).free < size + (16 << 20):
            continue
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the batches
        try:
            if hasattr(
                os, "posix_fallocate"
            ):  # a hole would kill the process where the memory runs out later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return file
        except OSError as error:
            file.close()
            if error.errno not in (errno.ENOSPC, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        log.warning("%s has no room for %d MB of batches; trying elsewhere", folder, size >> 20)
    raise OpenUSError(
        f"no room for {size >> 20} MB of batches in {' or '.join(folders)}; lower the batch size or the prefetch, or "
        "give the container more shared memory (docker --shm-size)"
    )


class Pool:
    """Worker processes that fill the slots of a `SharedBatches`.

    Args:
        workers: how many, at least 1.
        batches: the memory.
        spec: arguments of `usfmae.stream.views.Views` as JSON.
        inherit: file descriptors that the spec names.
    """

    def __init__(
        self, workers: int, batches: SharedBatches, spec: dict[str, Any], inherit: Sequence[int] = ()
    ) -> None:
        self.batches, self.inherit = batches, tuple(inherit)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.connections: list[Connection] = []
        self.busy = [0] * workers
        self.pending: dict[int, int] = {}  # slot: parts not yet filled
        self.bad: dict[int, list[Bad]] = {}
        for _ in range(workers):
            self._start(spec)

    def _start(self, spec: dict[str, Any]) -> None:
        here, there = socket.socketpair()
        memory = self.batches.file.fileno()
        arguments = [str(there.fileno()), str(memory), json.dumps(self.batches.shape), json.dumps(sys.path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENCV_OPENCL_RUNTIME": "disabled"}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *arguments],
            pass_fds=(there.fileno(), memory, *self.inherit),
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        there.close()
        connection = Connection(here.detach())
        self.processes.append(process)
        self.connections.append(connection)
        connection.send_bytes(json.dumps(spec).encode())

    def submit(self, slot: int, records: NDArray[np.void]) -> None:
        """Ask for the views of `records` [n] in the first n places of a slot."""
        part = min(_PART, -(-len(records) // len(self.processes)))
        starts = range(0, len(records), part)
        self.pending[slot], self.bad[slot] = len(starts), []
        for first in starts:
            self._collect(0)  # a worker whose answers nobody reads would take no more parts
            worker = min(range(len(self.busy)), key=self.busy.__getitem__)
            self.busy[worker] += 1
            try:
                self.connections[worker].send_bytes(
                    HEADER.pack(slot, first) + records[first : first + part].tobytes()
                )
            except OSError as error:
                self._lost(worker, error)

    def wait(self, slot: int) -> list[Bad]:
        """Wait until a slot is full; returns the samples that failed.

        Raises CorpusError as a worker met it, OpenUSError when a worker died.
        """
        while self.pending[slot]:
            self._collect(None)
        del self.pending[slot]
        return self.bad.pop(slot)

    def _collect(self, timeout: float | None) -> None:
        """Take in the answers that are there; `timeout` None: wait for one."""
        for ready in wait(self.connections, timeout):
            self._receive(self.connections.index(ready))  # type: ignore[arg-type]

    def _receive(self, worker: int) -> None:
        try:
            answer = json.loads(self.connections[worker].recv_bytes())
        except (EOFError, OSError) as error:
            self._lost(worker, error)
        if "error" in answer:
            raise CorpusError(answer["error"])
        self.busy[worker] -= 1
        self.pending[answer["slot"]] -= 1
        self.bad[answer["slot"]] += [
            Bad(answer["first"] + place, row, reason, message)
            for place, row, reason, message in answer["bad"]
        ]

    def _lost(self, worker: int, error: BaseException) -> None:
        try:
            code = self.processes[worker].wait(5)
        except subprocess.TimeoutExpired:
            code = None
        how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
        raise OpenUSError(
            f"loader worker {worker} ended {how} while it was needed; if the machine ran out of memory, use fewer "
            "workers or a smaller batch, and resume from the last checkpoint"
        ) from error

    def close(self) -> None:
        """End the workers and wait for them."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.connections, self.processes = [], []
