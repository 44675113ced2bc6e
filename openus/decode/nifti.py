"""NIfTI-1 and -2 through nibabel, slice by slice through its array proxy."""

from __future__ import annotations

import logging
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder
from numpy.typing import NDArray

from openus.decode.limits import DecodeLimits, guard, product, size_of
from openus.decode.volume import FROM_X, Axis, Volume, rows_and_columns
from openus.errors import DecodeError

logging.getLogger("nibabel").setLevel(logging.CRITICAL)


class NiftiVolume(Volume):
    """NIfTI-1 or -2 in one file. Values are scaled by slope and intercept where the header has them."""

    def __init__(self, reader: BinaryIO, name: str, limits: DecodeLimits) -> None:
        size = size_of(reader)
        file: Any = reader
        with guard(name):
            begin = reader.read(348)
            second = int.from_bytes(begin[:4], "little") in (540, 0x1C020000)
            single = begin[4:7] == b"n+2" if second else begin[344:347] == b"n+1"
            reader.seek(0)
            kind: Any = nib.Nifti2Image if second else nib.Nifti1Image
            image = kind.from_file_map(
                {"header": FileHolder(fileobj=file), "image": FileHolder(fileobj=file)}
            )
            header = image.header
            stored = header.get_data_dtype()
            shape = tuple(int(n) for n in header.get_data_shape())
            offset = int(header["vox_offset"])
            self._data: Any = image.dataobj
            self.meta = {"zooms": "x".join(f"{zoom:g}" for zoom in header.get_zooms())}
        if not single:
            raise DecodeError(
                f"{name}: a NIfTI header whose pixels lie in another file is not supported", "unsupported"
            )
        if not shape or min(shape) < 1 or len(shape) > 5 or (len(shape) == 5 and shape[4] not in (1, 3)):
            raise DecodeError(f"{name}: a NIfTI of shape {shape} is no stack of pictures", "unsupported")
        if stored.kind == "c" or (stored.names and set(stored.names) - set("RGBA")):
            raise DecodeError(f"{name}: NIfTI values of type {stored} are not supported", "unsupported")
        limits.check_pixels(name, shape[0], shape[1] if len(shape) > 1 else 1)
        missing = offset + product(shape) * stored.itemsize - size
        if missing > 0:
            raise DecodeError(f"{name}: truncated: {missing:,} bytes of its pixels are missing", "truncated")
        x, y, z, t, self._channels = (*shape, 1, 1, 1, 1)[:5]
        self.shape = (t, z, y, x)
        self._rank, self._named = len(shape), bool(stored.names)
        scaled = self._data.slope != 1 or self._data.inter != 0
        self.dtype = np.dtype("u1") if self._named else np.dtype("f8") if scaled else stored

    def plane(self, t: int, axis: Axis, index: int) -> NDArray[Any]:
        key: list[Any] = [slice(None), slice(None), slice(None), t, slice(None)]  # x first, as NIfTI counts
        key[FROM_X[axis]] = index
        values = np.asarray(self._data[tuple(key[: self._rank])])
        if self._named:
            values = np.stack([values[channel] for channel in "RGB"], axis=-1)
        if values.ndim > 1:
            values = values.swapaxes(0, 1)
        channels = [3] if self._named or self._channels == 3 else []
        pixels = values.reshape(*rows_and_columns(self.shape, axis), *channels)
        return np.ascontiguousarray(pixels)
