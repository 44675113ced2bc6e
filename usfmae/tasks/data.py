"""A labelled set of a corpus, decoded once: uint8 [N,1,S,S] in memory, with labels, identities and splits.

Fine-tuning reads every image dozens of times, so the files are read and decoded once, in threads, and checked
against the sha256 of their row on the way: an altered shard is an error, never a different result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.catalogue import Catalogue, read_yaml
from openus.errors import CorpusError, DecodeError, UsageError, did_you_mean
from openus.manifest import Benchmark, Protocol
from usfmae.stream.decode import decode_grey
from usfmae.tasks.splits import Identity, Ints, Split, group_ids, make_splits
from usfmae.tasks.square import square

if TYPE_CHECKING:
    from collections.abc import Callable

    from usfmae.stream.index import Index
    from usfmae.tasks.recipe import Aspect

_READ_AHEAD = 256


@dataclass(frozen=True)
class LabelledSet:
    """The samples of a benchmark that have a label, in the order of the index."""

    benchmark: Benchmark
    images: NDArray[np.uint8]
    """uint8 [N, 1, S, S], grey."""
    targets: NDArray[Any]
    """int64 [N] class numbers; float32 [N] for regression; float32 [N, C] of 0 and 1 for several labels."""
    classes: tuple[str, ...]
    identity: Identity
    published: tuple[str, ...]
    """The official split word of each sample."""
    kinds: tuple[str, ...]
    """image | frame | slice"""
    rows: Ints
    """int64 [N]: row numbers in the index."""
    unlabelled: int
    """Samples of the set that were left out because they carry no label."""
    corpus: dict[str, Any] = field(default_factory=dict)
    """What corpus.json says of its name, cleaning and shards; `fingerprint` identifies the shards read."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def strata(self) -> Ints:
        """What splits keep in proportion: the class, the set of labels, or the quintile of the value."""
        if self.targets.ndim == 2:
            return np.unique(self.targets, axis=0, return_inverse=True)[1].astype(np.int64).reshape(-1)
        if np.issubdtype(self.targets.dtype, np.floating):
            edges = np.quantile(self.targets, (0.2, 0.4, 0.6, 0.8))
            return np.searchsorted(edges, self.targets).astype(np.int64)
        return self.targets.astype(np.int64)

    def groups(self) -> Ints:
        """int64 [N]: patients (or what the benchmark groups by) that must stay together."""
        return group_ids(self.identity, self.benchmark.group)

    def splits(self, protocol: str, seed: int) -> list[Split]:
        """The runs of a named protocol of the benchmark."""
        return make_splits(
            protocol_of(self.benchmark, protocol), self.published, self.groups(), self.strata,
            seed=seed, what=f"benchmark '{self.benchmark.name}'",
        )  # fmt: skip


def protocol_of(benchmark: Benchmark, name: str) -> Protocol:
    """A protocol by name; UsageError names the ones there are."""
    if name not in benchmark.protocols:
        known = ", ".join(benchmark.protocols)
        raise UsageError(
            f"benchmark '{benchmark.name}' has no protocol '{name}'"
            f"{did_you_mean(name, benchmark.protocols)} (known: {known})"
        )
    return benchmark.protocols[name]


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name, or from a YAML file of one's own."""
    return (
        read_yaml(Path(name), Benchmark) if name.endswith((".yaml", ".yml")) else Catalogue().benchmark(name)
    )


def load_labelled(
    data: str | Path,
    benchmark: Benchmark,
    *,
    size: int,
    aspect: Aspect = "stretch",
    frames_per_clip: int | None = None,
    threads: int = 4,
    on_image: Callable[[int, int], None] | None = None,
) -> LabelledSet:
    """Read and decode the labelled samples of a benchmark's set.

    data: corpus folder or URL of one. on_image(done, total) is called as decoding goes on.
    Raises CorpusError: the set is absent (with the command that builds it), has no labels, holds a label that
    is not a class, or a shard is missing or altered.
    """
    index = open_set(data, benchmark)
    table = index.table
    words = _labels(table, benchmark.label)
    labelled = np.array([bool(word) for word in words])
    if not labelled.any():
        raise CorpusError(
            f"{data}: no sample of set '{benchmark.set}' has a label '{benchmark.label}'; "
            f"rebuild it from a source that gives one{_known_labels(table, benchmark.label)}"
        )
    rows = np.flatnonzero(labelled)
    rows = spread_frames(rows, table.column("clip").to_pylist(), frames_per_clip)
    targets, classes = encode_labels([words[i] for i in rows.tolist()], benchmark, str(data))
    images = decode_rows(index, rows, size=size, aspect=aspect, threads=threads, on_image=on_image)
    columns = {
        name: table.column(name).to_pylist()
        for name in ("key", "patient", "clip", "cluster", "pixel_sha256", "split", "kind")
    }

    def of(name: str) -> tuple[str, ...]:
        return tuple(columns[name][i] for i in rows.tolist())

    identity = Identity(of("key"), of("patient"), of("clip"), of("cluster"), of("pixel_sha256"))
    return LabelledSet(
        benchmark, images, targets, classes, identity, of("split"), of("kind"), rows,
        int((~labelled).sum()), corpus_facts(data, index, rows),
    )  # fmt: skip


