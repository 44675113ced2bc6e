"""DICOM: single pictures and cines, frame by frame, with the pixels a viewer would show.

Palettes are applied, YBR becomes RGB, MONOCHROME1 is inverted, and values deeper than 8 bits go through the modality
LUT and the window or VOI LUT of the file (PS3.3 C.11.1, C.11.2), or, without one, through the range of the whole file.
Of the header only an allow-list of attributes is handed on; nothing that could identify a person is read into it.
"""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pydicom
import simplejpeg
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import get_expected_length, iter_pixels

from openus.decode.frame import Pixels
from openus.decode.grey import Scale, collapsed, scale_for
from openus.decode.limits import DecodeLimits, guard, guarded, size_of
from openus.decode.lut import apply_palette, apply_voi
from openus.decode.policy import Clip, Wanted
from openus.errors import DecodeError

logging.getLogger("pydicom").setLevel(logging.CRITICAL)

KEPT = (
    "Modality", "Manufacturer", "ManufacturerModelName", "TransducerType", "BodyPartExamined", "Rows", "Columns",
    "NumberOfFrames", "BitsStored", "PhotometricInterpretation", "PixelSpacing", "FrameTime", "CineRate",
    "RecommendedDisplayFrameRate", "UltrasoundColorDataPresent", "LossyImageCompression", "BurnedInAnnotation",
)  # fmt: skip
REGION = (
    "RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1", "RegionSpatialFormat",
    "RegionDataType", "PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY",
)  # fmt: skip
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
DEFLATED = "1.2.840.10008.1.2.1.99"
MPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (100, 101, 102, 103, 104, 105, 106, 107, 108)}
ITEM, DELIMITER = 0xE000FFFE, 0xE0DDFFFE
HINTS = {"JPEG Lossless": "python-gdcm", "JPEG Extended": "python-gdcm", "JPEG-LS": "pyjpegls"}


