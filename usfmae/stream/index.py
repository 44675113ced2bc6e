"""The index of a set: which bytes of which shard hold sample i, read from the Parquet rows of a corpus.

A corpus is a folder or the URL of one (`file://`, `https://`, `s3://`, `hf://datasets/...`). Its `corpus.json`
names the shards of each set with their size, SHA-256 and manifest; the manifests hold a row per sample
(`openus.shards.schema.ROW`). Only the columns that reading needs are kept in memory, 64 bytes a sample; the
rest is read when `Index.table` is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from openus.checksum import sha256_of
from openus.errors import CorpusError, did_you_mean
from openus.shards.corpus import NAME, read_corpus
from openus.shards.schema import ROW, SCHEMA_VERSION
from openus.storage.files import read_parquet
from openus.storage.places import Place
from usfmae.stream.reader import ShardReader
from usfmae.stream.shard import Shard

_COLUMNS = ["shard", "offset", "size", "width", "height", "source", "anatomy", "sha256"]


class Index:
    """All samples of one set, in manifest order; row i is sample i everywhere in this package.

    Attributes:
        place: the corpus.
        set: name of the set.
        shards: file names of its tars, in order; `shard_info` holds their sizes and hashes.
        shard_of: int32 [n], number of the shard of each row.
        offset, size: int64 [n], first byte of the picture in the shard and its length.
        width, height: int32 [n], pixels of the stored picture.
        sha256: 32 bytes [n], of the encoded picture.
        sources, anatomies: names; source_of, anatomy_of: int16 [n], their numbers for each row.
        chosen: int64, ascending, the rows that are read; None for all.
    """

    chosen: NDArray[np.int64] | None = None

    def __init__(self, place: Place, name: str, shards: Sequence[Shard]) -> None:
        self.place, self.set, self.shard_info = place, name, tuple(shards)
        tables = [self._manifest(shard, _COLUMNS) for shard in self.shard_info]
        self.shard_of = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
        rows = pa.concat_tables(tables) if tables else ROW.empty_table().select(_COLUMNS)
        self.offset: NDArray[np.int64] = rows["offset"].to_numpy()
        self.size: NDArray[np.int64] = rows["size"].to_numpy()
        self.width: NDArray[np.int32] = rows["width"].to_numpy()
        self.height: NDArray[np.int32] = rows["height"].to_numpy()
        self.sha256 = _digests(rows["sha256"])
        self.sources, self.source_of = _codes(rows["source"])
        self.anatomies, self.anatomy_of = _codes(rows["anatomy"])

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.offset)

    def __len__(self) -> int:
        return self.count

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of what the shards hold."""
        facts = [[shard.name, shard.bytes, shard.sha256] for shard in self.shard_info]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64, ascending: the rows that are read."""
        return np.arange(self.count) if self.chosen is None else self.chosen

    @property
    def shards(self) -> list[str]:
        """File names of the tars, in order."""
        return [shard.name for shard in self.shard_info]

    @cached_property
    def table(self) -> pa.Table:
        """All columns of all rows (schema ROW), in manifest order; read on first use and kept."""
        if not self.shard_info:
            return ROW.empty_table()
        return pa.concat_tables([self._manifest(shard, None) for shard in self.shard_info])

    def row(self, i: int) -> dict[str, Any]:
        """One row as a dictionary; reads only that shard's manifest, for messages and small looks."""
        shard = int(self.shard_of[i])
        first = int(np.searchsorted(self.shard_of, shard))
        row: dict[str, Any] = self._manifest(self.shard_info[shard], None).slice(i - first, 1).to_pylist()[0]
        return row

    def read(self, i: int) -> bytes:
        """The encoded picture of row i, by its byte range.

        Raises CorpusError where the shard is missing or shorter than its manifest says.
        """
        if not 0 <= i < self.count:
            raise IndexError(f"row {i} of a set of {self.count}")
        with ShardReader(self.shard_info, keep=1) as reader:
            return reader.read(int(self.shard_of[i]), int(self.offset[i]), int(self.size[i]))

    @property
    def bytes(self) -> int:
        """Bytes of all encoded pictures."""
        return int(self.size.sum())

    def _manifest(self, shard: Shard, columns: list[str] | None) -> pa.Table:
        where = f"manifest/{shard.manifest}"
        data = self.place.read(where)
        try:
            table = read_parquet(data)
        except ValueError as error:
            raise CorpusError(
                f"{self.place.at(where)}: not a readable Parquet file ({error}); run 'openus verify'"
            ) from error
        if not table.schema.equals(ROW):
            odd = sorted(set(table.schema.names) ^ set(ROW.names)) or ["types"]
            raise CorpusError(
                f"{self.place.at(where)}: its columns are not those of the row schema (differing: {', '.join(odd)}); "
                "rebuild the corpus with this version of openus"
            )
        if len(table) != shard.samples:
            raise CorpusError(
                f"{self.place.at(where)}: {len(table)} rows, {NAME} says {shard.samples}; run 'openus verify'"
            )
        return table.select(columns) if columns else table


