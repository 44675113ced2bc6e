"""Clips that lie one after another in one HDF5 file, with arrays that name each frame's clip and number.

Such a file counts as a folder of clips (see `openus.manifest.Stack`): `clips` lists them, `open_clip` reads one
of them as a stream, without ever holding more than a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import h5py
import numpy as np

from openus.decode.frame import Frame, Media
from openus.errors import DecodeError
from openus.manifest import FramePolicy, Stack

_MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of a stack: `rows` are the places of its frames in the array, in the order of time."""

    name: str
    rows: tuple[int, ...]


def clips(file: BinaryIO, name: str, stack: Stack) -> list[Clip]:
    """The clips of an opened HDF5 file called `name`, sorted by their names.

    Raises:
        DecodeError: not HDF5, an array is missing, or the arrays do not belong together.
    """
    with _opened(file, name) as archive:
        pixels = _array(archive, name, stack.pixels)
        if (
            pixels.ndim not in (3, 4)
            or pixels.dtype != np.uint8
            or (pixels.ndim == 4 and pixels.shape[3] != 3)
        ):
            raise DecodeError(
                f"{name}: array '{stack.pixels}' is {pixels.dtype} {pixels.shape}; expected uint8 [n, H, W] or "
                "[n, H, W, 3]",
                reason="unsupported",
            )
        count = len(pixels)
        owners = _column(archive, name, stack.clip, count)
        order = _column(archive, name, stack.order, count) if stack.order else [str(i) for i in range(count)]
    rows: dict[str, list[tuple[int, int]]] = {}
    for row, (owner, number) in enumerate(zip(owners, order, strict=True)):
        if not owner or "/" in owner or not number.lstrip("-").isdigit():
            raise DecodeError(
                f"{name}: frame {row} has clip '{owner}' and number '{number}'", reason="corrupt"
            )
        rows.setdefault(owner, []).append((int(number), row))
    return [Clip(owner, tuple(row for _, row in sorted(found))) for owner, found in sorted(rows.items())]


def open_clip(file: BinaryIO, name: str, stack: Stack, clip: Clip, policy: FramePolicy) -> Media:
    """One clip as media: frames uint8 [H, W] or [H, W, 3] after the stride and cap of `policy`.

    `Frame.index` counts within the clip, before the policy. Rotation and mirroring do not apply to clips.

    Raises:
        DecodeError: while opening or streaming, if the file is not as `clips` found it.
    """

    def frames() -> Iterator[Frame]:
        with _opened(file, name) as archive:
            pixels = _array(archive, name, stack.pixels)
            for index in chosen(len(clip.rows), policy):
                try:
                    picture = pixels[clip.rows[index]]
                except (OSError, ValueError, IndexError) as error:
                    raise DecodeError(
                        f"{name}: frame {index} of {clip.name} cannot be read: {error}"
                    ) from error
                yield Frame(np.ascontiguousarray(picture, dtype=np.uint8), index)

    return Media("hdf5", "frame", len(clip.rows), frames)


def chosen(count: int, policy: FramePolicy) -> Sequence[int]:
    """Which of `count` frames a policy takes: every `stride`-th, of those at most `cap`, evenly spaced."""
    strided = range(0, count, policy.stride)
    if policy.cap is None or len(strided) <= policy.cap:
        return strided
    return [strided[i * len(strided) // policy.cap] for i in range(policy.cap)]


def _opened(file: BinaryIO, name: str) -> Any:
    try:
        return h5py.File(file, "r")
    except (OSError, ValueError) as error:
        raise DecodeError(f"{name}: not a readable HDF5 file: {error}", reason="corrupt") from error


def _array(archive: Any, name: str, key: str) -> Any:
    # get(…, getlink) would follow nothing: a link out of the file must not be opened.
    if not isinstance(archive.get(key, getlink=True), h5py.HardLink):
        held = ", ".join(sorted(archive)[:12]) or "nothing"
        raise DecodeError(f"{name}: no array '{key}' in it (it holds {held})", reason="unsupported")
    found = archive[key]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise DecodeError(f"{name}: '{key}' is not an array inside this file", reason="unsupported")
    return found


def _column(archive: Any, name: str, key: str, count: int) -> list[str]:
    values = _array(archive, name, key)
    if values.shape != (count,) or values.dtype.itemsize > _MAX_TEXT:
        raise DecodeError(
            f"{name}: array '{key}' has shape {values.shape}; expected ({count},), one short value per frame",
            reason="unsupported",
        )
    return [
        v.decode("utf-8", "replace").strip() if isinstance(v, bytes) else str(v).strip() for v in values[:]
    ]