class DicomClip(Clip):
    """The pixels of one DICOM file. `video` holds the embedded MPEG stream instead, where there is one."""

    def __init__(self, reader: BinaryIO, name: str, limits: DecodeLimits) -> None:
        self._reader, self._name = reader, name
        size = size_of(reader)
        reader.seek(128)
        bare = reader.read(4) != b"DICM"
        reader.seek(0)
        with guard(name), pydicom_config.disable_value_validation():
            self._ds = ds = pydicom.dcmread(reader, stop_before_pixels=True, force=bare)
            self._pixels_at = reader.tell()
            self._syntax = str(ds.file_meta.get("TransferSyntaxUID", "")) or "1.2.840.10008.1.2"
            self.meta = kept(ds)
            rows, columns = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)
            count = int(ds.get("NumberOfFrames") or 1)
            self._photometric = str(ds.get("PhotometricInterpretation", "MONOCHROME2"))
        if not rows or not columns:
            raise DecodeError(
                f"{name}: this DICOM holds no picture ({self.meta.get('Modality', '?')})", "not-an-image"
            )
        limits.check_pixels(name, columns, rows)
        limits.check_frames(name, count)
        self.count: int = count
        with guard(name):
            self._needs_scale = _is_unwindowed(ds)
        if self._syntax not in MPEG:
            self._check_codec()
        with guard(name):
            self._value_at, encapsulated = self._pixel_value()
            if encapsulated:
                self._check_fragments(size)
            elif self._syntax != DEFLATED and get_expected_length(ds) > size - self._value_at:
                missing = get_expected_length(ds) - (size - self._value_at)
                raise DecodeError(
                    f"{name}: truncated: {missing:,} bytes of its pixels are missing", "truncated"
                )
        self.video = self._embedded_video() if self._syntax in MPEG else None

    @property
    def video_kind(self) -> str:
        """How the embedded stream is packed: MPEG-4 file, transport stream, or bare H.264 or MPEG-2."""
        assert self.video is not None
        head = self.video.read(8)
        self.video.seek(0)
        if head[4:8] == b"ftyp":
            return "mp4"
        if head[:1] == b"\x47" or head[:4] == b"\0\0\x01\xba":
            return "mpg"
        return "mpeg2" if head[:4] == b"\0\0\x01\xb3" else "h264"

    def _pixel_value(self) -> tuple[int, bool]:
        """Where the value of Pixel Data begins, and whether it is encapsulated (PS3.5 A.4)."""
        if self._syntax == DEFLATED:
            return self._pixels_at, False
        self._reader.seek(self._pixels_at)
        element = self._reader.read(12)
        if len(element) < 12:
            raise DecodeError(f"{self._name}: truncated: it ends before its pixels", "truncated")
        order = ">" if self._syntax == "1.2.840.10008.1.2.2" else "<"
        if self._syntax == "1.2.840.10008.1.2":
            return self._pixels_at + 8, False
        return self._pixels_at + 12, struct.unpack_from(f"{order}L", element, 8)[0] == 0xFFFFFFFF

    def _check_fragments(self, size: int) -> None:
        at, fragments = self._value_at, -1  # the first item is the offset table
        while at + 8 <= size:
            self._reader.seek(at)
            tag, length = struct.unpack("<2L", self._reader.read(8))
            if tag == DELIMITER:
                break
            if tag != ITEM or at + 8 + length > size:
                raise DecodeError(
                    f"{self._name}: truncated: a fragment of its pixels ends early", "truncated"
                )
            at, fragments = at + 8 + length, fragments + 1
        if fragments < (1 if self._syntax in MPEG else self.count):
            raise DecodeError(
                f"{self._name}: truncated: its header announces {self.count:,} frames, there are {max(fragments, 0):,}",
                "truncated",
            )

    def _check_codec(self) -> None:
        with guard(self._name):
            try:
                decoder = get_decoder(self._syntax)
            except NotImplementedError as error:
                found = self._syntax[:64]
                raise DecodeError(
                    f"{self._name}: transfer syntax {found!r} is not supported", "unsupported"
                ) from error
        if not decoder.is_available:
            syntax = pydicom.uid.UID(self._syntax).name
            package = next((package for kind, package in HINTS.items() if kind in syntax), "")
            hint = f"; pip install {package} adds a decoder for it" if package else ""
            raise DecodeError(
                f"{self._name}: compressed as {syntax}, not supported here{hint}", "unsupported"
            )

    def _embedded_video(self) -> BinaryIO:
        self._reader.seek(self._value_at)
        with guard(self._name):
            return io.BytesIO(next(generate_frames(self._reader, number_of_frames=1)))

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        if self._needs_scale and self._scale is None:  # before the pass below, for both move the same reader
            modality = (
                apply_modality_lut(values, self._ds) for _, values in self._arrays(lambda index: True)
            )
            self._scale = scale_for(np.dtype("f8"), guarded(self._name, modality))
        for index, values in self._arrays(wanted):
            with guard(self._name):
                pixels = self._shown(values)
            yield index, pixels

    def _arrays(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[Any]]]:
        return guarded(
            self._name, self._jpegs(wanted) if self._syntax == JPEG_BASELINE else self._general(wanted)
        )

    def _general(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[Any]]]:
        indices = [index for index in range(self.count) if wanted(index)]
        if self._syntax == DEFLATED or "TransferSyntaxUID" not in self._ds.file_meta:
            self._reader.seek(0)
            whole = pydicom.dcmread(self._reader, force=True)
            whole.file_meta.TransferSyntaxUID = pydicom.uid.UID(self._syntax)
            yield from zip(indices, iter_pixels(whole, indices=indices), strict=True)
            return
        self._reader.seek(0)
        yield from zip(indices, iter_pixels(self._reader, indices=indices), strict=True)

    def _jpegs(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[Any]]]:
        """Baseline JPEG straight through libjpeg-turbo where its colour space is the one the header names."""
        self._reader.seek(self._value_at)
        offsets: dict[str, Any] = {}
        if "ExtendedOffsetTable" in self._ds:
            offsets = {
                "extended_offsets": (self._ds.ExtendedOffsetTable, self._ds.ExtendedOffsetTableLengths)
            }
        encoded = generate_frames(self._reader, number_of_frames=self.count, **offsets)
        space = {"MONOCHROME1": "Gray", "MONOCHROME2": "Gray", "YBR_FULL": "YCbCr", "YBR_FULL_422": "YCbCr"}
        for index, data in enumerate(islice(encoded, self.count)):
            if not wanted(index):
                continue
            height, width, found, _ = simplejpeg.decode_jpeg_header(data)
            if found != space.get(self._photometric) or (height, width) != (self._ds.Rows, self._ds.Columns):
                yield from self._general(lambda later, index=index: later >= index and wanted(later))  # type: ignore[misc]
                return
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if found == "Gray" else "RGB")
            yield index, pixels[..., 0] if found == "Gray" else pixels

    def _shown(self, values: NDArray[Any]) -> Pixels:
        """One stored frame as a viewer shows it, uint8."""
        if self._photometric == "PALETTE COLOR":
            values = apply_palette(values, self._ds)
        if values.ndim == 3 and values.shape[2] == 3:
            if values.dtype != np.uint8:
                stored = int(self._ds.get("BitsStored") or 8 * values.dtype.itemsize)
                values = np.minimum(values >> max(0, stored - 8), 255).astype(np.uint8)
            return collapsed(np.ascontiguousarray(values))
        if int(self._ds.get("BitsAllocated", 8)) == 1:
            grey = Scale(0.0, 1.0)(values)
        else:
            grey = values if values.dtype == np.uint8 else self._windowed(values)
        inverted = self._photometric == "MONOCHROME1"
        return np.ascontiguousarray(255 - grey if inverted else grey)

    def _windowed(self, values: NDArray[Any]) -> Pixels:
        """Values deeper than 8 bits, or signed, as uint8."""
        ds = self._ds
        real = np.asarray(apply_modality_lut(values, ds), np.float64)
        if ds.get("VOILUTSequence"):
            return apply_voi(real, ds)
        if (given := _window(ds)) is not None:
            return Scale(0.0, 1.0)(window(real, *given, _function(ds)))
        assert self._scale is not None
        return self._scale(real)


