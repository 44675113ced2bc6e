"""Still pictures and picture documents: PNG, JPEG, BMP, TIFF, WebP, GIF, JPEG 2000.

Grey and RGB PNG go through OpenCV and JPEG through libjpeg-turbo (simplejpeg), the fastest measured on real
ultrasound; whatever is unusual (palette, alpha, 1 or 16 bits, CMYK, several pages) goes through Pillow. Transparency is
composited on black, EXIF orientation is applied, and a colour picture whose channels are equal comes out grey. RGB of
16 bits, of which Pillow would give the upper bytes alone, becomes 8-bit as deep grey does: by the file's `Scale`.
"""

from __future__ import annotations

import io
import logging
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from openus.decode.frame import Pixels
from openus.decode.grey import Scale, collapsed, scale_for
from openus.decode.limits import DecodeLimits, guard, guarded
from openus.decode.original import header_segments
from openus.decode.policy import Clip, Wanted
from openus.errors import DecodeError

logging.getLogger("PIL").setLevel(logging.CRITICAL)
PILLOW = {
    "png": "PNG", "jpg": "JPEG", "bmp": "BMP", "tiff": "TIFF", "webp": "WEBP", "gif": "GIF", "jp2": "JPEG2000",
}  # fmt: skip
_DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_SUBFILE, _REDUCED = 254, 1  # TIFF 6.0, NewSubfileType: bit 0 marks a reduced-resolution copy
_BITS, _PHOTOMETRIC, _ORIENTATION = 0x0102, 0x0106, 0x0112
_NOTES = (b"zTXt", b"iTXt", b"tEXt", b"iCCP")  # of no bearing on the pixels of a plain PNG
_APP1 = 0xE1  # JPEG segment of EXIF


def decode_still(
    data: bytes, kind: str, name: str, limits: DecodeLimits, grey: bool = False
) -> tuple[Pixels, bool]:
    """The (first) picture of an encoded image as uint8 [H, W] or [H, W, 3], and whether any plain decoder would show
    just these pixels (no orientation was undone, nothing unusual handled). Raises `DecodeError`.

    With `grey`, a JPEG gives its luma [H, W] alone: the colours, which take as long again to tell apart and check,
    are not looked at. It is the luma of ITU-R BT.601 that `clean.to_grey` makes of them (JFIF 1.02), less its rounding.
    """
    if kind == "png" and (png := _png(data, name, limits)) is not None:
        return png
    if kind == "jpg" and (jpeg := _jpeg(data, name, limits, grey)) is not None:
        pixels, all_of_it = jpeg
        orientation = _jpeg_orientation(data)
        return oriented(pixels, orientation), all_of_it and orientation == 1
    for _, pixels in PillowClip(data, kind, name, limits).read(lambda index: index == 0):
        return pixels, False
    raise DecodeError(f"{name}: holds no picture", "corrupt")


@dataclass(frozen=True, slots=True)
class _PNGHeader:
    width: int
    height: int
    depth: int
    colour: int
    plain: bool
    """No transparency, orientation or animation chunk: the pixels are all there is."""
    notes: list[slice]
    """Where text and colour profiles lie: libpng expands them, and complains on stderr of what it dislikes."""


def _png_header(data: bytes, name: str) -> _PNGHeader:
    """Walk the chunks, verify their checksums (PNG specification 5.3) and that the last one is there.

    OpenCV's libpng would take a file whose compressed data were altered but still inflate, and it complains on
    stderr of its own accord; past this check only a PNG crafted to be wrong inside right checksums makes it do so.
    """
    view, at, plain, seen = memoryview(data), 8, True, set()
    header: tuple[int, ...] = ()
    notes: list[slice] = []
    while True:
        if at + 12 > len(data):
            raise DecodeError(
                f"{name}: truncated: the PNG ends after {len(data):,} bytes without IEND", "truncated"
            )
        length, kind = struct.unpack_from(">L4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise DecodeError(
                f"{name}: truncated: {end - len(data):,} bytes of the PNG are missing", "truncated"
            )
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DecodeError(f"{name}: corrupt: the checksum of chunk {kind!r} is wrong", "corrupt")
        if at == 8:
            if kind != b"IHDR" or length != 13:
                raise DecodeError(f"{name}: corrupt: the PNG does not begin with its header", "corrupt")
            header = struct.unpack_from(">2L5B", data, at + 8)
        plain = plain and kind not in (b"tRNS", b"eXIf", b"acTL")
        if kind in _NOTES:
            notes.append(slice(at, end))
        seen.add(kind)
        at = end
        if kind == b"IEND":
            break
    if b"IDAT" not in seen:
        raise DecodeError(f"{name}: corrupt: the PNG holds no pixels", "corrupt")
    return _PNGHeader(header[0], header[1], header[2], header[3], plain, notes)


