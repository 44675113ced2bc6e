"""The steps a frame goes through, in order, with the record of what they did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from openus.clean.grey import lit_fraction, resize_short_side, to_grey
from openus.decode.frame import Frame, Pixels
from openus.manifest import CleanSettings


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A frame ready to be stored.

    pixels:  uint8 [H, W].
    sector:  x, y, width, height of the part that was kept, in pixels of the source frame.
    fraction: share of the kept pixels that cleaning altered.
    text_boxes: boxes of text that were masked; -1 where nobody looked.
    """

    pixels: Pixels
    sector: tuple[int, int, int, int]
    fraction: float = 0.0
    text_boxes: int = -1


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame that does not belong in a corpus, with a short stable reason and the figure behind it."""

    reason: str
    detail: str


def clean_frames(
    frames: Iterable[Frame], settings: CleanSettings, meta: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Frame, Cleaned | Refused]]:
    """Clean the frames of one image, clip or volume, in order, as a stream.

    `meta` are the facts the decoder found in the file (`Media.meta`).
    """
    for frame in frames:
        yield frame, clean_frame(frame.pixels, settings)


def clean_frame(pixels: Pixels, settings: CleanSettings) -> Cleaned | Refused:
    """Clean one decoded frame, uint8 [H, W] or [H, W, 3]."""
    grey = to_grey(pixels)
    height, width = grey.shape
    lit = lit_fraction(grey, settings.dark_level)
    if lit < settings.dark_fraction:
        return Refused("dark", f"{lit:.4%} of pixels above grey level {settings.dark_level}")
    size = None if settings.size == "native" else settings.size
    return Cleaned(resize_short_side(grey, size, settings.filter), (0, 0, width, height))
