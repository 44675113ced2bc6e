"""A labelled set of a corpus, decoded once: uint8 [N,1,S,S] in memory, with labels, identities and splits.

Fine-tuning reads every image dozens of times, so the files are read and decoded once, in threads, and checked
against the sha256 of their row on the way: an altered shard is an error, never a different result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.catalogue import Catalogue, read_yaml
from openus.errors import CorpusError, UsageError, did_you_mean
from openus.manifest import Benchmark, Protocol
from usfmae.tasks.data.labels import (
    decode_masks,
    encode_labels,
    known_labels,
    label_names,
    label_words,
    mask_rows,
)
from usfmae.tasks.data.pixels import decode_rows, spread_frames
from usfmae.tasks.data.splits import Identity, Ints, Split, group_ids, make_splits

if TYPE_CHECKING:
    from collections.abc import Callable

    from usfmae.stream.index import Index
    from usfmae.tasks.recipe import Aspect


@dataclass(frozen=True)
class LabelledSet:
    """The samples of a benchmark that have a label, in the order of the index."""

    benchmark: Benchmark
    images: NDArray[np.uint8]
    """uint8 [N, 1, S, S], grey."""
    targets: NDArray[Any]
    """int64 [N] class numbers; float32 [N] for regression; float32 [N, C] of 0 and 1 for several labels;
    masks uint8 [N, S, S] of 0 and the class numbers from 1 for segmentation."""
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
        """What splits keep in proportion: class, set of labels, or quintile of the value or masked area."""
        if self.targets.ndim == 3:
            areas: NDArray[Any] = (self.targets > 0).mean((1, 2))
            return np.searchsorted(np.quantile(areas, (0.2, 0.4, 0.6, 0.8)), areas).astype(np.int64)
        if self.targets.ndim == 2:
            return np.unique(self.targets, axis=0, return_inverse=True)[1].astype(np.int64).reshape(-1)
        if np.issubdtype(self.targets.dtype, np.floating):
            edges = np.quantile(self.targets, (0.2, 0.4, 0.6, 0.8))
            return np.searchsorted(edges, self.targets).astype(np.int64)
        numbers: Ints = self.targets.astype(np.int64)
        return numbers

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
    masks = mask_rows(data, benchmark, table) if benchmark.task == "segmentation" else None
    words = {name: label_words(table, name) for name in label_names(benchmark)}
    labelled = np.ones(len(table), np.bool_) if masks is None else masks.known.copy()
    for column in words.values():
        labelled &= np.array([bool(word) for word in column], np.bool_)
    if benchmark.sources:
        labelled &= np.isin(
            np.array(table.column("source").to_pylist(), dtype=object), list(benchmark.sources)
        )
    if not labelled.any():
        raise CorpusError(
            f"{data}: no sample of set '{benchmark.set}' has a label '{benchmark.label}'; "
            f"rebuild it from a source that gives one{known_labels(table, benchmark.label)}"
        )
    rows = np.flatnonzero(labelled)
    rows = spread_frames(rows, table.column("clip").to_pylist(), frames_per_clip)
    images = decode_rows(index, rows, size=size, aspect=aspect, threads=threads, on_image=on_image)
    chosen = {name: [column[i] for i in rows.tolist()] for name, column in words.items()}
    if masks:
        targets, classes = decode_masks(
            masks, rows, benchmark, size=size, aspect=aspect, threads=threads, words=next(iter(chosen.values()), ())
        )  # fmt: skip
    else:
        targets, classes = encode_labels(chosen, benchmark, str(data))
    columns = {
        name: table.column(name).to_pylist()
        for name in ("key", "patient", "clip", "cluster", "pixel_sha256", "split", "kind", "source")
    }

    def of(name: str) -> tuple[str, ...]:
        return tuple(columns[name][i] for i in rows.tolist())

    def owned(name: str) -> tuple[str, ...]:
        """Patients and clips are numbered by each source for itself: "7" of one is not "7" of another."""
        return tuple(
            f"{source}/{word}" if word else "" for source, word in zip(of("source"), of(name), strict=True)
        )

    identity = Identity(of("key"), owned("patient"), owned("clip"), of("cluster"), of("pixel_sha256"))
    return LabelledSet(
        benchmark, images, targets, classes, identity, of("split"), of("kind"), rows,
        int((~labelled).sum()), corpus_facts(data, index, rows, targets),
    )  # fmt: skip


def open_set(data: str | Path, benchmark: Benchmark) -> Index:
    """The index of a benchmark's set; CorpusError with the command that builds it where it is absent."""
    from openus.shards.corpus import read_corpus
    from openus.storage.places import Place
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


def corpus_facts(data: str | Path, index: Index, rows: Ints, targets: NDArray[Any]) -> dict[str, Any]:
    """Name and cleaning of the corpus, and a fingerprint of the samples read, for resuming and cards."""
    from openus.storage.places import Place

    recipe = json.loads(Place(data).read("corpus.json")).get("corpus", {})
    digest = hashlib.sha256("".join(index.table.column("sha256").take(rows).to_pylist()).encode())
    digest.update(targets.tobytes())
    return {
        "name": recipe.get("name", ""),
        "clean": recipe.get("clean", {}),
        "fingerprint": digest.hexdigest(),
    }
