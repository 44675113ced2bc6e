"""What became of each source of a build, and of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openus.archives import Tree
from openus.errors import CorpusError, OpenUSError
from openus.manifest import Source
from openus.select import Selection
from openus.shards.writer import ShardInfo
from openus.stages.chunkspec import ChunkSpec, Tally


@dataclass
class SourceResult:
    """What became of one source."""

    source: Source
    set: str
    route: str = ""
    selection: Selection | None = None
    tree: Tree | None = None
    roots: tuple[Path, ...] = ()
    tally: Tally = field(default_factory=Tally)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[ChunkSpec] = field(default_factory=list)
    seconds: float = 0.0
    problem: OpenUSError | None = None


class EmptyBuildError(CorpusError):
    """Not one picture was kept. `results` say what became of each source."""

    def __init__(self, results: Sequence[SourceResult]) -> None:
        missing = [result.source.slug for result in results if result.problem is not None]
        why = (
            f"{len(missing)} of {len(results)} sources could not be had"
            if missing
            else "every file was rejected"
        )
        super().__init__(f"no picture was kept, so there is nothing to pack: {why}")
        self.results = results


@dataclass
class BuildResult:
    out: Path
    results: list[SourceResult]
    shards: dict[str, list[ShardInfo]]
    summary: dict[str, Any]

    @property
    def missing(self) -> list[SourceResult]:
        return [result for result in self.results if result.problem is not None]
