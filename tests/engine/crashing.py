"""A decoder that crashes and hangs as native libraries do, put in front of the real one in every process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import openus.stages.chunks
from openus.catalogue import Catalogue
from openus.decode import open_media
from openus.stages.build import BuildOptions, build
from openus.stages.chunkspec import ChunkSpec, Tally

FILES = {
    "c-segfault.png": b"SEGFAULT", "d-abort.png": b"ABORT", "e-hang.png": b"HANG", "f-killed.png": b"KILLED",
    "g-defect.png": b"DEFECT",
}  # fmt: skip


def fragile(fp: BinaryIO, name: str, **options: Any) -> Any:
    """`open_media`, but for files that name a way to die."""
    match fp.read(16):
        case b"SEGFAULT":
            ctypes.string_at(8)
        case b"ABORT":
            os.abort()
        case b"HANG":
            ctypes.PyDLL(None).sleep(600)  # in C, and keeping the interpreter lock
        case b"KILLED":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"DEFECT":
            raise ZeroDivisionError("a mistake of ours")
    fp.seek(0)
    return open_media(fp, name, **options)


def run_fragile(spec: ChunkSpec) -> Tally:
    """The stage as it is, with the fragile decoder; a worker that is handed this function imports this module."""
    openus.stages.chunks.open_media = fragile  # type: ignore[assignment]
    return openus.stages.chunks.run_chunk(spec)


def main(out: str, manifests: str, data: str, workers: str, timeout: str) -> None:
    import openus.stages.build

    openus.stages.build.run_chunk = run_fragile  # type: ignore[assignment]
    catalogue = Catalogue(Path(manifests))
    options = BuildOptions(
        cache=Path(out).parent / "cache", local={"toy-images": Path(data)}, workers=int(workers), timeout=float(timeout)
    )  # fmt: skip
    build(Path(out), catalogue.corpus("toys"), catalogue, options, ["toy-images"])


if __name__ == "__main__":
    main(*sys.argv[1:])