def _is_unwindowed(ds: pydicom.Dataset) -> bool:
    """Grey, deeper than 8 bits or signed, and without a window: the range of the whole file decides."""
    deep = int(ds.get("BitsAllocated", 8)) > 8 or int(ds.get("PixelRepresentation") or 0) == 1
    voi = ds.get("VOILUTSequence") or _window(ds)
    colour = int(ds.get("SamplesPerPixel", 1)) != 1 or ds.get("PhotometricInterpretation") == "PALETTE COLOR"
    return deep and not voi and not colour


def window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """Window of PS3.3 C.11.2.1.2 (LINEAR), C.11.2.1.3 (SIGMOID, LINEAR_EXACT), into 0 … 1."""
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (values - center) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    return np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5, 0.0, 1.0)


def _function(ds: pydicom.Dataset) -> str:
    return str(ds.get("VOILUTFunction", "LINEAR")).upper()


def _window(ds: pydicom.Dataset) -> tuple[float, float] | None:
    """(center, width) of the first window; None where there is none: the attributes may be there and empty."""
    center, width = (_first(ds.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return None if center is None or width is None else (center, width)


def _first(value: Any) -> float | None:
    if isinstance(value, pydicom.multival.MultiValue):
        value = next(iter(value), None)
    return None if value in (None, "") else float(value)


def kept(ds: pydicom.Dataset) -> dict[str, str]:
    """The attributes of the allow-list that are present, as short text, and the ultrasound regions as JSON."""
    meta = {key: _plain(ds.get(key)) for key in KEPT if ds.get(key) not in (None, "")}
    regions = [
        {key: value for key in REGION if (value := _number(region.get(key))) is not None}
        for region in ds.get("SequenceOfUltrasoundRegions", [])
    ]
    if regions:
        meta["SequenceOfUltrasoundRegions"] = json.dumps(regions)
    return meta


def _plain(value: Any) -> str:
    text = "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value)
    return "".join(c for c in text if c.isprintable())[:64]


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) else None