def open_index(
    data: str | Path,
    set: str = "pretrain",
    *,
    also: Mapping[str, Sequence[str]] | None = None,
    verify: bool = False,
) -> Index:
    """Open one set of a corpus, or several as one.

    Args:
        data: the corpus folder, or a URL of one.
        set: its name, as `corpus.json` lists it.
        also: further sets, and the published split words of the samples that are taken from each, such as
            ``{"bus-bra": ["fold2", "fold3"]}``. Their other rows are in the index but not in `Index.rows`.
        verify: also read every local shard and compare its SHA-256; sizes are always compared.

    Raises CorpusError, saying what to do: no corpus there, another schema version, no such set or split word,
    a shard missing, cut short or altered. A set without samples opens; feeding from it is refused.
    """
    place = Place(data)
    sets = _summary(place)["sets"]
    also = also or {}
    names = [set, *also]
    index = Index(place, "+".join(names), [s for name in names for s in _shards(place, sets, name, verify)])
    if also:
        index.chosen = _choose(
            index, [sum(e["samples"] for e in sets[name]["shards"]) for name in names], also
        )
    return index


def _shards(place: Place, sets: Mapping[str, Any], set: str, verify: bool) -> list[Shard]:
    """The shards of one set, each there and whole."""
    if set not in sets:
        raise CorpusError(
            f"{place}: no set '{set}'{did_you_mean(set, sets)}; it has: {', '.join(sorted(sets)) or 'none'}"
        )
    shards = []
    for entry in sets[set]["shards"]:
        url = entry.get("url") or place.at(f"{set}/{entry['file']}")
        shard = Shard(
            entry["file"], url, entry["bytes"], entry["sha256"], entry["samples"], entry["manifest"]
        )
        _check(shard, verify)
        shards.append(shard)
    return shards


def _choose(index: Index, counts: Sequence[int], also: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """All rows of the first set, and of each further one those whose split is wanted."""
    splits = index.table.column("split").to_numpy(zero_copy_only=False)
    chosen, start = [np.arange(counts[0])], counts[0]
    for count, (name, words) in zip(counts[1:], also.items(), strict=True):
        own = splits[start : start + count]
        known = sorted(map(str, np.unique(own)))
        strange = [word for word in words if word not in known]
        if strange or not words:
            wrong = f"no sample has the split '{strange[0]}'" if strange else "no split is named"
            raise CorpusError(f"{index.place}, set '{name}': {wrong}; its splits: {', '.join(known)}")
        chosen.append(start + np.flatnonzero(np.isin(own, list(words))))
        start += count
    return np.concatenate(chosen)


def _summary(place: Place) -> dict[str, Any]:
    if place.folder is not None:
        return read_corpus(place.folder)
    where = place.at(NAME)
    try:
        summary: dict[str, Any] = json.loads(place.read(NAME))
        version = summary["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{where}: damaged or not a corpus ({error}); is it the address of a corpus?"
        ) from error
    if version != SCHEMA_VERSION:
        raise CorpusError(
            f"{where}: written with schema {version}, this version reads {SCHEMA_VERSION}; build the corpus again, "
            "or install the version that wrote it"
        )
    return summary


def _check(shard: Shard, verify: bool) -> None:
    """Refuse a local shard that is not there, not whole or (with `verify`) not the one that was built."""
    path = Place(shard.url).folder
    if path is None:
        return
    again = "run 'openus verify' on the folder and 'openus build' again"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CorpusError(f"{path}: the shard is missing; {again}") from error
    if shard.bytes >= 0 and size != shard.bytes:
        raise CorpusError(f"{path}: {size} bytes, {NAME} says {shard.bytes}; {again}")
    if verify and shard.sha256:
        found = sha256_of(path)
        if found != shard.sha256:
            raise CorpusError(f"{path}: SHA-256 {found}, {NAME} says {shard.sha256}; {again}")


def _digests(column: pa.ChunkedArray) -> NDArray[np.void]:
    """Hexadecimal SHA-256 as 32 bytes each."""
    parts = [bytes.fromhex("".join(chunk.to_pylist())) for chunk in column.chunks]
    return np.frombuffer(b"".join(parts), "V32")


def _codes(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int16]]:
    """The distinct names of a column, sorted, and the number of the name of each row."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda i: names[i])
    number = np.empty(len(names), np.int16)
    number[order] = np.arange(len(names))
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return sorted(names), number[codes.astype(np.int64)]
