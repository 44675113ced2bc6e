"""Packing: the kept samples, in a seeded global shuffle, into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from openus import __version__
from openus.errors import CorpusError
from openus.shards.schema import ROW
from openus.shards.writer import ShardInfo, cut, sample_footprint, write_shard
from openus.storage.depot import Depot
from openus.storage.files import write_bytes
from openus.storage.pieces import Piece, Pieces, discard

MASK = "-mask"
Samples = Iterator[tuple[dict[str, Any], bytes]]


class DamagedWorkError(CorpusError):
    """An encoded sample in the work folder is not the one its row describes; `path` is the file it lies in."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: damaged: it does not hold the samples that were written; run 'openus build' again to make it anew"
        )
        self.path = Path(path)

    def __reduce__(self) -> tuple[type[DamagedWorkError], tuple[str]]:
        return type(self), (str(self.path),)


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
        plan = folder / f"{stem}.arrow"
        write_bytes(plan, data)
        tasks.append(ShardTask(out, name, stem, extension, len(rows), plan, _digest(data, stem, extension)))
    return tasks


def _digest(plan: bytes, stem: str, extension: str) -> str:
    return hashlib.sha256(plan + f"{__version__} {stem} {extension}".encode()).hexdigest()


def planned(out: Path, name: str, stem: str, extension: str, samples: int) -> ShardTask:
    """The task that wrote a shard of a finished corpus; its digest is empty if its plan is gone."""
    plan = out / ".work" / "pack" / f"{stem}.arrow"
    digest = _digest(plan.read_bytes(), stem, extension) if plan.exists() else ""
    return ShardTask(out, name, stem, extension, samples, plan, digest)


def write_again(task: ShardTask, read: Callable[[ShardTask], Samples] | None = None) -> ShardInfo:
    """Write a shard, whatever is on disk. `read` gives its samples where they are not those of the work folder.

    Raises:
        DamagedWorkError: a sample in the work folder is not the one that was decoded; its chunk is forgotten, so
            that the next build decodes it again.
    """
    task.marker.unlink(missing_ok=True)
    info = write_shard(task.tar_path, task.manifest_path, (read or _samples)(task), task.extension)
    write_bytes(task.marker, json.dumps({"digest": task.digest, "info": asdict(info)}).encode())
    return info


def finished(task: ShardTask, depot: Depot) -> ShardInfo | None:
    """The shard, if the one that is there is the one planned."""
    try:
        marker = json.loads(task.marker.read_bytes())
        info = ShardInfo(**marker["info"])
        whole = depot.size(task.tar_path) == info.bytes and depot.size(task.manifest_path) is not None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return info if whole and marker["digest"] == task.digest else None


def _samples(task: ShardTask) -> Samples:
    masks = task.set.endswith(MASK)
    with Pieces() as pieces, pa.ipc.open_file(str(task.plan)) as reader:
        for batch in range(reader.num_record_batches):
            planned = reader.get_batch(batch)
            rows = planned.select([name for name in planned.schema.names if name in ROW.names]).to_pylist()
            bins, at, length = (planned[name].to_pylist() for name in ("bin", "at", "length"))
            there = {name: _there(task, name) for name in set(bins)}
            places = list(zip((there[name] for name in bins), at, length, strict=True))
            for row, data, place, name in zip(rows, _read(pieces, places), places, bins, strict=True):
                digest = hashlib.sha256(data).hexdigest()
                if masks:
                    row["sha256"] = digest
                elif digest != row["sha256"]:
                    forget_chunk(place[0])
                    raise DamagedWorkError(name)
                yield row, data


def _there(task: ShardTask, name: str) -> Path:
    """A file with samples as the plan names it, in the work folder of the plan: a corpus may have been moved."""
    return task.plan.parents[1].joinpath("sources", *Path(name).parts[-2:])


def _read(pieces: Pieces, places: list[Piece]) -> Iterator[bytes]:
    try:
        yield from pieces.read(places)
    except FileNotFoundError as error:
        forget_chunk(Path(error.filename))
        raise DamagedWorkError(error.filename) from error


def chunks_of(task: ShardTask) -> list[Path]:
    """The files of the work folder whose samples a shard holds."""
    with pa.ipc.open_file(str(task.plan)) as reader:
        return [_there(task, name) for name in sorted(set(reader.read_all()["bin"].to_pylist()))]


def forget_chunk(path: Path) -> None:
    """Take the mark of completion from a chunk, given the file with its samples: it will be decoded again."""
    discard(path.with_suffix(".parquet"))


def _replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), table.schema.field(column), values)
