"""`usfmae embed`: features of every sample of a set, or of any files, as one Parquet table.

Columns: who the sample is (key, set, source, anatomy, clip, patient, split, labels as JSON; for files: file and
frame), and ``feature``, a list of float32 of fixed length. The schema's metadata say which model, which size,
which pooling made them. Rows stream to disk: memory does not grow with the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from openus import console
from openus.errors import CorpusError, DecodeError, UsageError
from openus.manifest import CleanSettings, FramePolicy
from openus.storage.places import Place
from usfmae.stream.index import Index, open_index
from usfmae.tasks.data.files import Grey, Looks, message, open_file
from usfmae.tasks.data.pixels import decode_rows
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.features import Pool, extract
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import Aspect

_CHUNK = 512
_COLUMNS = ("key", "set", "source", "anatomy", "kind", "clip", "patient", "split")


@dataclass
class Embedded:
    """What was written, and which files could not be read."""

    out: Path
    rows: int
    width: int
    errors: list[str]


def embed(
    inputs: Sequence[str],
    start: Start,
    out: Path,
    *,
    set_name: str = "pretrain",
    size: int = 224,
    aspect: Aspect = "stretch",
    pool: Pool = "mean",
    stride: int = 1,
    batch: int = 64,
    device: str = "auto",
    quiet: bool = False,
) -> Embedded:
    """Embed one corpus set, or files that openus can decode, into the Parquet file `out`.

    Raises UsageError (no input, unknown model), CorpusError, WeightsError. A file that cannot be read is named
    in the result's `errors` and does not stop the others.
    """
    torch.manual_seed(0)  # weights that nobody gave are drawn, the same each time
    network = build(start, outputs=0, size=size, pool="token").to(pick_device(device))
    facts = {
        "model": start.name, "size": size, "aspect": aspect, "pool": pool, "architecture": network.architecture,
    }  # fmt: skip
    errors: list[str] = []
    if len(inputs) == 1 and is_corpus(inputs[0]):
        index = open_index(inputs[0], set_name)
        total, tables = index.count, _of_set(index, network, size, aspect, pool, batch)
    else:
        files = [Path(word) for word in inputs]
        total = len(files)
        policy, looks = FramePolicy(stride=stride), Looks(CleanSettings(), size, aspect)
        tables = _of_files(files, network, policy, looks, pool, batch, errors)
    rows, width = _write(out, tables, facts, total, quiet)
    if not rows:
        raise (CorpusError if not errors else DecodeError)(
            errors[0] if errors else f"{inputs[0]}: nothing to embed"
        )
    return Embedded(out, rows, width, errors)


def is_corpus(word: str) -> bool:
    """Whether an input is a corpus (a folder with corpus.json, or the address of one) and not a file."""
    place = Place(word)
    if place.folder is None:
        return True
    if place.folder.is_dir() and not (place.folder / "corpus.json").is_file():
        raise UsageError(f"{word}: a folder without corpus.json; give a corpus, or name the files themselves")
    if not place.folder.exists():
        raise UsageError(f"{word}: there is no such corpus or file")
    return place.folder.is_dir()


def _of_set(
    index: Index, network: Network, size: int, aspect: Aspect, pool: Pool, batch: int
) -> Iterator[pa.Table]:
    columns = index.table.select([*_COLUMNS, "labels"])
    for start in range(0, index.count, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, index.count))
        images = decode_rows(index, rows, size=size, aspect=aspect)
        part = columns.slice(start, len(rows))
        labels = [json.dumps(dict(pairs), sort_keys=True) for pairs in part.column("labels").to_pylist()]
        part = part.drop_columns(["labels"]).append_column("labels", pa.array(labels, pa.string()))
        yield part.append_column("feature", _lists(extract(network, images, pool=pool, batch=batch)))


def _of_files(
    files: Sequence[Path], network: Network, policy: FramePolicy, looks: Looks, pool: Pool, batch: int,
    errors: list[str],
) -> Iterator[pa.Table]:  # fmt: skip
    for path in files:
        frames: list[int] = []
        images: list[Grey] = []
        try:
            with open_file(path, policy, looks) as (_, prepared):
                for frame in prepared:
                    if frame.image is None:
                        continue
                    frames.append(frame.index)
                    images.append(frame.image)
                    if len(images) == _CHUNK:
                        yield _file_table(path, frames, images, network, pool, batch)
                        frames, images = [], []
        except (DecodeError, OSError) as error:
            errors.append(message(path, error))
        if images:
            yield _file_table(path, frames, images, network, pool, batch)


def _file_table(
    path: Path, frames: list[int], images: list[Grey], network: Network, pool: Pool, batch: int
) -> pa.Table:
    features = extract(network, np.stack(images)[:, None], pool=pool, batch=batch)
    return pa.table(
        {
            "file": [str(path)] * len(frames),
            "frame": pa.array(frames, pa.int64()),
            "feature": _lists(features),
        }
    )


def _lists(features: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1), pa.float32()), features.shape[1])


def _write(
    out: Path, tables: Iterator[pa.Table], facts: dict[str, Any], total: int, quiet: bool
) -> tuple[int, int]:
    """Stream tables into one file that appears whole; rows written and length of a feature."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part")
    writer: pq.ParquetWriter | None = None
    rows = width = 0
    try:
        with console.progress(quiet, "images") as bar:
            task = bar.add_task("embed", total=total)
            for table in tables:
                if writer is None:
                    said = {b"usfmae.embed": json.dumps(facts).encode()}
                    writer = pq.ParquetWriter(temporary, table.schema.with_metadata(said))
                    width = table.schema.field("feature").type.list_size
                writer.write_table(table.replace_schema_metadata(None).cast(writer.schema))
                rows += len(table)
                bar.update(task, completed=min(rows, total) if total else rows)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        temporary.replace(out)
    return rows, width
