"""What the samples of a set are labelled with: words of the rows, or masks of the set beside it, as targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import CorpusError, did_you_mean
from openus.manifest import Benchmark
from usfmae.tasks.data.pixels import decode_rows
from usfmae.tasks.data.splits import Ints
from usfmae.tasks.data.square import square_mask

if TYPE_CHECKING:
    from usfmae.stream.index import Index
    from usfmae.tasks.recipe import Aspect


def label_words(table: Any, label: str) -> list[str]:
    import pyarrow.compute as pc

    return [word or "" for word in pc.map_lookup(table.column("labels"), label, "first").to_pylist()]


def known_labels(table: Any, wanted: str) -> str:
    names = {name for labels in table.column("labels").to_pylist() for name, _ in labels}
    return f" (labels there: {', '.join(sorted(names))}{did_you_mean(wanted, names)})" if names else ""


def label_names(benchmark: Benchmark) -> list[str]:
    """The labels a benchmark asks of each sample: one, or for a multi-label task several, divided by commas; none
    for a segmentation whose masks say all (label ``mask``)."""
    if benchmark.task == "segmentation" and benchmark.label == "mask":
        return []
    if benchmark.task == "multilabel":
        return [name.strip() for name in benchmark.label.split(",")]
    return [benchmark.label]


def encode_labels(
    words: Mapping[str, Sequence[str]], benchmark: Benchmark, where: str, task: str | None = None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Words of each label to targets and the names of their classes; CorpusError for a word that fits none.

    Class numbers int64 [N]; for a regression the values float32 [N]; for several labels float32 [N, C], 1 where
    a label's word is the benchmark's `positive` (``present`` if it names none). task: the benchmark's own if None.
    """
    task = task or benchmark.task
    if task == "multilabel":
        positive = benchmark.positive or "present"
        columns = [[word == positive for word in column] for column in words.values()]
        for name, found in zip(words, columns, strict=True):
            if not any(found):
                raise CorpusError(
                    f"{where}: label '{name}' is never '{positive}'; mend the benchmark's manifest"
                )
        return np.array(columns, np.float32).T.copy(), tuple(words)
    (name, column), *_ = words.items()
    if task == "regression":
        try:
            return np.array([float(word) for word in column], np.float32), (name,)
        except ValueError as error:
            raise CorpusError(f"{where}: label '{name}' of a regression: {error}") from error
    classes = benchmark.classes or tuple(sorted(set(column)))
    number = {name: i for i, name in enumerate(classes)}
    strange = sorted(set(column) - set(classes))
    if strange:
        raise CorpusError(
            f"{where}: label '{benchmark.label}' is '{strange[0]}' in {list(column).count(strange[0])} samples "
            f"of set '{benchmark.set}', which is not one of the classes {', '.join(classes)}; "
            "mend the benchmark's manifest"
        )
    return np.array([number[word] for word in column], np.int64), classes


@dataclass(frozen=True)
class MaskRows:
    """The masks of a set: which of its samples have one, and where it lies in the set of masks."""

    index: Index
    known: NDArray[np.bool_]
    place: Ints
    """int64 [samples]: row of the mask, -1 where there is none."""


def mask_rows(data: str | Path, benchmark: Benchmark, table: Any) -> MaskRows:
    """Find the mask of each sample by its key. Raises CorpusError where the corpus holds no masks of the set."""
    from usfmae.stream.index import open_index

    try:
        index = open_index(data, f"{benchmark.set}-mask")
    except CorpusError as error:
        raise CorpusError(
            f"{error}; segmentation needs masks: declare them in the source's manifest and build it again"
        ) from error
    row_of = {key: row for row, key in enumerate(index.table.column("key").to_pylist())}
    place = np.array([row_of.get(key, -1) for key in table.column("key").to_pylist()], np.int64)
    return MaskRows(index, place >= 0, place)


def decode_masks(
    masks: MaskRows, rows: Ints, benchmark: Benchmark, *, size: int, aspect: Aspect, threads: int,
    words: Sequence[str] = (),
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:  # fmt: skip
    """Masks uint8 [N, size, size] of 0 and the class numbers 1..C, and the names of the classes.

    One class: every value above 0 belongs to it. Several: the stored value is the class number; or with `words`, the
    label of each image, all that its mask outlines is of that class.
    """
    classes = benchmark.classes or ("structure",)
    found = decode_rows(
        masks.index, masks.place[rows], size=size, aspect=aspect, threads=threads, resize=square_mask
    )[:, 0]
    if words:
        numbers, _ = encode_labels(
            {benchmark.label: words}, benchmark, f"set '{benchmark.set}'", "classification"
        )
        return (found > 0).astype(np.uint8) * (numbers + 1).astype(np.uint8)[:, None, None], classes
    if len(classes) == 1:
        return (found > 0).astype(np.uint8), classes
    if found.max() > len(classes):
        raise CorpusError(
            f"masks of set '{benchmark.set}' hold the value {found.max()}, but the benchmark names only "
            f"{len(classes)} classes ({', '.join(classes)}); mend the benchmark's manifest"
        )
    return found, classes
