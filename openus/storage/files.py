"""Files written whole or not at all, and Parquet: the same bytes each time, read without threads.

Manifests are small, and Arrow's thread pool, when a process ends just after it was started, can abort the
interpreter ("terminate called without an active exception"); so it is not started at all.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: Path | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or the bytes of one, as a table.

    Raises:
        ValueError: not a Parquet file, or a damaged one.
        OSError: it cannot be read.
    """
    place: Any = pa.BufferReader(source) if isinstance(source, bytes) else source
    try:
        with pq.ParquetFile(place, pre_buffer=False, page_checksum_verification=True) as file:
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except FileNotFoundError:
        raise
    except OSError as error:  # Arrow reports a damaged page as an OSError without a number
        if error.errno is not None:
            raise
        raise ValueError(str(error)) from error


def write_parquet(path: Path, table: pa.Table) -> str:
    """Write a table atomically, the same bytes each time; returns the file's SHA-256."""
    return write_bytes(path, parquet_bytes(table))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet, the same bytes each time."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3, write_statistics=True)
    return buffer.getvalue()


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file under a temporary name, sync it, rename it; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return hashlib.sha256(data).hexdigest()
