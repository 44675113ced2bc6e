"""What every volume offers, and its slices as a clip.

A volume is [t, z, y, x]: x runs fastest in the file. Slices along z are pictures [y, x] (the planes as they were
acquired, for stacked 2-D frames), along y [z, x], along x [z, y]. Along t the planes of a time series are frames of a
clip: [y, x], all times of the first z, then of the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Pixels
from openus.decode.grey import Scale, collapsed, scale_for
from openus.decode.limits import DecodeLimits, guard, guarded, product
from openus.decode.policy import Clip, Wanted

Axis = Literal["z", "y", "x", "t"]
Shape = tuple[int, int, int, int]
FROM_X: dict[Axis, int] = {"x": 0, "y": 1, "z": 2}
"""Position of an axis counted from the one that runs fastest."""


class Volume(ABC):
    """Where slices come from. `shape` is [t, z, y, x]; `dtype` that of `plane`'s values."""

    shape: Shape
    dtype: np.dtype[Any]
    meta: dict[str, str]

    @abstractmethod
    def plane(self, t: int, axis: Axis, index: int) -> NDArray[Any]:
        """One slice: [rows, columns], or [rows, columns, 3] for colour."""


class VolumeClip(Clip):
    """The slices of a volume along one axis."""

    def __init__(self, volume: Volume, axis: Axis, name: str, limits: DecodeLimits) -> None:
        self._volume, self._axis, self._name = volume, axis, name
        rows, columns = rows_and_columns(volume.shape, axis)
        limits.check_pixels(name, columns, rows, volume.dtype.itemsize)
        self._slices = product(volume.shape[1:]) // (rows * columns)
        self.count: int = volume.shape[0] * self._slices
        limits.check_frames(name, self.count)

    @property
    def scale(self) -> Scale:
        """How values become uint8: one mapping for the whole volume, whatever the axis or selection."""
        if self._scale is None:
            times, depth, _, _ = self._volume.shape
            planes = (self._volume.plane(t, "z", z) for t in range(times) for z in range(depth))
            self._scale = scale_for(self._volume.dtype, guarded(self._name, planes))
        return self._scale

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        for index in filter(wanted, range(self.count)):
            if self._axis == "t":
                z, t = divmod(index, self._volume.shape[0])
            else:
                t, z = divmod(index, self._slices)
            with guard(self._name):
                plane = self._volume.plane(t, "z" if self._axis == "t" else self._axis, z)
            pixels = self.scale(plane)
            yield index, collapsed(pixels) if pixels.ndim == 3 else pixels


def rows_and_columns(shape: Shape, axis: Axis) -> tuple[int, int]:
    """Size of the pictures along an axis."""
    _, depth, height, width = shape
    return {"z": (height, width), "t": (height, width), "y": (depth, width), "x": (depth, height)}[axis]
