"""Reading Parquet without threads.

Manifests are small, and Arrow's thread pool, when a process ends just after it was started, can abort the
interpreter ("terminate called without an active exception"); so it is not started at all.
"""

from __future__ import annotations

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
