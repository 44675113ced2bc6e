"""What decoding hands on: frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

FrameKind = Literal["image", "frame", "slice"]
Pixels = NDArray[np.uint8]
Sibling = Callable[[str], BinaryIO]
"""Opens a file that lies beside the one being decoded (the raw data of an .mhd, say)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    pixels: uint8 [H, W] grey or uint8 [H, W, 3] RGB, C-contiguous.
    index:  0-based position in its clip or volume before any frame policy; 0 for a single image.
    file:   the bytes of the file, where it is a still picture and decoding them gives just these pixels.
    """

    pixels: Pixels
    index: int = 0
    file: bytes | None = None


@dataclass(slots=True)
class Media:
    """An opened file: what it is, and its frames as a stream (iterate `frames()` once).

    format:   short name of what the content turned out to be: "png", "dicom", "nifti", "mp4", …
    kind:     "image" for a single picture, "frame" for frames of a clip, "slice" for slices of a volume.
    count:    number of frames the container announces, before any policy; None where it does not say.
    meta:     facts worth keeping (spacing, fps, DICOM attributes of the allow-list); never identifying.
    """

    format: str
    kind: FrameKind
    count: int | None
    frames: Callable[[], Iterator[Frame]]
    meta: Mapping[str, str] = field(default_factory=dict)
