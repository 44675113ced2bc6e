"""Files that a person gives: opened, decoded, and cleaned and sized as in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from openus.clean import Refused, clean_frames
from openus.decode import Media, open_media
from openus.errors import DecodeError
from openus.manifest import CleanSettings, FramePolicy
from usfmae.tasks.data.square import square
from usfmae.tasks.recipe import Aspect

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Looks:
    """How an image becomes a network's input: cleaning, then a square of `size` pixels."""

    cleaning: CleanSettings
    size: int
    aspect: Aspect = "stretch"


@dataclass(frozen=True)
class Prepared:
    """One frame: uint8 [S, S] in `image`, or None with the reason why cleaning left it out (``dark``)."""

    index: int
    image: Grey | None
    reason: str = ""


@contextmanager
def open_file(path: Path, policy: FramePolicy, looks: Looks) -> Iterator[tuple[Media, Iterator[Prepared]]]:
    """What a file is, and its frames one at a time, ready for a network.

    Raises DecodeError, also while iterating; OSError where the file is not there.
    """

    def beside(name: str) -> BinaryIO:
        return open_beside(path, name)

    with path.open("rb") as stream:
        media = open_media(stream, str(path), policy=policy, sibling=beside)
        yield media, _prepare(media, looks)


def _prepare(media: Media, looks: Looks) -> Iterator[Prepared]:
    for frame, cleaned in clean_frames(media.frames(), looks.cleaning, media.meta):
        if isinstance(cleaned, Refused):
            yield Prepared(frame.index, None, cleaned.reason)
        else:
            yield Prepared(frame.index, square(cleaned.pixels, looks.size, looks.aspect))


def open_beside(path: Path, name: str) -> BinaryIO:
    """A file next to `path` (raw data of a header); DecodeError for anything outside its folder."""
    other = path.parent / name
    if other.resolve().parent != path.parent.resolve():
        raise DecodeError(
            f"{path}: refers to '{name}', which is not beside it; refused", reason="unsupported"
        )
    return other.open("rb")


def message(path: Path, error: DecodeError | OSError) -> str:
    """One line that names the file once."""
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a folder; name the files in it"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"
