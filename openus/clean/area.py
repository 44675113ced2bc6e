"""Shrinking by area, the costliest step of a build after decoding: FFmpeg's scaler, five times as fast as OpenCV's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from openus.decode.frame import Pixels

if TYPE_CHECKING:  # FFmpeg is loaded when something is shrunk: a prediction for one picture needs none of it
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

_LEAST = 8  # pixels of a side of the result, below which FFmpeg's filters are too coarse
_MOST = 16  # times that a side becomes shorter, above which they are
_LARGEST = 1 << 26  # pixels: FFmpeg refuses pictures not much larger


def shrink(pixels: Pixels, width: int, height: int) -> Pixels:
    """uint8 [H, W] as uint8 [height, width], each pixel the mean of the area that falls to it.

    Within 2 grey levels of `cv2.resize` with INTER_AREA, which also does what FFmpeg cannot: enlarging, results of
    a few pixels a side, and very large pictures.
    """
    rows, columns = pixels.shape
    fits = _LEAST <= height <= rows <= _MOST * height and _LEAST <= width <= columns <= _MOST * width
    if not fits or pixels.size > _LARGEST:
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if (rows, columns) == (height, width):
        return pixels.copy()
    from av import VideoFrame

    # A frame of FFmpeg's own has room behind its rows, over which the vector code reads on.
    frame = VideoFrame(columns, rows, "gray")
    _plane(frame)[...] = pixels
    scaler = _scalers.of((columns, rows, width, height))
    return _plane(scaler.reformat(frame, width, height, interpolation=_how(), threads=1)).copy()


@cache
def _how() -> int:
    """By area, to the bit the same on every processor: FFmpeg's faster forms round differently on each."""
    from av.video.reformatter import Interpolation

    return int(Interpolation.AREA | Interpolation.BITEXACT | Interpolation.ACCURATE_RND)


def _plane(frame: VideoFrame) -> Pixels:
    """The pixels of a grey frame, uint8 [height, width], as a view."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)[:, : frame.width]


class _Scalers(threading.local):
    """The scalers of this thread for the last few pairs of sizes: to set one up takes half as long as to use it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], VideoReformatter] = OrderedDict()

    def of(self, sizes: tuple[int, ...]) -> VideoReformatter:
        from av.video.reformatter import VideoReformatter

        scaler = self._known.pop(sizes, None) or VideoReformatter()
        self._known[sizes] = scaler
        if len(self._known) > 16:
            self._known.popitem(last=False)
        return scaler


_scalers = _Scalers()