def open_set(data: str | Path, benchmark: Benchmark) -> Index:
    """The index of a benchmark's set; CorpusError with the command that builds it where it is absent."""
    from openus.places import Place
    from openus.shards.corpus import read_corpus
    from usfmae.stream.index import open_index

    folder = Place(data).folder
    if folder is not None:
        sets = read_corpus(folder)["sets"]
        if benchmark.set not in sets:
            raise CorpusError(
                f"{data}: no set '{benchmark.set}' in this corpus (it has: {', '.join(sorted(sets)) or 'none'}); "
                f"add it with: openus build {data} --source {benchmark.set}"
            )
    return open_index(data, benchmark.set)


def _labels(table: Any, label: str) -> list[str]:
    import pyarrow.compute as pc

    return [word or "" for word in pc.map_lookup(table.column("labels"), label, "first").to_pylist()]


def _known_labels(table: Any, wanted: str) -> str:
    names = {name for labels in table.column("labels").to_pylist() for name, _ in labels}
    return f" (labels there: {', '.join(sorted(names))}{did_you_mean(wanted, names)})" if names else ""


def spread_frames(rows: Ints, clips: Sequence[str], most: int | None) -> Ints:
    """At most `most` rows of each clip, evenly spaced over the clip, first one included; order is kept.

    Rows of no clip ("") are all kept. Clips come in the order of the index, not of time, within a shard mix:
    any evenly spaced choice of a random order is a fair sample of the clip.
    """
    if most is None:
        return rows
    of_clip: dict[str, list[int]] = {}
    for row in rows.tolist():
        of_clip.setdefault(clips[row] or f"\0{row}", []).append(row)
    kept = [
        row
        for members in of_clip.values()
        for row in (members[i * len(members) // most] for i in range(most))
        if len(members) > most
    ]
    kept += [row for members in of_clip.values() if len(members) <= most for row in members]
    return np.array(sorted(kept), np.int64)


def encode_labels(
    words: Sequence[str], benchmark: Benchmark, where: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Label words to class numbers, or to values for a regression; CorpusError for a word that fits none."""
    if benchmark.task == "regression":
        try:
            return np.array([float(word) for word in words], np.float32), (benchmark.label,)
        except ValueError as error:
            raise CorpusError(f"{where}: label '{benchmark.label}' of a regression: {error}") from error
    classes = benchmark.classes or tuple(sorted(set(words)))
    number = {name: i for i, name in enumerate(classes)}
    strange = sorted(set(words) - set(classes))
    if strange:
        raise CorpusError(
            f"{where}: label '{benchmark.label}' is '{strange[0]}' in {words.count(strange[0])} samples "
            f"of set '{benchmark.set}', which is not one of the classes {', '.join(classes)}; "
            "mend the benchmark's manifest"
        )
    return np.array([number[word] for word in words], np.int64), classes


def decode_rows(
    index: Index,
    rows: Ints,
    *,
    size: int,
    aspect: Aspect,
    threads: int = 4,
    on_image: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Read, check and decode rows of an index: uint8 [len(rows), 1, size, size]; CorpusError names the shard."""
    from usfmae.stream.reader import ShardReader

    images = np.empty((len(rows), 1, size, size), np.uint8)
    facts = index.table.select(["key", "sha256", "width", "height"]).take(rows).to_pylist()

    def decode(job: tuple[int, bytes]) -> None:
        place, data = job
        fact, shard = facts[place], index.shards[index.shard_of[rows[place]]]
        if hashlib.sha256(data).hexdigest() != fact["sha256"]:
            raise CorpusError(
                f"{shard}: the bytes of sample '{fact['key']}' are not those its row describes (sha256 differs); "
                "the shard was altered: run 'openus verify', then build or copy it again"
            )
        try:
            grey = decode_grey(data, fact["width"], fact["height"])
        except DecodeError as error:
            raise CorpusError(f"{shard}, sample '{fact['key']}': {error}; run 'openus verify'") from error
        images[place, 0] = square(grey, size, aspect)

    def read(start: int) -> Iterator[tuple[int, bytes]]:
        for place in range(start, min(start + _READ_AHEAD, len(rows))):
            i = rows[place]
            yield place, reader.read(int(index.shard_of[i]), int(index.offset[i]), int(index.size[i]))

    with ThreadPoolExecutor(max(1, threads)) as pool, ShardReader(index.shard_info) as reader:
        for start in range(0, len(rows), _READ_AHEAD):
            for _ in pool.map(decode, read(start)):
                pass
            if on_image is not None:
                on_image(min(start + _READ_AHEAD, len(rows)), len(rows))
    return images


def corpus_facts(data: str | Path, index: Index, rows: Ints) -> dict[str, Any]:
    """Name and cleaning of the corpus, and a fingerprint of the samples read, for resuming and cards."""
    from openus.places import Place

    recipe = json.loads(Place(data).read("corpus.json")).get("corpus", {})
    digest = hashlib.sha256("".join(index.table.column("sha256").take(rows).to_pylist()).encode())
    return {
        "name": recipe.get("name", ""),
        "clean": recipe.get("clean", {}),
        "fingerprint": digest.hexdigest(),
    }