def _png(data: bytes, name: str, limits: DecodeLimits) -> tuple[Pixels, bool] | None:
    """The pixels, and whether they are those of the file: not where it has 16 bits."""
    # The size first: a gigapixel header is refused for its size even where the rest of the file is missing.
    if len(data) >= 24:
        limits.check_pixels(name, *struct.unpack_from(">2L", data, 16))
    header = _png_header(data, name)
    deep = header.depth == 16 and header.colour in (2, 4, 6)
    if not deep and not (header.plain and header.depth == 8 and header.colour in (0, 2)):
        return None
    orientation = 1 if header.plain else _png_orientation(data, name)
    for note in reversed(header.notes):
        data = data[: note.start] + data[note.stop :]
    with guard(name):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != (np.uint16 if deep else np.uint8):
        return None  # Pillow says what is wrong with it
    if pixels.ndim == 2:
        return np.asarray(pixels), True
    if deep:
        values = _on_black(np.asarray(pixels, np.uint16))
        pixels = scale_for(values.dtype, [values])(values)
    grey = collapsed(np.asarray(pixels))
    shown = grey if grey.ndim == 2 else np.asarray(cv2.cvtColor(grey, cv2.COLOR_BGR2RGB))
    return np.asarray(oriented(shown, orientation), np.uint8) if deep else np.asarray(shown), not deep


def _png_orientation(data: bytes, name: str) -> int:
    try:
        with guard(name), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except DecodeError:  # as for JPEG
        return 1


def _on_black(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours [H, W, 3] of [H, W, 3], or of [H, W, 4], whose last channel is opacity."""
    if values.shape[2] == 3:
        return values
    opacity = values[..., 3:].astype(np.float32) / 65535
    return np.rint(values[..., :3] * opacity).astype(np.uint16)


def _jpeg(data: bytes, name: str, limits: DecodeLimits, grey: bool) -> tuple[Pixels, bool] | None:
    """The pixels, and whether they are all that the file holds: not where its colours were left out."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    limits.check_pixels(name, width, height)
    if space not in ("Gray", "YCbCr", "RGB"):
        return None
    try:
        luma = space == "Gray" or (grey and space == "YCbCr")
        pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if luma else "RGB")
    except ValueError:
        return None  # truncated, or one of libjpeg's harmless warnings: Pillow tells them apart
    return np.asarray(pixels[..., 0] if luma else collapsed(pixels)), space == "Gray" or not luma


def _jpeg_orientation(data: bytes) -> int:
    for marker, start, end in header_segments(data):
        if marker == _APP1 and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = Image.Exif()
            try:
                with guard("EXIF"):
                    exif.load(data[start + 4 : end])
                    return int(exif.get(_ORIENTATION, 1))
            except DecodeError:  # a broken note about the camera says nothing about the picture
                return 1
    return 1


