"""Arrays: HDF5 (and MATLAB 7.3), MATLAB 5-7.2, NumPy. Nothing pickled is ever loaded.

Which array is the picture, unless its name is given: numeric ones of 2 to 4 dimensions only; a name that speaks of
masks or labels comes last; then three and four dimensions before two; then the one with most values; then by name.

How it is read: [H, W]; [H, W, 3] colour; [N, H, W]; [N, H, W, 1 or 3]. MATLAB counts frames last: [H, W, N],
[H, W, 1 or 3, N]. N are the frames.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from openus.decode.frame import Pixels
from openus.decode.grey import collapsed, scale_for
from openus.decode.limits import DecodeLimits, guard, guarded, product, size_of, spooled
from openus.decode.policy import Clip, Wanted
from openus.errors import DecodeError

_ANNOTATION = re.compile(r"(?i)mask|label|seg|annot|contour|ground|(^|[_/])gt($|[_/\d])")
_KINDS = "biuf"
Load = Callable[[Any], NDArray[Any]]
Shape = tuple[int, ...]


class ArrayClip(Clip):
    """Pictures of an array of `shape`; `load(key)` reads `array[key]`, a part of it. `last`: frames come last."""

    def __init__(
        self, shape: Shape, dtype: np.dtype[Any], load: Load, last: bool, name: str, limits: DecodeLimits
    ) -> None:  # fmt: skip
        self._dtype, self._load, self._name = dtype, load, name
        self._frames_at, rows, columns, self._colour = layout(shape, last, name)
        self.count: int = 1 if self._frames_at is None else shape[self._frames_at]
        self._rank = len(shape)
        limits.check_pixels(name, columns, rows, dtype.itemsize)
        limits.check_frames(name, self.count)

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        if self._scale is None:
            everything = (self._picture(index) for index in range(self.count))
            self._scale = scale_for(self._dtype, guarded(self._name, everything))
        for index in filter(wanted, range(self.count)):
            with guard(self._name):
                pixels = self._scale(self._picture(index))
            yield index, collapsed(pixels) if pixels.ndim == 3 else pixels

    def _picture(self, index: int) -> NDArray[Any]:
        key: list[Any] = [slice(None)] * self._rank
        if self._frames_at is not None:
            key[self._frames_at] = index
        picture = np.asarray(self._load(tuple(key)))
        return picture[..., :3] if self._colour else picture.reshape(picture.shape[:2])


def layout(shape: Shape, last: bool, name: str) -> tuple[int | None, int, int, bool]:
    """(axis of the frames or None, rows, columns, colour) of an array of pictures."""
    channels = shape[2] if last and len(shape) == 4 else shape[-1]
    if len(shape) == 2:
        return None, shape[0], shape[1], False
    if len(shape) == 3 and shape[2] in (3, 4):
        return None, shape[0], shape[1], True
    if len(shape) == 3:
        return (2, shape[0], shape[1], False) if last else (0, shape[1], shape[2], False)
    if len(shape) == 4 and channels in (1, 3, 4):
        return (3, shape[0], shape[1], channels > 1) if last else (0, shape[1], shape[2], channels > 1)
    raise DecodeError(f"{name}: an array of shape {shape} is no row of pictures", "unsupported")


def chosen(found: Mapping[str, tuple[Shape, np.dtype[Any]]], wanted: str | None, name: str) -> str:
    """The name of the array to read, by the rule of the module or as given."""
    if wanted is not None:
        if wanted.strip("/") in found:
            return wanted.strip("/")
        raise DecodeError(
            f"{name}: has no array {wanted!r} (has: {', '.join(sorted(found)[:10])})", "unsupported"
        )
    pictures = [
        key for key, (shape, dtype) in found.items()
        if dtype.kind in _KINDS and 2 <= len(shape) <= 4 and min(shape) > 0 and product(shape) > 1
    ]  # fmt: skip
    if not pictures:
        raise DecodeError(
            f"{name}: holds no array of pictures (has: {', '.join(sorted(found)[:10])})", "unsupported"
        )

    def rank(key: str) -> tuple[bool, bool, int, str]:
        shape, _ = found[key]
        return _ANNOTATION.search(key) is not None, len(shape) < 3, -product(shape), key

    return min(pictures, key=rank)


def open_npy(reader: BinaryIO, name: str, limits: DecodeLimits) -> ArrayClip:
    """A NumPy .npy file."""
    with guard(name):
        shape, fortran, dtype, offset = _npy_header(reader, name)
        size = size_of(reader)
    missing = offset + product(shape) * dtype.itemsize - size
    if missing > 0:
        raise DecodeError(f"{name}: truncated: {missing:,} bytes of its values are missing", "truncated")
    return ArrayClip(shape, dtype, _raw(reader, shape, fortran, dtype, offset), False, name, limits)


def _npy_header(reader: BinaryIO, name: str) -> tuple[Shape, bool, np.dtype[Any], int]:
    reader.seek(0)
    version = npy.read_magic(reader)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(reader)
    if dtype.hasobject:
        raise DecodeError(f"{name}: holds pickled Python objects, which are never loaded", "unsupported")
    if dtype.kind not in _KINDS:
        raise DecodeError(f"{name}: values of type {dtype} are no pictures", "unsupported")
    return tuple(int(n) for n in shape), bool(fortran), dtype, reader.tell()


def _raw(reader: BinaryIO, shape: Shape, fortran: bool, dtype: np.dtype[Any], offset: int) -> Load:
    """Parts of an array that lies in a file as it is, read frame by frame where the frames are contiguous."""
    stride = product(shape[1:]) * dtype.itemsize

    def load(key: Any) -> NDArray[Any]:
        if not fortran and isinstance(key[0], int):
            reader.seek(offset + key[0] * stride)
            return np.frombuffer(reader.read(stride), dtype).reshape(shape[1:])
        reader.seek(offset)
        whole = np.frombuffer(reader.read(product(shape) * dtype.itemsize), dtype)
        part: NDArray[Any] = whole.reshape(shape, order="F" if fortran else "C")[key]
        return part

    return load


def open_npz(reader: BinaryIO, name: str, wanted: str | None, limits: DecodeLimits) -> ArrayClip:
    """An .npz file: the chosen array is expanded once, within the limits."""
    found: dict[str, tuple[Shape, np.dtype[Any]]] = {}
    with guard(name), zipfile.ZipFile(reader) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as member:
                    head = io.BytesIO(member.read(1 << 16))
                try:
                    shape, _, dtype, _ = _npy_header(head, name)
                except DecodeError:
                    continue  # pickled or no numbers: it is simply not a candidate
                found[info.filename[:-4]] = shape, dtype
        if not found:
            raise DecodeError(
                f"{name}: is a zip without arrays of numbers, or holds only pickled objects", "unsupported"
            )
        member_name = chosen(found, wanted, name) + ".npy"
        stored = archive.getinfo(member_name).compress_size
        with archive.open(member_name) as member:
            return open_npy(spooled(member, limits, name, stored), name, limits)  # type: ignore[arg-type]


def open_hdf5(reader: BinaryIO, name: str, wanted: str | None, limits: DecodeLimits) -> ArrayClip:
    """An HDF5 file, or a MATLAB 7.3 one (whose arrays lie there with their axes reversed)."""
    import h5py  # heavy, and few files are HDF5

    reader.seek(0)
    matlab = reader.read(6) == b"MATLAB"
    with guard(name):
        file = h5py.File(reader, "r")
        found: dict[str, tuple[Shape, np.dtype[Any]]] = {}

        def visit(key: str, item: Any) -> None:
            # External and virtual data sets name other files of this machine: left alone.
            if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
                shape = tuple(int(n) for n in item.shape or ())
                found[key] = (shape[::-1] if matlab else shape), item.dtype

        file.visititems(visit)
        key = chosen(found, wanted, name)
        shape, dtype = found[key]
        dataset = file[key]
        chunk = product(dataset.chunks or (1,)) * dtype.itemsize
    limits.check_memory(name, chunk)

    def load(part: Any) -> NDArray[Any]:
        if not matlab:
            return np.asarray(dataset[part])
        return np.asarray(dataset[part[::-1]]).T

    return ArrayClip(shape, dtype, load, matlab, name, limits)


def open_mat(reader: BinaryIO, name: str, wanted: str | None, limits: DecodeLimits) -> ArrayClip:
    """A MATLAB 5 to 7.2 file: the chosen array is read as a whole."""
    from scipy.io import loadmat, whosmat  # heavy, and few files are MATLAB's

    file: Any = reader  # scipy takes open files, its annotations do not say so
    kinds = {"logical": "?", "single": "f4", "double": "f8", "char": "U1", "cell": "O", "struct": "O"}
    with guard(name):
        reader.seek(0)
        found: dict[str, tuple[Shape, np.dtype[Any]]] = {
            key: (tuple(int(n) for n in shape), np.dtype(kinds.get(kind, kind if "int" in kind else "O")))
            for key, shape, kind in whosmat(file)
        }
        key = chosen(found, wanted, name)
        limits.check_memory(name, product(found[key][0]) * 8)
        reader.seek(0)
        values = np.asarray(loadmat(file, variable_names=[key])[key])
    return ArrayClip(values.shape, values.dtype, values.__getitem__, True, name, limits)
