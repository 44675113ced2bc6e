"""Rows of an index to pixels: read by byte range, checked against their sha256, decoded in threads, made square."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openus.errors import CorpusError, DecodeError
from usfmae.stream.decode import decode_grey
from usfmae.tasks.data.splits import Ints
from usfmae.tasks.data.square import square

if TYPE_CHECKING:
    from usfmae.stream.index import Index
    from usfmae.tasks.recipe import Aspect

_READ_AHEAD = 256


def decode_rows(
    index: Index,
    rows: Ints,
    *,
    size: int,
    aspect: Aspect,
    threads: int = 4,
    on_image: Callable[[int, int], None] | None = None,
    resize: Callable[[Any, int, Aspect], Any] = square,
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
        images[place, 0] = resize(grey, size, aspect)

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


def grey_statistics(images: Any) -> tuple[float, float]:
    """Mean and deviation (0..1) of uint8 images [N, 1, S, S], from at most 512 of them, evenly spaced."""
    some = images[:: max(1, len(images) // 512)].astype(np.float32) / 255
    return float(some.mean()), float(max(some.std(), 1e-3))
