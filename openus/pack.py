"""Packing: the kept samples, in a seeded global shuffle, into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from openus import __version__
from openus.shards.schema import ROW
from openus.shards.writer import ShardInfo, cut, sample_footprint, write_bytes, write_shard

MASK = "-mask"
_OPEN_FILES = 128


@dataclass(frozen=True)
class ShardTask:
    """One shard to write; its rows, in order, lie in `plan` (an Arrow file made by `plan_set`)."""

    out: Path
    set: str
    stem: str
    extension: str
    samples: int
    plan: Path
    digest: str

    @property
    def tar_path(self) -> Path:
        return self.out / self.set / f"{self.stem}.tar"

    @property
    def manifest_path(self) -> Path:
        return self.out / "manifest" / f"{self.stem}.parquet"

    @property
    def marker(self) -> Path:
        return self.plan.with_suffix(".json")


def shuffled(keys: list[str], seed: int) -> list[int]:
    """Positions of `keys` in the corpus's order: by the hash of (seed, key), which no other sample can change."""

    def rank(position: int) -> bytes:
        return hashlib.blake2b(f"{seed}\0{keys[position]}".encode(), digest_size=16).digest()

    return sorted(range(len(keys)), key=rank)


def plan_set(
    out: Path, name: str, kept: pa.Table, *, seed: int, shard_bytes: int, extension: str, mask: bool = False
) -> list[ShardTask]:
    """Divide one set into shards and write down the rows of each.

    `kept` holds the rows of the kept samples: the fields of a chunk's rows, plus `cluster` and `bin` (the file
    with their bytes). With `mask`, the masks of the samples that have one are packed instead of the pictures.
    """
    if mask:
        kept = kept.filter(pa.compute.greater(kept["mask_length"], 0))
        kept = _replace(kept, "set", pa.array([name] * len(kept), pa.string()))
        kept = _replace(_replace(kept, "at", kept["mask_at"]), "length", kept["mask_length"])
    ordered = kept.take(shuffled(kept["key"].to_pylist(), seed))
    tasks = []
    folder = out / ".work" / "pack"
    parts = cut([sample_footprint(size) for size in ordered["length"].to_pylist()], shard_bytes)
    for number, part in enumerate(parts):
        stem = f"{name}-{number:06d}"
        rows = ordered.slice(part.start, part.stop - part.start).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=1024)
        data = sink.getvalue().to_pybytes()
        facts = data + f"{__version__} {stem} {extension}".encode()
        plan = folder / f"{stem}.arrow"
        write_bytes(plan, data)
        tasks.append(
            ShardTask(out, name, stem, extension, len(rows), plan, hashlib.sha256(facts).hexdigest())
        )
    return tasks


def run_shard(task: ShardTask) -> ShardInfo:
    """Write a shard, or confirm that the one on disk is the one planned."""
    if (done := _already(task)) is not None:
        return done
    info = write_shard(task.tar_path, task.manifest_path, _samples(task), task.extension)
    write_bytes(task.marker, json.dumps({"digest": task.digest, "info": asdict(info)}).encode())
    return info


def _already(task: ShardTask) -> ShardInfo | None:
    try:
        marker = json.loads(task.marker.read_bytes())
        info = ShardInfo(**marker["info"])
        whole = task.tar_path.stat().st_size == info.bytes and task.manifest_path.exists()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return info if whole and marker["digest"] == task.digest else None


def _samples(task: ShardTask) -> Iterator[tuple[dict[str, Any], bytes]]:
    masks = task.set.endswith(MASK)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        reader = stack.enter_context(pa.ipc.open_file(str(task.plan)))
        for batch in range(reader.num_record_batches):
            for row in reader.get_batch(batch).to_pylist():
                file = files.get(row["bin"])
                if file is None:
                    if len(files) >= _OPEN_FILES:
                        files.pop(next(iter(files))).close()
                    file = files[row["bin"]] = stack.enter_context(Path(row["bin"]).open("rb"))
                file.seek(row["at"])
                data = file.read(row["length"])
                stored = {name: row[name] for name in ROW.names if name in row}
                if masks:
                    stored["sha256"] = hashlib.sha256(data).hexdigest()
                yield stored, data


def _replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), table.schema.field(column), values)
