"""Clips: MP4/MOV, AVI, Matroska/WebM, MPEG and WMV through FFmpeg (PyAV), one frame at a time.

Most ultrasound clips are grey, stored as YUV. Where the chroma planes are neutral the picture is the luma plane
through the table that swscale itself uses for this range and matrix, so grey frames equal the channels of its
RGB output exactly and cost a third of it. Chroma up to two levels off neutral counts as neutral: that is noise of the
codec, not colour.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import av
import av.logging
import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels
from openus.decode.grey import collapsed
from openus.decode.limits import DecodeLimits, guard, guarded, size_of
from openus.decode.policy import Clip, Wanted
from openus.errors import DecodeError

av.logging.set_level(av.logging.PANIC)  # damaged files are reported by us, once

# The demuxer is named, never guessed by FFmpeg: some of its formats are playlists that open other files.
DEMUXERS = {
    "mp4": "mov",
    "avi": "avi",
    "mkv": "matroska",
    "mpg": "mpeg",
    "ts": "mpegts",
    "wmv": "asf",
    "h264": "h264",
}
PLANAR_YUV = {
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv440p",
    "yuv411p",
    "yuvj420p",
    "yuvj422p",
    "yuvj444p",
    "yuvj440p",
}
NEUTRAL, CHROMA_NOISE = 128, 2


class VideoClip(Clip):
    """The first video stream of a container."""

    def __init__(self, reader: BinaryIO, kind: str, name: str, limits: DecodeLimits) -> None:
        self._reader, self._name, self._limits = reader, name, limits
        reader.seek(0)
        head = reader.read(4)
        head = head[:1] if head[:1] == b"\x47" else head
        self._kind = {b"\x47": "ts", b"\0\0\x01\xb3": "mpeg2"}.get(head, kind) if kind == "mpg" else kind
        check_whole(reader, kind, name)
        with guard(name), self._opened() as container:
            stream = self._stream(container)
            context = stream.codec_context
            if context is None:
                raise DecodeError(
                    f"{name}: its video is in a codec that is not supported here", "unsupported"
                )
            limits.check_pixels(name, context.width, context.height)
            self.count = stream.frames or None
            rate = stream.average_rate
            self.meta = {
                "codec": str(context.name),
                "pix_fmt": str(context.pix_fmt),
                "fps": f"{float(rate):g}" if rate else "",
            }
        if self.count is not None:
            limits.check_frames(name, self.count)

    def _opened(self) -> av.container.InputContainer:
        self._reader.seek(0)
        return av.open(self._reader, "r", format=DEMUXERS[self._kind])

    def _stream(self, container: av.container.InputContainer) -> av.VideoStream:
        streams = [
            s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise DecodeError(f"{self._name}: holds no video", "not-an-image")
        stream: av.VideoStream = streams[0]
        # One thread: the build runs a process a core, and threads would delay the first frame.
        stream.codec_context.thread_count = 1
        return stream

    def exact_count(self) -> int:
        """Frames in the container, by its packets: what headers announce is often wrong."""
        with guard(self._name), self._opened() as container:
            packets = container.demux(self._stream(container))
            return sum(1 for packet in packets if packet.size and not packet.is_discard)

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        return guarded(self._name, self._frames(wanted))

    def _frames(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        index = -1
        with self._opened() as container:
            stream = self._stream(container)
            tables: dict[tuple[str, int, int], NDArray[np.uint8]] = {}
            for index, frame in enumerate(container.decode(stream)):
                self._limits.check_pixels(self._name, frame.width, frame.height)
                if wanted(index):
                    yield index, _pixels(frame, tables)
        if index < 0:
            raise DecodeError(f"{self._name}: truncated: it holds no frame that can be decoded", "truncated")


def _pixels(frame: av.VideoFrame, tables: dict[tuple[str, int, int], NDArray[np.uint8]]) -> Pixels:
    name = frame.format.name
    if name == "gray":
        pixels = _plane(frame, 0).copy()
    elif name in PLANAR_YUV and all(_is_neutral(_plane(frame, number)) for number in (1, 2)):
        key = (name, int(frame.color_range), int(frame.colorspace))
        if key not in tables:
            tables[key] = _luma_table(frame)
        pixels = tables[key][_plane(frame, 0)]
    else:
        pixels = collapsed(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    if frame.rotation:
        pixels = np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))
    return pixels


def _plane(frame: av.VideoFrame, number: int) -> NDArray[np.uint8]:
    plane = frame.planes[number]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _is_neutral(chroma: NDArray[np.uint8]) -> bool:
    return bool(chroma.min() >= NEUTRAL - CHROMA_NOISE and chroma.max() <= NEUTRAL + CHROMA_NOISE)


def _luma_table(like: av.VideoFrame) -> NDArray[np.uint8]:
    """What swscale makes of each luma level with neutral chroma: uint8 [256]."""
    ramp = av.VideoFrame(256, 16, like.format.name)
    ramp.color_range, ramp.colorspace = like.color_range, like.colorspace
    for number, plane in enumerate(ramp.planes):
        rows = np.full((plane.height, plane.line_size), NEUTRAL, np.uint8)
        if number == 0:
            rows[:, :256] = np.arange(256, dtype=np.uint8)
        plane.update(rows.tobytes())
    return np.asarray(ramp.to_ndarray(format="rgb24")[0, :, 0], np.uint8)


def check_whole(reader: BinaryIO, kind: str, name: str) -> None:
    """Raise `DecodeError` (``truncated``) if a container's own lengths say that its end is missing.

    FFmpeg plays what is there of a cut clip and says nothing.
    """
    size = size_of(reader)
    if kind == "mp4":
        _check_boxes(reader, size, name)
    elif kind == "avi":
        reader.seek(4)
        announced = 8 + int.from_bytes(reader.read(4), "little")
        # Recorders that never returned to the header leave 0 or all ones there.
        if size < announced < 0xFFFFFF00:
            raise _cut(name, announced - size)
    reader.seek(0)


def _check_boxes(reader: BinaryIO, size: int, name: str) -> None:
    """Walk the top-level boxes of an ISO base media file (ISO/IEC 14496-12, 4.2)."""
    at, kinds = 0, set()
    while at + 8 <= size:
        reader.seek(at)
        length, kind = struct.unpack(">L4s", reader.read(8))
        if length == 1:
            length = int.from_bytes(reader.read(8), "big")
        if length == 0:
            at = size
        elif length < 8:
            break  # not a box any more; some writers leave padding at the end
        kinds.add(kind)
        if at + length > size:
            raise _cut(name, at + length - size)
        at += length or size
    if b"moov" not in kinds:
        raise DecodeError(f"{name}: truncated: its index (moov) is missing", "truncated")


def _cut(name: str, missing: int) -> DecodeError:
    return DecodeError(
        f"{name}: truncated: {missing:,} bytes of its end are missing; fetch it again", "truncated"
    )
