"""The unit of work of a build: a handful of files, from bytes to cleaned, hashed, encoded samples.

A chunk writes two files into the work folder: ``NAME.bin`` (the encoded pictures and masks, one after the
other) and, last and by renaming, ``NAME.parquet`` (a row per sample; the rows not kept and the counts travel
in its metadata). NAME holds the hash of everything the result depends on, so a chunk whose Parquet file exists
is done, and one made by other settings or other code is never mistaken for it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openus.archives import Member
from openus.clean import Cleaned, Refused, clean_frames
from openus.clean.before import Before
from openus.decode import open_media
from openus.decode.frame import Frame, FrameKind, Media, Pixels
from openus.decode.original import original
from openus.decode.stack import StackedClip, open_clip
from openus.engine.watch import REASONS, Watch, scratch
from openus.errors import ArchiveError, DecodeError, OpenUSError
from openus.manifest import Encoding
from openus.select import Selected
from openus.select.tables import Tables
from openus.shards.codecs import encode
from openus.shards.schema import REJECTED
from openus.sources import mask_of, transform_of
from openus.stages.chunkspec import CHUNK_ROW, ChunkSpec, Tally, read_tally, sample_key
from openus.stages.heap import keep_freed_memory
from openus.stages.rows import AT_ONCE, Picture, rows_of

_BUFFER = 1 << 20  # bytes: pictures are written many at a time

log = logging.getLogger(__name__)


def run_chunk(spec: ChunkSpec) -> Tally:
    """Process a chunk, or read its counts if it is already done."""
    if spec.rows_path.exists():
        return read_tally(spec.rows_path)
    cv2.setNumThreads(1)
    keep_freed_memory()
    spec.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    spec.culprits.blame(dead=False)  # left by a build that died in this process
    temporary = _temporary(spec.bytes_path)
    with temporary.open("wb", buffering=_BUFFER) as sink, scratch(spec.folder.parents[1] / "tmp"):
        maker = _Maker(spec, sink)
        maker.run()
        sink.flush()
        os.fsync(sink.fileno())
    temporary.replace(spec.bytes_path)
    maker.tally.seconds = time.monotonic() - began
    _write_rows(spec, maker)
    spec.culprits.forget()
    return maker.tally


def _temporary(path: Path) -> Path:
    """Named after this process: a worker whose build was killed may live on for a moment."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def _write_rows(spec: ChunkSpec, maker: _Maker) -> None:
    table = pa.Table.from_pylist(maker.rows, schema=CHUNK_ROW)
    table = table.replace_schema_metadata(
        {"tally": json.dumps(vars(maker.tally)), "rejected": json.dumps(maker.rejected, ensure_ascii=False)}
    )
    temporary = _temporary(spec.rows_path)
    pq.write_table(table, temporary, write_page_checksum=True)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(spec.rows_path)


class _Masks:
    """The pictures of a mask file, asked for in ascending order. A single one is the mask of every frame."""

    def __init__(self, member: str, frames: Iterator[Frame]) -> None:
        self.member, self._frames = member, frames
        self._last: list[Frame] = []  # the first, and the one looked at last

    def at(self, index: int, name: str) -> Pixels:
        while not self._last or self._last[-1].index < index:
            try:
                frame = next(self._frames, None)
            except DecodeError:
                self._last = []  # what comes after has no mask, and not that of the first
                raise
            if frame is None:
                if len(self._last) == 1:
                    break
                raise DecodeError(f"{name}: holds no mask of frame {index}", "no-frame")
            self._last = [*self._last[:1], frame]
        pixels = self._last[-1].pixels
        return pixels if pixels.ndim == 2 else np.asarray(pixels.max(axis=2), np.uint8)


