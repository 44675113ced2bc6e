"""What a chunk is: the files of one unit of work, what is to be done to them, and where the result lies."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openus.archives import Tree
from openus.engine.watch import Culprits
from openus.manifest import CleanSettings, Encoding, FramePolicy, Stack
from openus.select import Selected
from openus.shards.schema import ROW

log = logging.getLogger(__name__)
_OMIT = ("shard", "offset", "size", "cluster")
CHUNK_ROW = pa.schema(
    [ROW.field(name) for name in ROW.names if name not in _OMIT]
    + [pa.field(n, pa.int64(), nullable=False) for n in ("at", "length", "mask_at", "mask_length")]
    + [pa.field("before", pa.binary(), nullable=False)]  # a small JPEG of the frame as it came, for a few
)


@dataclass(frozen=True)
class ChunkSpec:
    """Everything a worker needs, and nothing else; its hash names the result."""

    source: str
    set: str
    anatomy: str
    licence: str
    redistribution: str
    tree: Tree
    members: tuple[Selected, ...]
    policy: FramePolicy
    clean: CleanSettings
    encoding: Encoding
    masks: bool
    mask_threshold: int | None
    code: str | None
    folder: Path
    number: int
    fingerprint: str
    """Identity of the input bytes and of the code, made by the caller."""
    stack: Stack | None = None
    shown: Mapping[str, int] = field(default_factory=dict)
    """Of which members how many frames are kept as they came, for the report."""
    seed: int = 0
    seconds: float = 600.0
    """What decoding one file may take, and a second more for each of its frames; 0 for no limit."""

    @functools.cached_property
    def name(self) -> str:
        facts = [
            self.source,
            self.set,
            self.anatomy,
            self.licence,
            self.redistribution,
            self.fingerprint,
            self.code,
            self.policy.model_dump(),
            self.clean.model_dump(),
            self.encoding.model_dump(),
            self.masks,
            self.mask_threshold,
            (self.seed, sorted(self.shown.items())) if self.shown else None,
            [
                (m.path, m.member, m.size, dict(m.labels), m.patient, m.clip, m.split, m.mask, m.rows)
                for m in self.members
            ],
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.number:06d}-{digest[:20]}"

    @property
    def rows_path(self) -> Path:
        return self.folder / f"{self.name}.parquet"

    @property
    def bytes_path(self) -> Path:
        return self.folder / f"{self.name}.bin"

    @property
    def culprits(self) -> Culprits:
        """Members that ended their process; they are rejected unread."""
        return Culprits(self.folder / f"{self.name}.culprits")


@dataclass
class Tally:
    """Counts of one chunk or source. `announced` are frames the containers hold, before any policy."""

    members: int = 0
    announced: int = 0
    decoded: int = 0
    kept: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Time spent, summed over the workers; for people only, no result depends on it."""

    def add(self, other: Tally) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def sample_key(source: str, member: str, index: int) -> str:
    """A short name of a sample, the same in every build: slug and 80 bits of a hash of its origin; no dots."""
    origin = "\0".join((source, member, str(index)))
    return f"{source}_{hashlib.sha256(origin.encode()).hexdigest()[:20]}"


def read_tally(path: Path) -> Tally:
    """The counts a finished chunk carries."""
    metadata = pq.read_schema(path).metadata
    return Tally(**json.loads(metadata[b"tally"]))


def read_rejected(path: Path) -> list[dict[str, Any]]:
    """The rows a finished chunk did not keep."""
    rows: list[dict[str, Any]] = json.loads(pq.read_schema(path).metadata[b"rejected"])
    return rows


def without_culprit(spec: ChunkSpec) -> ChunkSpec | None:
    """After the death of a worker: the chunk without the file that was being read, or None if that is unknown."""
    name = spec.culprits.blame(dead=True)
    if name is None:
        return None
    log.warning(
        "%s: %s: a worker process died of it; it is left out and listed as rejected", spec.source, name
    )
    return spec
