"""From records to pixels: what a worker, or the main process in its place, does for each part of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from openus.errors import DecodeError
from usfmae.stream.decode import INTERPOLATIONS, Grey, cut, decode_grey
from usfmae.stream.reader import ShardReader

if TYPE_CHECKING:
    from usfmae.stream.cache import ShardCache
    from usfmae.stream.pixels import PixelCache
    from usfmae.stream.shard import Shard

# One sample of a batch: where its bytes lie, their hash, the size its row gives, the reduction while decoding and
# the box to cut, in pixels of the reduced picture.
RECORD = np.dtype(
    [
        ("row", "<i8"), ("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("width", "<i4"), ("height", "<i4"),
        ("reduction", "<i4"), ("x", "<i4"), ("y", "<i4"), ("w", "<i4"), ("h", "<i4"),
        ("sha256", "V32"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """A sample that could not be decoded: its place among the records, its row, and why."""

    place: int
    row: int
    reason: str
    message: str


class Views:
    """Reads, decodes and cuts samples.

    Args:
        shards: of the index.
        size: side S of the views in pixels.
        interpolation: `linear` or `cubic`, for the resize of the box.
        check: compare the bytes of each picture with the SHA-256 of its row, and decode no further than needed; else
            decode all of it, which notices some damage too.
        cache: of remote shards.
        pixels: cache of decoded pictures.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        size: int,
        interpolation: str = "linear",
        check: bool = True,
        cache: ShardCache | None = None,
        pixels: PixelCache | None = None,
    ) -> None:
        self.reader = ShardReader(shards, cache, keep=64 if cache is None else 4)
        self.size, self.check, self.pixels = size, check, pixels
        self.interpolation = INTERPOLATIONS[interpolation]

    def picture(self, record: tuple[Any, ...]) -> Grey:
        """The decoded grey picture of a record, reduced as it says, at least down to its box's last row.

        Raises DecodeError, CorpusError.
        """
        row, shard, offset, size, width, height, reduction, _, y, _, h, sha256 = record
        if self.pixels is not None and (known := self.pixels.get(row)) is not None:
            return known
        data = self.reader.view(shard, offset, size)
        if self.check and hashlib.sha256(data).digest() != sha256:
            raise DecodeError("its bytes are not those its row describes (SHA-256 differs)", reason="altered")
        if self.check and self.pixels is None:
            return decode_grey(data, width, height, reduction, rows=y + h)
        grey = decode_grey(data, width, height, reduction)
        if self.pixels is not None:
            self.pixels.put(row, grey)
        return grey

    def fill(self, records: NDArray[np.void], out: NDArray[np.uint8]) -> list[Bad]:
        """Write the views of records [n] into `out` uint8 [n, S, S]; return those that failed, left as they were.

        Raises CorpusError where a shard is missing or cut short: that is no matter of one sample.
        """
        bad = []
        for place, record in enumerate(records.tolist()):
            try:
                x, y, w, h = record[7:11]
                cut(self.picture(record), x, y, w, h, out[place], self.interpolation)
            except DecodeError as error:
                bad.append(Bad(place, record[0], error.reason, str(error)))
        if self.reader.cache is not None:  # let go of cached shards, so that an idle worker keeps no room
            self.reader.close()
        return bad

    def close(self) -> None:
        """Close the files."""
        self.reader.close()


def one_thread() -> None:
    """Keep OpenCV to this thread: the processes are the parallelism."""
    cv2.setNumThreads(0)
