"""From records to pixels: what a worker, or the main process in its place, does for each part of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

# One sample of a batch: where its bytes lie, the size its row gives, the reduction while decoding and the box
# to cut, in pixels of the reduced picture.
RECORD = np.dtype(
    [
        ("row", "<i8"), ("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("width", "<i4"), ("height", "<i4"),
        ("reduction", "<i4"), ("x", "<i4"), ("y", "<i4"), ("w", "<i4"), ("h", "<i4"),
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
        cache: of remote shards.
        pixels: cache of decoded pictures.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        size: int,
        interpolation: str = "linear",
        cache: ShardCache | None = None,
        pixels: PixelCache | None = None,
    ) -> None:
        self.reader = ShardReader(shards, cache, keep=64 if cache is None else 4)
        self.size, self.pixels = size, pixels
        self.interpolation = INTERPOLATIONS[interpolation]

    def picture(self, record: tuple[int, ...]) -> Grey:
        """The decoded grey picture of a record, reduced as it says. Raises DecodeError, CorpusError."""
        row, shard, offset, size, width, height, reduction = record[:7]
        if self.pixels is not None and (known := self.pixels.get(row)) is not None:
            return known
        grey = decode_grey(self.reader.read(shard, offset, size), width, height, reduction)
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
                x, y, w, h = record[7:]
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
