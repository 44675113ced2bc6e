"""MetaImage (MHA, MHD with its raw file) and NRRD through SimpleITK.

ITK opens any path a header names, so headers are never given to it as they are: what it reads is a copy whose pixels
lie in the same file, or beside it under a name checked here.
"""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from openus.decode.frame import Sibling
from openus.decode.limits import MIB, DecodeLimits, guard, on_disk, product, size_of
from openus.decode.volume import FROM_X, Axis, Volume, rows_and_columns
from openus.errors import DecodeError

HEADER = 1 << 16


class ITKVolume(Volume):
    """MetaImage or NRRD. MetaImages are read slice by slice, NRRD as a whole."""

    def __init__(
        self, reader: BinaryIO, kind: str, name: str, sibling: Sibling | None, limits: DecodeLimits
    ) -> None:
        sitk: Any = importlib.import_module("SimpleITK")  # untyped, and heavy: only when one is met
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        self._sitk = sitk
        # SimpleITK opens paths only; the copies go when the volume does.
        self._folder = tempfile.TemporaryDirectory(prefix="openus-")
        lay_out = lay_out_meta_image if kind == "mha" else lay_out_nrrd
        path, available = lay_out(reader, name, sibling, self._folder.name, limits)
        with guard(name):
            self._reader = info = sitk.ImageFileReader()
            info.SetFileName(path)
            info.SetImageIO("MetaImageIO" if kind == "mha" else "NrrdImageIO")
            info.ReadImageInformation()
            self._sizes = sizes = tuple(int(n) for n in info.GetSize())
            channels, pixel = int(info.GetNumberOfComponents()), info.GetPixelID()
            self.meta = {"spacing": "x".join(f"{step:g}" for step in info.GetSpacing())}
            sample = sitk.GetArrayViewFromImage(sitk.Image([1] * len(sizes), pixel))
        if len(sizes) > 4 or min(sizes) < 1 or channels not in (1, 3):
            raise DecodeError(
                f"{name}: a volume of size {sizes} with {channels} channels is not supported", "unsupported"
            )
        self.dtype = np.dtype(sample.dtype)
        needed = product(sizes) * channels * self.dtype.itemsize
        if available is not None and available < needed:
            raise DecodeError(
                f"{name}: truncated: {needed - available:,} bytes of its pixels are missing", "truncated"
            )
        x, y, z, t = (*sizes, 1, 1)[:4]
        self.shape = (t, z, y, x)
        self._channels = [3] if channels == 3 else []
        self._whole: NDArray[Any] | None = None
        if kind != "mha":
            limits.check_memory(name, needed)
            with guard(name):
                self._whole = sitk.GetArrayFromImage(info.Execute()).reshape(*self.shape, *self._channels)

    def plane(self, t: int, axis: Axis, index: int) -> NDArray[Any]:
        if self._whole is not None:
            return np.ascontiguousarray(self._whole[t].take(index, axis=2 - FROM_X[axis]))
        rank = len(self._sizes)
        start, extent = [0, 0, 0, t], [*self._sizes[:3], 1, 1][:4]
        start[FROM_X[axis]], extent[FROM_X[axis]] = index, 1
        self._reader.SetExtractIndex(start[:rank])
        self._reader.SetExtractSize(extent[:rank])
        values = self._sitk.GetArrayFromImage(self._reader.Execute())
        return np.ascontiguousarray(values.reshape(*rows_and_columns(self.shape, axis), *self._channels))


def lay_out_meta_image(
    reader: BinaryIO, name: str, sibling: Sibling | None, folder: str, limits: DecodeLimits
) -> tuple[str, int | None]:
    """A MetaImage with uncompressed pixels in the same file, in `folder`; (path, bytes of pixels in it).

    Expanded beforehand because ITK reads a compressed one as a whole for every slice.
    """
    reader.seek(0)
    head = reader.read(HEADER)
    field = re.search(rb"(?im)^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n", head)
    if field is None:
        raise DecodeError(f"{name}: truncated: its header does not say where the pixels are", "truncated")
    compressed = re.search(rb"(?im)^[ \t]*CompressedData[ \t]*=[ \t]*True", head[: field.start()]) is not None
    skip = re.search(rb"(?im)^[ \t]*HeaderSize[ \t]*=[ \t]*(-?\d+)", head[: field.start()])
    gone = rb"(?im)^[ \t]*(CompressedData|CompressedDataSize|HeaderSize|ElementDataFile)[ \t]*=[^\n]*\n"
    header = re.sub(gone, b"", head[: field.start()]) + b"ElementDataFile = LOCAL\n"
    data_name = field[1].decode("utf-8", "replace")
    path = f"{folder}/volume.mha"
    with open(path, "wb") as out:  # noqa: PTH123
        out.write(header)
        if data_name.upper() == "LOCAL":
            reader.seek(field.end())
            _copy_pixels(reader, out, compressed, name, limits)
        else:
            with _beside(data_name, name, sibling) as raw:
                raw.seek(max(int(skip[1]), 0) if skip else 0)
                _copy_pixels(raw, out, compressed, name, limits)
        return path, out.tell() - len(header)


def _copy_pixels(source: BinaryIO, out: BinaryIO, compressed: bool, name: str, limits: DecodeLimits) -> None:
    if not compressed:
        shutil.copyfileobj(source, out, MIB)
        return
    expander, left = zlib.decompressobj(zlib.MAX_WBITS | 32), limits.spool
    try:
        while not expander.eof and (chunk := expander.unconsumed_tail or source.read(MIB)):
            piece = expander.decompress(chunk, MIB)
            left -= len(piece)
            if left < 0:
                raise DecodeError(f"{name}: it expands to more than {limits.spool:,} bytes", "too-large")
            out.write(piece)
    except zlib.error as error:
        raise DecodeError(f"{name}: its compressed pixels are broken ({error})", "corrupt") from error
    if not expander.eof:
        raise DecodeError(f"{name}: truncated: its compressed pixels end early", "truncated")


def lay_out_nrrd(
    reader: BinaryIO, name: str, sibling: Sibling | None, folder: str, limits: DecodeLimits
) -> tuple[str, int | None]:
    """An NRRD, with the data file it names if any, in `folder`; (path, bytes of pixels where they are raw)."""
    reader.seek(0)
    head = reader.read(HEADER)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    field = re.search(rb"(?im)^data ?file:[ \t]*([^\r\n]*?)[ \t]*$", text)
    raw = re.search(rb"(?im)^encoding:[ \t]*raw", text) is not None
    if field is None:
        if end is None:
            raise DecodeError(f"{name}: truncated: its header has no end", "truncated")
        available = size_of(reader) - end.end() if raw else None
        return on_disk(reader, folder, "volume.nrrd"), available
    data_name = field[1].decode("utf-8", "replace")
    with _beside(data_name, name, sibling) as data:
        size = size_of(data)
        limits.check_memory(name, size)
        on_disk(data, folder, data_name)
    reader.seek(0)
    return on_disk(reader, folder, "volume.nhdr"), size if raw else None


def _beside(data_name: str, name: str, sibling: Sibling | None) -> BinaryIO:
    """Open the file with the pixels, which must be a plain file name beside the header."""
    if Path(data_name).name != data_name or not re.fullmatch(r"[^%\s/\\]+", data_name) or data_name == "LIST":
        raise DecodeError(
            f"{name}: its pixels lie in {data_name!r}, which is no single file beside it", "unsupported"
        )
    if sibling is None:
        raise DecodeError(
            f"{name}: its pixels lie in {data_name!r} beside it, which was not given", "unsupported"
        )
    return sibling(data_name)
