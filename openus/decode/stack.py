"""Clips that lie one after another in one HDF5 file, with arrays that name each frame's clip and number.

Such a file counts as a folder of clips (see `openus.manifest.Stack`): `clips` lists them, `open_clip` reads one
of them as a stream, without ever holding more than a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from openus.decode.frame import Media, Pixels
from openus.decode.limits import DecodeLimits, guard
from openus.decode.policy import Clip, Wanted, selected
from openus.errors import DecodeError
from openus.manifest import FramePolicy, Stack

LIMITS = DecodeLimits()
_MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class StackedClip:
    """A clip of a stack: `rows` are the places of its frames in the array, in the order of time."""

    name: str
    rows: tuple[int, ...]


def clips(file: BinaryIO, name: str, stack: Stack) -> list[StackedClip]:
    """The clips of an opened HDF5 file called `name`, sorted by their names.

    Raises:
        DecodeError: not HDF5, an array is missing, or the arrays do not belong together.
    """
    import h5py  # heavy, and few files are HDF5

    with guard(name), h5py.File(file, "r") as archive:
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
        if not owner or "/" in owner or not number.removeprefix("-").isdecimal():
            raise DecodeError(
                f"{name}: frame {row} has clip '{owner}' and number '{number}'", reason="corrupt"
            )
        rows.setdefault(owner, []).append((int(number), row))
    return [
        StackedClip(owner, tuple(row for _, row in sorted(found))) for owner, found in sorted(rows.items())
    ]


def open_clip(
    file: BinaryIO,
    name: str,
    stack: Stack,
    clip: StackedClip,
    policy: FramePolicy,
    limits: DecodeLimits = LIMITS,
) -> Media:
    """One clip as media: frames uint8 [H, W] or [H, W, 3] under `policy`, indexed within the clip.

    Raises:
        DecodeError: while streaming, if the file is not as `clips` found it.
    """
    rows = _Rows(file, name, stack.pixels, clip.rows, limits)
    return Media("hdf5", "frame", rows.count, partial(selected, rows, policy, limits, name))


class _Rows(Clip):
    """Some pictures of an array, in the order given."""

    def __init__(
        self, file: BinaryIO, name: str, key: str, rows: tuple[int, ...], limits: DecodeLimits
    ) -> None:
        self._file, self._name, self._key, self._rows, self._limits = file, name, key, rows, limits
        self.count = len(rows)

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        import h5py

        with guard(self._name):
            archive = h5py.File(self._file, "r")
        with archive:
            pixels = _array(archive, self._name, self._key)
            self._limits.check_pixels(self._name, pixels.shape[2], pixels.shape[1])
            for index, row in enumerate(self._rows):
                if wanted(index):
                    with guard(self._name):
                        picture = np.ascontiguousarray(pixels[row], dtype=np.uint8)
                    yield index, picture


def _array(archive: Any, name: str, key: str) -> Any:
    import h5py

    # Asked for as a link, nothing is followed: one that leads out of the file must not be opened.
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