class _Maker:
    def __init__(self, spec: ChunkSpec, sink: BinaryIO) -> None:
        self.spec, self.sink = spec, sink
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.tally = Tally()
        self.bare: list[Picture] = []  # stored, and without a row as yet
        self.waiting = 0  # bytes of their pixels
        self.pending: set[int] = set()
        self.culprits = spec.culprits.known()
        self.watch = Watch(spec.culprits.note, spec.seconds)
        self.at = 0
        self.before = Before(spec.shown, spec.seed)
        self.transform = transform_of(spec.code)
        self.draw = mask_of(spec.code)
        self.masks: _Masks | None = None
        # Without cleaning nobody looks at colours, but for the code of a source.
        self.grey = spec.clean.level == "none" and self.transform is None

    def run(self) -> None:
        try:
            self._read()
        finally:
            self.watch.close()
        self.describe()
        self.tally.kept = len(self.rows)
        for row in self.rows:
            row["before"] = self.before.kept.get(row["key"], b"")
        # Members come in the order of the archive; rows are kept in the order of their names.
        self.rows.sort(key=lambda row: (row["member"], row["index"]))
        self.rejected.sort(key=lambda row: (row["member"], row["index"], row["stage"]))

    def _read(self) -> None:
        known: dict[str, list[Selected]] = {}
        for selected in self.spec.members:
            if (reason := self.culprits.get(selected.member)) is not None:
                self.tally.members += 1
                self.reject(selected.member, -1, "decode", reason, REASONS[reason])
            else:
                known.setdefault(selected.path, []).append(selected)
        seen: set[str] = set()
        try:
            for member in self.spec.tree.read(list(known)):
                seen.add(member.path)
                for selected in known[member.path]:
                    self.watch.begin(selected.member)
                    self.one(member, selected)
                    self.watch.done()
                    self.describe(AT_ONCE)  # here, where no file is to blame
        except ArchiveError as error:
            for path in known.keys() - seen:
                for selected in known[path]:
                    self.tally.members += 1
                    self.reject(selected.member, -1, "decode", "archive", str(error))

    def one(self, member: Member, selected: Selected) -> None:
        self.tally.members += 1
        before = self.tally.decoded
        self.pending.clear()
        try:
            with member.open() as file:
                media = self._open(file, member.path, selected)
                self._frames(media, selected)
        except (DecodeError, ArchiveError) as error:
            reason = error.reason if isinstance(error, DecodeError) else "archive"
            self.broke_off(selected.member, before, reason, str(error))
            return
        except (OpenUSError, OSError, MemoryError):
            raise  # of this machine (a full disk), and no fault of the file
        except Exception as error:
            self.broke_off(selected.member, before, "defect", self._defect(selected.member, error))
            return
        taken = self.tally.decoded - before
        announced = max(taken, media.count or 0)
        self.tally.announced += announced
        policy = self.spec.policy
        if announced > taken and policy.stride == 1 and policy.cap is None and not policy.nonempty:
            detail = f"its header announces {announced} frames, {taken} are there"
            self.reject(selected.member, -1, "decode", "absent", detail)
        elif announced > taken:
            self.reject(selected.member, -1, "frames", "policy", f"took {taken} of {announced} frames")
        elif taken == 0:
            self.reject(selected.member, -1, "decode", "no-frames", "the file holds no picture")

    def _frames(self, media: Media, selected: Selected) -> None:
        for frame, outcome in clean_frames(self.frames(media, selected), self.spec.clean, media.meta):
            if isinstance(outcome, Refused):
                self.reject(selected.member, frame.index, "clean", outcome.reason, outcome.detail)
            else:
                self.describe(AT_ONCE)
                self.store(frame, outcome, selected, media.kind)
            self.pending.discard(frame.index)

    def broke_off(self, member: str, before: int, reason: str, detail: str) -> None:
        """A file failed, perhaps after some frames; `before` is the count of decoded frames when it began."""
        done = self.tally.decoded - before
        note = f" (after {done} frames)" if done else ""
        self.reject(member, -1, "decode", reason, f"{detail}{note}")
        # Frames that cleaning still held when the file broke off; each has its own row.
        for index in sorted(self.pending):
            self.reject(member, index, "decode", reason, "the file broke off before it was cleaned")
        self.tally.announced += done

    def _open(self, file: BinaryIO, path: str, selected: Selected) -> Media:
        if self.spec.stack is not None:
            clip = StackedClip(selected.member, selected.rows)
            return open_clip(file, path, self.spec.stack, clip, self.spec.policy)
        sibling = self._sibling(path)
        return open_media(file, path, policy=self.spec.policy, sibling=sibling, grey=self.grey)

    @functools.cached_property
    def _tables(self) -> Tables:
        tree = self.spec.tree
        return Tables(self.spec.source, [entry.path for entry in tree.entries()], tree.open)

    def frames(self, media: Media, selected: Selected) -> Iterator[Frame]:
        """The decoded frames, counted, each put right by the source's own code where it has some."""
        for frame in media.frames():
            self.watch.frame()
            self.tally.decoded += 1
            self.pending.add(frame.index)
            if self.transform is None:
                yield frame
                continue
            pixels = self.transform(frame.pixels, selected.member, frame.index)
            if pixels is None:
                self.pending.discard(frame.index)
                detail = "left out by the source's own rule"
                self.reject(selected.member, frame.index, "clean", "source-rule", detail)
            else:
                yield Frame(pixels, frame.index)

    def store(self, frame: Frame, cleaned: Cleaned, selected: Selected, kind: FrameKind) -> None:
        """Encode a picture and write it, and its mask where it has one; its row comes later."""
        spec = self.spec
        own = _unchanged(frame, cleaned, spec.encoding)
        data = own or encode(cleaned.pixels, spec.encoding)
        at, mask = self.put(data), (0, 0)
        if spec.masks and (selected.mask or self.draw):
            mask = self.mask(selected, cleaned, frame)
        if selected.member in spec.shown:
            key = sample_key(spec.source, selected.member, frame.index)
            self.before.offer(key, selected.member, frame.pixels)
        verbatim = own is not None and own == frame.file
        shape = frame.pixels.shape
        self.bare.append(Picture(selected, kind, frame.index, shape, cleaned, data, verbatim, at, mask))
        self.waiting += cleaned.pixels.nbytes

    def describe(self, least: int = 0) -> None:
        """Make the rows of the pictures that have none, if they have `least` bytes of pixels together."""
        if self.waiting >= least:
            bare, self.bare, self.waiting = self.bare, [], 0
            self._describe(bare)

    def _describe(self, pictures: list[Picture]) -> None:
        try:
            self.rows += rows_of(pictures, self.spec)
        except (OpenUSError, OSError, MemoryError):
            raise
        except Exception as error:
            for picture in pictures:
                if len(pictures) > 1:  # whose fault it is must be found
                    self._describe([picture])
                else:
                    member = picture.selected.member
                    self.reject(member, picture.index, "clean", "defect", self._defect(member, error))

    def _defect(self, member: str, error: Exception) -> str:
        """Tell of a defect of ours, which must not cost a long build; returns what it was."""
        what = f"unexpected {type(error).__name__}: {error}"
        log.warning("%s: %s: %s; please report it", self.spec.source, member, what, exc_info=True)
        return what

    def mask(self, selected: Selected, cleaned: Cleaned, of: Frame) -> tuple[int, int]:
        """Store the mask of a sample, cut and resized as its picture was (nearest neighbour, no new values).

        A mask of another size than its frame [H, W] is of the whole frame, and is brought to its size first.
        """
        frame = of.pixels.shape[:2]
        try:
            grey = self._mask_pixels(selected, of.index)
        except (DecodeError, ArchiveError) as error:
            reason = getattr(error, "reason", "archive")
            self.reject(selected.mask or selected.member, -1, "mask", reason, str(error))
            return 0, 0
        if self.spec.mask_threshold is not None:
            grey = np.where(grey > self.spec.mask_threshold, np.uint8(255), np.uint8(0))
        x, y, w, h = cleaned.sector
        height, width = cleaned.pixels.shape
        if (w, h) != (frame[1], frame[0]):
            if grey.shape != frame:
                whole = cv2.resize(grey, (frame[1], frame[0]), interpolation=cv2.INTER_NEAREST)
                grey = np.asarray(whole, np.uint8)
            grey = grey[y : y + h, x : x + w]
        small = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        data = encode(small, Encoding(format="png"))
        return self.put(data), len(data)

    def _mask_pixels(self, selected: Selected, index: int) -> Pixels:
        if self.draw is not None:
            return self.draw(selected.member, self._tables)
        if self.masks is None or self.masks.member != selected.member:
            self.masks = _Masks(selected.member, self._mask_frames(selected.mask))
        return self.masks.at(index, selected.mask)

    def _mask_frames(self, path: str) -> Iterator[Frame]:
        """All pictures of a mask file, turned as those it belongs to."""
        turned = self.spec.policy.model_copy(update={"stride": 1, "cap": None, "nonempty": False})
        classes = self.spec.mask_threshold is None
        with self.spec.tree.open(path) as file:
            sibling = self._sibling(path)
            yield from open_media(file, path, policy=turned, sibling=sibling, classes=classes).frames()

    def put(self, data: bytes) -> int:
        """Write it to the file of the chunk; returns where it begins."""
        at = self.at
        self.sink.write(data)
        self.at += len(data)
        self.tally.bytes += len(data)
        return at

    def reject(self, member: str, index: int, stage: str, reason: str, detail: str) -> None:
        row = (self.spec.source, member, index, stage, reason, " ".join(detail.split()))
        self.rejected.append(dict(zip(REJECTED.names, row, strict=True)))

    def _sibling(self, path: str) -> Any:
        folder = path.rsplit("/", 1)[0] + "/" if "/" in path else ""
        return lambda name: self.spec.tree.open(folder + name)


def _unchanged(frame: Frame, cleaned: Cleaned, encoding: Encoding) -> bytes | None:
    """The file's own bytes, where no pixel was changed and they are of the format that is asked for."""
    if frame.file is None or cleaned.pixels.shape != frame.pixels.shape:
        return None
    same = np.array_equal(cleaned.pixels, frame.pixels)
    return original(frame.file, encoding.format) if same else None
