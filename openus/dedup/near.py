"""Near-copies among pictures that lie in chunks: fingerprints, candidates, a second look; each kept for next time.

A *chunk* is a batch of pictures with a name that changes whenever their pixels may; a *strip* is one clip's part of
a chunk, or one picture. All that is found is a function of two strips alone, so a chunk added later is compared with
the others and nothing else is looked at again, and the result is the one of a build from scratch:

1. each picture is fingerprinted once (`openus.dedup.prints`), the file kept beside its chunk;
2. in each strip a few pictures stand for the others, and only those are searched (`openus.dedup.search`);
3. where two strips meet, all their pictures are compared by hash, and each keeps its nearest few as candidates;
4. candidates are compared by pixels (`openus.dedup.compare`), the outcome kept in one file.

Pictures of one clip are never candidates: what repeats in a clip is a matter of thinning, not of copies.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from openus.decode.frame import Pixels
from openus.dedup.compare import similarity
from openus.dedup.prints import (
    INDEX_HASHES,
    RADIUS,
    VIEWS,
    Box,
    content_box,
    fingerprint,
    index_box,
    view_box,
)
from openus.dedup.slabs import BYTES_A_HASH, Slab, search_slab
from openus.engine.base import Engine, Report
from openus.storage.depot import Files
from openus.storage.files import read_parquet, write_bytes, write_parquet
from openus.storage.pieces import Pieces, read_piece

_ALIKE = 12  # bits within which a frame is represented by another of its strip
_RECENT = 4  # representatives a frame is compared with
_NEAREST = 3  # frames of the other strip that a frame may be a copy of
_TRIES = 3  # windows tried for one pair, nearest first
_KEPT_SCORE = 0.5  # pairs below are not remembered, whatever the settings of a corpus
_SLAB = 1 << 20  # queries searched at a time
_BATCH = 64  # pairs that one task looks at

Prints = NDArray[np.uint8]

PAIRS = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),  # keys, a < b
        pa.field("b", pa.string(), nullable=False),
        pa.field("chunk_a", pa.string(), nullable=False),
        pa.field("chunk_b", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("window_a", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("window_b", pa.list_(pa.float32(), 4), nullable=False),
    ]
)


@dataclass(frozen=True)
class Place:
    """Where the bytes of a picture lie."""

    path: Path
    at: int
    length: int

    def pixels(self) -> Pixels:
        """The picture, uint8 [H, W].

        Raises:
            ValueError: it cannot be decoded.
        """
        return self.decoded(read_piece(self.path, self.at, self.length))

    def decoded(self, data: bytes) -> Pixels:
        """The picture of these bytes, read from this place."""
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if decoded is None:
            raise ValueError(f"{self.path}: the picture at byte {self.at} cannot be decoded")
        return np.asarray(decoded, np.uint8)


@dataclass(frozen=True)
class Chunk:
    """A batch of pictures: its name, where its fingerprints go, and of each picture key, clip ("" for none), place."""

    name: str
    prints: Path
    keys: tuple[str, ...]
    clips: tuple[str, ...]
    places: tuple[Place, ...]
    exact: tuple[str, ...]
    """Hash of the pixels: equal pictures need no second look."""


@cache
def code_version() -> str:
    """Hash of the code that decides what is found."""
    root = Path(__file__).resolve().parents[1]
    # The search is exact: no version of it finds anything else.
    names = ("clean/area.py", "dedup/compare.py", "dedup/near.py", "dedup/prints.py")
    return hashlib.sha256(b"".join((root / name).read_bytes() for name in names)).hexdigest()[:12]


def near_copies(chunks: Sequence[Chunk], store: Path, engine: Engine, report: Report) -> pa.Table:
    """All near-copies among the pictures of `chunks`, as a table with the schema `PAIRS`, sorted by (a, b).

    `store` keeps what was found, with the names of the chunks that were compared; only new ones are compared again.
    """
    todo = [chunk for chunk in chunks if not chunk.prints.exists()]
    total = sum(len(chunk.keys) for chunk in todo)
    report("fingerprint", 0, total)
    for chunk, _ in engine.run(print_chunk, todo, files=print_files):
        report("fingerprint", len(chunk.keys), total)
    known, compared = _load(store)
    present = {chunk.name for chunk in chunks}
    old = [chunk for chunk in chunks if chunk.name in compared]
    new = [chunk for chunk in chunks if chunk.name not in compared]
    known = [row for row in known if row["chunk_a"] in present and row["chunk_b"] in present]
    ordered = [*old, *new]
    candidates = _candidates(ordered, len(old), engine)
    found = _confirm(ordered, candidates, engine, report)
    rows = sorted([*known, *found], key=lambda row: (row["a"], row["b"]))
    table = pa.Table.from_pylist(rows, schema=PAIRS)
    notes = {"code": code_version(), "compared": json.dumps(sorted(present))}
    if new or compared != present:
        write_parquet(store, table.replace_schema_metadata(notes))
    return table


def _load(store: Path) -> tuple[list[dict[str, object]], set[str]]:
    """What was found before and among which chunks; nothing, where other code found it."""
    try:
        table = read_parquet(store)
        notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if notes.get("code") != code_version():
            return [], set()
        return table.to_pylist(), set(json.loads(notes["compared"]))
    except (OSError, ValueError, KeyError):  # missing, cut short: it is made anew
        return [], set()


def print_chunk(chunk: Chunk) -> None:
    """Fingerprint the pictures of a chunk into its file: uint8 [N, VIEWS + INDEX_HASHES, 32], views first."""
    cv2.setNumThreads(1)
    prints = np.empty((len(chunk.keys), VIEWS + INDEX_HASHES, 32), np.uint8)
    for row, place in enumerate(chunk.places):
        prints[row, VIEWS:], prints[row, :VIEWS] = fingerprint(place.pixels())
    header = json.dumps({"shape": prints.shape}).encode().ljust(64)
    write_bytes(chunk.prints, header + prints.tobytes())


def print_files(chunk: Chunk) -> Files:
    """What `print_chunk` reads and makes."""
    return Files(needs=[*{place.path for place in chunk.places}], gives=[chunk.prints], back=[chunk.prints])


def read_prints(chunk: Chunk) -> Prints:
    """The fingerprints of a chunk, mapped from its file."""
    shape = (len(chunk.keys), VIEWS + INDEX_HASHES, 32)
    if not len(chunk.keys):
        return np.empty(shape, np.uint8)
    return np.memmap(chunk.prints, np.uint8, "r", 64, shape)


@dataclass(frozen=True)
class _Strips:
    """The pictures of all chunks, chunk after chunk: `strip` int64 [N] of each, `clip` int64 [N] of each,
    `standing` int64 [R]: those that stand for their strip."""

    chunk: NDArray[np.int64]
    row: NDArray[np.int64]
    strip: NDArray[np.int64]
    clip: NDArray[np.int64]
    standing: NDArray[np.int64]
    members: dict[int, NDArray[np.int64]]


def _strips(chunks: Sequence[Chunk]) -> _Strips:
    chunk: list[int] = []
    row: list[int] = []
    strip: list[int] = []
    clip: list[int] = []
    standing: list[int] = []
    clips: dict[str, int] = {}
    base = strips = 0
    for number, part in enumerate(chunks):
        prints = read_prints(part)
        local: dict[str, int] = {}
        for place, name in enumerate(part.clips):
            own = f"\0{number}\0{place}"  # a picture without a clip is a strip and a clip of its own
            strip.append(local.setdefault(name or own, strips + len(local)))
            clip.append(clips.setdefault(name or own, len(clips)))
        strips += len(local)
        standing += [base + place for place in _representatives(prints[:, VIEWS], part.clips)]
        chunk += [number] * len(part.keys)
        row += range(len(part.keys))
        base += len(part.keys)
    arrays = [np.asarray(column, np.int64) for column in (chunk, row, strip, clip, standing)]
    order = np.argsort(arrays[2], kind="stable")
    edges = np.searchsorted(arrays[2][order], np.arange(strips + 1))
    members = {number: order[edges[number] : edges[number + 1]] for number in range(strips)}
    return _Strips(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], members)


def _representatives(hashes: Prints, clips: Sequence[str]) -> Iterator[int]:
    """Places of the pictures that stand for their strip: those unlike the last few that do."""
    recent: dict[str, deque[NDArray[np.uint8]]] = {}
    for place, clip in enumerate(clips):
        last = recent.setdefault(clip, deque(maxlen=_RECENT))
        if clip and any(int(np.bitwise_count(hashes[place] ^ other).sum()) <= _ALIKE for other in last):
            continue
        if clip:
            last.append(np.array(hashes[place]))
        yield place


@dataclass(frozen=True)
class _Candidate:
    """Two pictures (numbers over all chunks, in the order of their keys) and the windows to try, nearest first."""

    a: int
    b: int
    distance: int
    windows: tuple[tuple[bool, int, int], ...]
    """(is it a window of a?, number of the query, number of the hash of the index)"""


def _candidates(chunks: Sequence[Chunk], old: int, engine: Engine) -> list[_Candidate]:
    if old == len(chunks):
        return []
    strips = _strips(chunks)
    prints = [read_prints(chunk) for chunk in chunks]
    keys = [key for chunk in chunks for key in chunk.keys]
    exact = [value for chunk in chunks for value in chunk.exact]
    fresh = strips.chunk[strips.standing] >= old
    meetings: set[tuple[int, int]] = set()
    for queries, index in (
        (strips.standing[fresh], strips.standing),
        (strips.standing[~fresh], strips.standing[fresh]),
    ):
        meetings |= _meetings(strips, prints, queries, index, engine)
    found = []
    for one, other in sorted(meetings):
        left, right = strips.members[one], strips.members[other]
        for a, b in _nearest(strips, prints, left, right):
            if exact[a] == exact[b]:
                continue
            a, b = (a, b) if keys[a] < keys[b] else (b, a)
            found.append(_windows(a, b, _of(strips, prints, a), _of(strips, prints, b)))
    return sorted(found, key=lambda item: (keys[item.a], keys[item.b]))


def _of(strips: _Strips, prints: Sequence[Prints], number: int) -> Prints:
    return np.asarray(prints[strips.chunk[number]][strips.row[number]])


def _meetings(
    strips: _Strips,
    prints: Sequence[Prints],
    queries: NDArray[np.int64],
    index: NDArray[np.int64],
    engine: Engine,
) -> set[tuple[int, int]]:
    """Pairs of strips with representatives within the radius."""
    if not len(queries) or not len(index):
        return set()
    met: set[tuple[int, int]] = set()
    each, most = VIEWS + INDEX_HASHES, max(_SLAB, engine.room // BYTES_A_HASH)
    block = max(1, most // INDEX_HASHES)
    # A larger slab, where the index has several blocks: each of them is sorted for every slab.
    step = max(1, (most // 4 if len(index) > block else _SLAB) // each)

    def slabs() -> Iterator[Slab]:
        for at in range(0, len(queries), step):
            part = queries[at : at + step]
            clip, strip = (np.repeat(of[part], each) for of in (strips.clip, strips.strip))
            yield _gather(strips, prints, part, slice(None)), clip, strip

    for at in range(0, len(index), block):
        part = index[at : at + block]
        clip, strip = (np.repeat(of[part], INDEX_HASHES) for of in (strips.clip, strips.strip))
        shared = _gather(strips, prints, part, slice(VIEWS, None)), clip, strip
        for ends in engine.spread(search_slab, shared, slabs()):
            met |= {(min(a, b), max(a, b)) for a, b in ends.tolist()}
    return met


def _gather(strips: _Strips, prints: Sequence[Prints], numbers: NDArray[np.int64], part: slice) -> Prints:
    """Hashes of pictures, one after the other: uint8 [n * hashes of each, 32]."""
    rows = [prints[strips.chunk[number]][strips.row[number], part] for number in numbers.tolist()]
    return np.concatenate(rows)


def _nearest(
    strips: _Strips, prints: Sequence[Prints], left: NDArray[np.int64], right: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """For each picture of two strips its nearest few in the other, within the radius; pairs (left, right)."""
    mine = np.stack([_of(strips, prints, number) for number in left.tolist()])
    theirs = np.stack([_of(strips, prints, number) for number in right.tolist()])
    table = np.minimum(_table(mine, theirs[:, VIEWS:]), _table(theirs, mine[:, VIEWS:]).T)
    # Equally near ones stand in the order of time, which is the order of the rows.
    best = np.zeros(table.shape, bool)
    rows = np.argsort(table, axis=1, kind="stable")[:, :_NEAREST]
    np.put_along_axis(best, rows, True, axis=1)
    columns = np.argsort(table, axis=0, kind="stable")[:_NEAREST]
    np.put_along_axis(best, columns, True, axis=0)
    hits = np.argwhere(best & (table <= RADIUS))
    return [(int(left[i]), int(right[j])) for i, j in hits.tolist()]


def _table(queries: Prints, index: Prints) -> NDArray[np.uint16]:
    """[n, Q, 32] and [m, I, 32] to the smallest distance of any of Q with any of I: [n, m]."""
    words = np.ascontiguousarray(queries).view(np.uint64), np.ascontiguousarray(index).view(np.uint64)
    table = np.full((len(queries), len(index)), 257, np.uint16)
    for row, query in enumerate(words[0]):
        mixed = np.bitwise_count(query[None, :, None] ^ words[1][:, None])
        table[row] = mixed.sum(axis=3, dtype=np.uint16).min(axis=(1, 2))
    return table


def _windows(a: int, b: int, mine: Prints, theirs: Prints) -> _Candidate:
    """The nearest windows of a pair, either way round."""
    ways = []
    for of_a, queries, index in ((True, mine, theirs[VIEWS:]), (False, theirs, mine[VIEWS:])):
        distance = np.bitwise_count(queries[:, None] ^ index[None]).sum(axis=2, dtype=np.int64)
        ways += [(int(distance[q, i]), not of_a, q, i) for q, i in np.argwhere(distance <= RADIUS).tolist()]
    ways.sort()
    return _Candidate(a, b, ways[0][0], tuple((not turned, q, i) for _, turned, q, i in ways[:_TRIES]))


@dataclass(frozen=True)
class _Batch:
    first: int
    pairs: tuple[tuple[Place, Place, _Candidate], ...]


def _confirm(
    chunks: Sequence[Chunk], candidates: Sequence[_Candidate], engine: Engine, report: Report
) -> list[dict[str, object]]:
    """The candidates that look alike, as rows of `PAIRS`."""
    keys = [key for chunk in chunks for key in chunk.keys]
    names = [chunk.name for chunk in chunks for _ in chunk.keys]
    places = [place for chunk in chunks for place in chunk.places]
    batches = [
        _Batch(at, tuple((places[item.a], places[item.b], item) for item in candidates[at : at + _BATCH]))
        for at in range(0, len(candidates), _BATCH)
    ]
    report("compare", 0, len(candidates))
    found = []
    for batch, outcomes in engine.run(compare_batch, batches):
        for (_, _, item), (score, box_a, box_b) in zip(batch.pairs, outcomes, strict=True):
            if score >= _KEPT_SCORE:
                found.append(
                    {
                        "a": keys[item.a], "b": keys[item.b], "chunk_a": names[item.a], "chunk_b": names[item.b],
                        "distance": item.distance, "score": score, "window_a": list(box_a), "window_b": list(box_b),
                    }
                )  # fmt: skip
        report("compare", len(batch.pairs), len(candidates))
    return found


def compare_batch(batch: _Batch) -> list[tuple[float, Box, Box]]:
    """Score and windows of each pair of a batch, the best of the windows that are to be tried."""
    cv2.setNumThreads(1)
    outcomes = []
    places = list(dict.fromkeys(place for pair in batch.pairs for place in pair[:2]))
    with Pieces() as pieces:
        data = dict(zip(places, pieces.read((p.path, p.at, p.length) for p in places), strict=True))
    for place_a, place_b, item in batch.pairs:
        a, b = place_a.decoded(data[place_a]), place_b.decoded(data[place_b])
        content_a, content_b = content_box(a), content_box(b)
        best = (-1.0, index_box(content_a, 0), index_box(content_b, 0))
        for of_a, query, number in item.windows:
            box_a = view_box(content_a, query) if of_a else index_box(content_a, number)
            box_b = index_box(content_b, number) if of_a else view_box(content_b, query)
            score = similarity(a, b, box_a, box_b)
            if score > best[0]:
                best = (score, box_a, box_b)
        outcomes.append(best)
    return outcomes
