"""A worker process: takes records, writes views into shared memory. Started by `usfmae.stream.pool`, torch-free.

The memory is a file without a name and the connection one end of a socket pair, both inherited, so nothing is
left behind however the run ends: a worker whose parent is gone reads an end of file and exits.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from openus.errors import OpenUSError
from usfmae.stream.views import RECORD, Views, one_thread

HEADER = struct.Struct("<ii")  # slot of the batch, first place in it


def serve(connection: Connection, views: Views, memory: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Fill parts of batches until the connection closes.

    Args:
        connection: receives HEADER followed by records [n]; sends back a JSON list of bad samples, or an error.
        memory: uint8 [slots, B, S, S].
    """
    while True:
        try:
            task = connection.recv_bytes()
        except (
            EOFError,
            ConnectionResetError,
        ):  # the parent closed its end, maybe with our last answer unread
            return
        slot, first = HEADER.unpack_from(task)
        records = np.frombuffer(task, RECORD, offset=HEADER.size)
        answer: dict[str, Any] = {"slot": slot, "first": first}
        try:
            bad = views.fill(records, memory[slot, first : first + len(records)])
            answer["bad"] = [[item.place, item.row, item.reason, item.message] for item in bad]
        except (OpenUSError, OSError) as error:  # raised again in the main process
            answer["error"] = str(error)
        try:
            connection.send_bytes(json.dumps(answer).encode())
        except (BrokenPipeError, ConnectionResetError):
            return


def main() -> None:
    """Entry of the process: the inherited descriptors and the shape of the memory are its arguments."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a job: for the main process
        signal.signal(number, signal.SIG_IGN)
    one_thread()
    connection = Connection(int(sys.argv[1]))
    memory_file, shape = int(sys.argv[2]), tuple(json.loads(sys.argv[3]))
    memory = np.frombuffer(mmap.mmap(memory_file, 0), np.uint8, count=int(np.prod(shape))).reshape(shape)
    os.close(memory_file)
    serve(connection, _views(json.loads(connection.recv_bytes())), memory)


def _views(spec: dict[str, Any]) -> Views:
    from usfmae.stream.shard import Shard

    cache = pixels = None
    if spec["cache"] is not None:
        from usfmae.stream.cache import ShardCache

        cache = ShardCache(**spec["cache"])
    if spec["pixels"] is not None:
        from usfmae.stream.pixels import PixelCache

        pixels = PixelCache.attach(**spec["pixels"])
    return Views(
        [Shard(**shard) for shard in spec["shards"]],
        spec["size"],
        spec["interpolation"],
        spec["check"],
        cache,
        pixels,
    )
