"""Shards: deterministic USTAR files of samples, and the Parquet manifest beside each."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from openus.shards.schema import ROW, sample_json
from openus.storage.files import parquet_bytes, write_parquet

BLOCK = tarfile.BLOCKSIZE
_JSON_ESTIMATE = 1024


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What `corpus.json` keeps of a shard."""

    file: str
    bytes: int
    samples: int
    sha256: str
    manifest: str
    manifest_sha256: str


def sample_footprint(image_bytes: int) -> int:
    """Bytes a sample takes in a tar, its JSON estimated: used to cut a set into shards."""
    return BLOCK * 2 + _padded(image_bytes) + _JSON_ESTIMATE


def cut(sizes: Sequence[int], shard_bytes: int) -> list[slice]:
    """Divide samples, in order, into shards of about `shard_bytes`; the last is not left tiny.

    The number of shards is the total divided by the target, rounded up; samples are then spread evenly.
    """
    total = sum(sizes)
    count = max(1, -(-total // shard_bytes))
    parts: list[slice] = []
    start, done = 0, 0
    for index, size in enumerate(sizes):
        done += size
        if done >= total * (len(parts) + 1) / count and len(parts) < count - 1:
            parts.append(slice(start, index + 1))
            start = index + 1
    if start < len(sizes):
        parts.append(slice(start, len(sizes)))
    return parts


class _HashingFile:
    """A file that hashes what passes through, so that a shard is read only once: when it is written."""

    def __init__(self, file: BinaryIO | io.RawIOBase) -> None:
        self.file, self.digest, self.at = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.at += len(data)
        return self.file.write(data) or 0


def write_shard(
    tar_path: Path, manifest_path: Path, samples: Iterable[tuple[dict[str, Any], bytes]], extension: str
) -> ShardInfo:
    """Write one shard and its manifest, each under a temporary name first, synced, then renamed.

    `samples` are (row without shard, offset, size; image bytes) in their final order.
    """
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = tar_path.with_name(f".{tar_path.name}.part")
    with temporary.open("wb", buffering=1 << 20) as file:
        sink = _HashingFile(file)
        rows = _members(sink, tar_path.name, samples, extension)
        file.flush()
        os.fsync(file.fileno())
    manifest_digest = write_parquet(manifest_path, rows)
    temporary.replace(tar_path)
    return ShardInfo(
        tar_path.name, sink.at, len(rows), sink.digest.hexdigest(), manifest_path.name, manifest_digest
    )


def measure_shard(
    tar_name: str, manifest_name: str, samples: Iterable[tuple[dict[str, Any], bytes]], extension: str
) -> tuple[ShardInfo, pa.Table]:
    """What `write_shard` would write: the facts of the shard and its rows. Nothing is written."""
    sink = _HashingFile(_Nowhere())
    rows = _members(sink, tar_name, samples, extension)
    digest = hashlib.sha256(parquet_bytes(rows)).hexdigest()
    return ShardInfo(tar_name, sink.at, len(rows), sink.digest.hexdigest(), manifest_name, digest), rows


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


def _members(
    sink: _HashingFile, tar_name: str, samples: Iterable[tuple[dict[str, Any], bytes]], extension: str
) -> pa.Table:
    """Write the whole tar into `sink`; returns its rows."""
    rows: list[dict[str, Any]] = []
    for row, image in samples:
        offset = sink.at + BLOCK
        members = (f"{row['key']}.{extension}", image), (f"{row['key']}.json", sample_json(row))
        sink.write(b"".join(part for name, data in members for part in _member(name, data)))
        rows.append({**row, "shard": tar_name, "offset": offset, "size": len(image)})
    end = -(-(sink.at + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    sink.write(b"\0" * (end - sink.at))
    return pa.Table.from_pylist(rows, schema=ROW)


def shard_bytes(rows: Iterable[dict[str, Any]]) -> int:
    """The exact size of a tar that holds these rows of the manifest (their `size` is the picture's)."""
    used = sum(2 * BLOCK + _padded(row["size"]) + _padded(len(sample_json(row))) for row in rows)
    return -(-(used + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The parts of a member: its header, of one block, and its data, filled up to whole blocks."""
    return _header(name, len(data)), data, bytes(-len(data) % BLOCK)


def _header(name: str, size: int) -> bytes:
    """The USTAR header of a member: what `tarfile` writes, a tenth of its time."""
    encoded = name.encode()
    if len(encoded) > tarfile.LENGTH_NAME or size >= 8**11:  # the long forms are left to the library
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o444
        return info.tobuf(tarfile.USTAR_FORMAT)
    digits = b"%011o" % size
    block = bytearray(_BLANK)
    block[: len(encoded)] = encoded
    block[124:135] = digits
    block[148:155] = b"%06o\0" % (_BLANK_SUM + sum(encoded) + sum(digits))  # its own field counts as blanks
    return bytes(block)


def _blank_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode = 0o444
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[148:156] = b" " * 8
    return bytes(block)


_BLANK = _blank_header()
_BLANK_SUM = sum(_BLANK) - sum(_BLANK[124:135])


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
