"""MetaImage (MHA, MHD with its raw file) and NRRD through SimpleITK.

ITK opens any path a header names, so headers are never given to it as they are: what it reads is a copy whose pixels
lie in the same file, or beside it under a name checked here.
"""

from __future__ import annotations

import importlib
import io
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass
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


_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetaHeader:
    """The fields of a MetaImage header that say how its pixels lie."""

    sizes: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    element: str
    big_endian: bool
    compressed: bool
    skip: int
    """Bytes of the data file before its pixels; -1 where they are the end of it."""
    data_file: str
    end: int
    """Where the header ends, and the pixels of a LOCAL file begin."""

    @property
    def pixel_bytes(self) -> int:
        return product(self.sizes) * self.channels * _TYPES[self.element]

    def written(self) -> bytes:
        """A plain header for the same pixels, uncompressed and in the same file."""
        return (
            f"ObjectType = Image\nNDims = {len(self.sizes)}\nBinaryData = True\n"
            f"BinaryDataByteOrderMSB = {self.big_endian}\nCompressedData = False\n"
            f"ElementSpacing = {' '.join(map(str, self.spacing))}\nDimSize = {' '.join(map(str, self.sizes))}\n"
            f"ElementNumberOfChannels = {self.channels}\nElementType = {self.element}\nElementDataFile = LOCAL\n"
        ).encode()


def read_meta_header(head: bytes, name: str) -> MetaHeader:
    """Read the header at the beginning of `head`. ITK's own reader prints what it dislikes to the terminal."""
    last = re.search(rb"(?im)^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n", head)
    if last is None:
        raise DecodeError(f"{name}: truncated: its header does not say where the pixels are", "truncated")
    lines = head[: last.start()].decode("latin-1").splitlines()
    fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    try:
        sizes = tuple(int(n) for n in fields["dimsize"].split())
        spacing = tuple(float(n) for n in fields.get("elementspacing", "").split())
        channels, skip = int(fields.get("elementnumberofchannels", 1)), int(fields.get("headersize", 0))
        element = fields["elementtype"].upper().removesuffix("_ARRAY")
        dimensions = int(fields["ndims"])
    except (KeyError, ValueError) as error:
        raise DecodeError(f"{name}: corrupt: its header has no proper {error}", "corrupt") from error
    if (
        element not in _TYPES
        or not 2 <= dimensions <= 4
        or fields.get("binarydata", "true").lower() != "true"
    ):
        raise DecodeError(
            f"{name}: {dimensions}-D MetaImages of {element} values are not supported", "unsupported"
        )
    if len(sizes) != dimensions or min(sizes) < 1 or channels < 1:
        raise DecodeError(f"{name}: corrupt: its header gives the sizes {sizes}", "corrupt")
    if len(spacing) != dimensions or not all(0 < step < 1e9 for step in spacing):
        spacing = (1.0,) * dimensions
    order = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false"))
    compressed = fields.get("compresseddata", "false").lower() == "true"
    file = last[1].decode("utf-8", "replace")
    return MetaHeader(
        sizes, spacing, channels, element, order.lower() == "true", compressed, skip, file, last.end()
    )


def lay_out_meta_image(
    reader: BinaryIO, name: str, sibling: Sibling | None, folder: str, limits: DecodeLimits
) -> tuple[str, int | None]:
    """A MetaImage with uncompressed pixels in the same file, in `folder`; (path, bytes of pixels in it).

    Expanded beforehand because ITK reads a compressed one as a whole for every slice.
    """
    reader.seek(0)
    header = read_meta_header(reader.read(HEADER), name)
    limits.check_pixels(name, header.sizes[0], header.sizes[1])
    path = f"{folder}/volume.mha"
    with open(path, "wb") as out:  # noqa: PTH123
        begin = out.write(header.written())
        if header.data_file.upper() == "LOCAL":
            reader.seek(header.end)
            _copy_pixels(reader, out, header, name, limits)
        else:
            with _beside(header.data_file, name, sibling) as raw:
                size = size_of(raw)
                raw.seek(max(size - header.pixel_bytes, 0) if header.skip < 0 else header.skip)
                _copy_pixels(raw, out, header, name, limits)
        return path, out.tell() - begin


def _copy_pixels(
    source: BinaryIO, out: BinaryIO, header: MetaHeader, name: str, limits: DecodeLimits
) -> None:
    if not header.compressed:
        shutil.copyfileobj(source, out, MIB)
        return
    expander, expanded = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    stored = _left(source)
    try:
        while not expander.eof and (chunk := expander.unconsumed_tail or source.read(MIB)):
            piece = expander.decompress(chunk, MIB)
            expanded += len(piece)
            limits.check_expanded(name, expanded, stored)
            out.write(piece)
    except zlib.error as error:
        raise DecodeError(f"{name}: its compressed pixels are broken ({error})", "corrupt") from error
    if not expander.eof:
        raise DecodeError(f"{name}: truncated: its compressed pixels end early", "truncated")


def _left(source: BinaryIO) -> int:
    """Bytes from here to the end."""
    here = source.tell()
    end = source.seek(0, io.SEEK_END)
    source.seek(here)
    return end - here


def lay_out_nrrd(
    reader: BinaryIO, name: str, sibling: Sibling | None, folder: str, limits: DecodeLimits
) -> tuple[str, int | None]:
    """An NRRD, with the data file it names if any, in `folder`; (path, bytes of pixels where they are raw)."""
    reader.seek(0)
    head = reader.read(HEADER)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    _check_nrrd(text, name, limits)
    field = re.search(rb"(?im)^data ?file:[ \t]*([^\r\n]*?)[ \t]*$", text)
    raw = re.search(rb"(?im)^encoding:[ \t]*raw", text) is not None
    if field is None:
        if end is None:
            raise DecodeError(f"{name}: truncated: its header has no end", "truncated")
        available = size_of(reader) - end.end()
        return on_disk(reader, folder, "volume.nrrd"), available if raw else None
    data_name = field[1].decode("utf-8", "replace")
    with _beside(data_name, name, sibling) as data:
        size = size_of(data)
        limits.check_memory(name, size)
        on_disk(data, folder, data_name)
    reader.seek(0)
    return on_disk(reader, folder, "volume.nhdr"), size if raw else None


def _check_nrrd(text: bytes, name: str, limits: DecodeLimits) -> None:
    """Refuse on sight what ITK does not survive (more dimensions than it has) or would first make room for."""
    field = re.search(rb"(?im)^sizes:[ \t]*([^\r\n]*)", text)
    try:
        sizes = tuple(int(n) for n in field[1].split()) if field else ()
    except ValueError:
        sizes = ()
    if not 2 <= len(sizes) <= 5 or min(sizes) < 1:
        raise DecodeError(f"{name}: an NRRD of the sizes {sizes} is not supported", "unsupported")
    if re.search(rb"(?im)^type:[ \t]*block", text):
        raise DecodeError(f"{name}: an NRRD of opaque blocks is not supported", "unsupported")
    limits.check_memory(name, product(sizes))


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