def oriented(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation (1 to 8; CIPA DC-008, 4.6.5.1.1), so that row 0 is the top as seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


class PillowClip(Clip):
    """Any picture file through Pillow, with all its pages or animation frames."""

    def __init__(self, data: bytes, kind: str, name: str, limits: DecodeLimits) -> None:
        self._data, self._kind, self._name, self._limits = data, kind, name, limits
        with guard(name), self._opened() as image:
            limits.check_pixels(name, *image.size)
            count = int(getattr(image, "n_frames", 1))
            limits.check_frames(name, count)
            # Pillow turns pages of 8 bits whose zero is white, and no others.
            tags = getattr(image, "tag_v2", {})
            self._zero_is_white = image.mode in _DEEP and tags.get(_PHOTOMETRIC, 1) == 0
            self._pages = [page for page in range(count) if not self._is_preview(image, page, count)]
        self.count: int = len(self._pages)
        self._classes = False

    def keep_values(self) -> None:
        super().keep_values()
        self._classes = True

    @property
    def scale(self) -> Scale:
        """How pages of 16 bits or fractions become 8-bit, all of them alike; ordinary pages stay as they are."""
        if self._scale is None:
            pages = (page for _, page in self._arrays(lambda index: True) if page.dtype != np.uint8)
            first = next(pages)
            self._scale = scale_for(first.dtype, chain([first], pages))
        return self._scale

    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        for index, values in self._arrays(wanted):
            pixels = values
            if values.dtype != np.uint8:
                pixels = 255 - self.scale(values) if self._zero_is_white else self.scale(values)
            yield index, collapsed(pixels) if pixels.ndim == 3 else np.ascontiguousarray(pixels)

    def _opened(self) -> Image.Image:
        return Image.open(io.BytesIO(self._data), formats=[PILLOW[self._kind]])

    def _is_preview(self, image: Image.Image, page: int, count: int) -> bool:
        if self._kind != "tiff" or count == 1:
            return False
        image.seek(page)
        return bool(image.tag_v2.get(_SUBFILE, 0) & _REDUCED)  # type: ignore[attr-defined]

    def _arrays(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[Any]]]:
        return guarded(self._name, self._pages_of(wanted))

    def _pages_of(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[Any]]]:
        with self._opened() as image:
            for index, page in enumerate(self._pages):
                if not wanted(index):
                    continue
                if page:
                    image.seek(page)
                self._limits.check_pixels(self._name, *image.size)
                if self._classes:
                    yield index, _class_numbers(image)
                elif _is_deep_colour(image):
                    with self._opened() as twin:
                        twin.seek(page)
                        yield index, _deep_colour(image, twin)
                else:
                    yield index, _as_array(image)


def _class_numbers(image: Image.Image) -> NDArray[Any]:
    """The current page of a mask: the entries of its palette, not their colours, and single bits as 0 and 1."""
    if image.mode == "P":
        return np.asarray(ImageOps.exif_transpose(image))
    values = _as_array(image)
    return values // 255 if image.mode == "1" else values


def _as_array(image: Image.Image) -> NDArray[Any]:
    """The current page as uint8 [H, W] or [H, W, 3], or as it is if its values are deeper than 8 bits."""
    image.load()
    image_format = image.format
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        return np.asarray(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        # Programs that know of no transparency leave the fourth byte of a BMP at zero; browsers show it all the same.
        if image_format == "BMP" and image.getchannel("A").getextrema() == (0, 0):
            return np.asarray(image.convert("RGB"))
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        image = black
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image)


def _is_deep_colour(image: Image.Image) -> bool:
    """RGB or RGBA of 16 bits, as TIFF has it."""
    return image.mode in ("RGB", "RGBA") and set(getattr(image, "tag_v2", {}).get(_BITS, ())) == {16}


def _deep_colour(image: Any, twin: Any) -> NDArray[np.uint16]:
    """The current page of both, a deep colour, as uint16 [H, W, 3].

    Pillow has no such mode and unpacks one byte of each value: the upper one, or, told the other byte order, the lower.
    """
    premultiplied = any(tile[3][0].startswith("RGBa") for tile in image.tile)
    _unpack_byte(image, lower=False)
    _unpack_byte(twin, lower=True)
    upper, lower = (np.asarray(ImageOps.exif_transpose(half), np.uint16) for half in (image, twin))
    values = np.asarray(upper << 8 | lower, np.uint16)
    return values[..., :3] if premultiplied else _on_black(values)


def _unpack_byte(image: Any, lower: bool) -> None:
    """Before its pixels are read: which byte of each value of 16 bits."""
    for index, tile in enumerate(image.tile):
        layout, _, order = tile[3][0].partition(";16")
        # Of channels that lie one after the other uncompressed, Pillow does not see that they are of 16 bits.
        order = order or ("L" if image.tag_v2.prefix == b"II" else "B")
        args = (f"{layout.upper()};16{_OTHER_ORDER[order] if lower else order}", *tile[3][1:])
        image.tile[index] = getattr(type(tile), "_make", tuple)((*tile[:3], args))
