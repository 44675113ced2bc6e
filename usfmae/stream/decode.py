"""One stored picture to one grey view: uint8 all the way, no colour, no float.

Measured here on 256-pixel-high breast pictures (one core; `benchmarks/loader.py` repeats it): grey JPEG decode
by libjpeg-turbo (simplejpeg) 243 us, OpenCV 248, torchvision 249, Pillow 313; PNG by OpenCV 680, Pillow 690; crop
and bilinear resize to 224 x 224 25-33 us, bicubic 41-70, area 215. Entropy decoding is nearly all of a JPEG, and
must run from the first byte, so cutting a region while decoding saves little; the box is cut from the
decoded rows without a copy and resized into the batch at once, which costs a tenth of the decode. A whole
picture resized to a canvas and cropped later would cost the same and lose sharpness.

Large pictures (`openus build --size native`) are decoded at 1/2, 1/4 or 1/8: the greatest reduction that leaves
the short side at least `side` pixels. JPEG does that in the transform (DCT scaling), other formats by averaging.
The reduction depends on the picture alone, not on the box, so a cache of decoded pictures gives the same views.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from openus.errors import DecodeError
from usfmae.stream.plan import Ints, Words, mix

Grey = NDArray[np.uint8]
INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_ATTEMPTS = 10
_MOST_PIXELS = 1 << 27


def decode_side_of(size: int) -> int:
    """The short side that large pictures keep when views of `size` pixels are cut from them: 8/7 of it."""
    return -(-size * 8 // 7)


def reductions(width: NDArray[np.integer], height: NDArray[np.integer], side: int) -> Ints:
    """By how much each picture is reduced while decoding: 8, 4, 2 or 1; int64 [n]. `side` 0: never."""
    short = np.minimum(width, height).astype(np.int64)
    if side < 1:
        return np.ones_like(short)
    return np.select([short // 8 >= side, short // 4 >= side, short // 2 >= side], [8, 4, 2], 1).astype(
        np.int64
    )


def decode_grey(data: bytes, width: int, height: int, reduction: int = 1) -> Grey:
    """Decode an encoded picture to uint8 [ceil(height / reduction), ceil(width / reduction)].

    `width` and `height` are those of the manifest; a picture of any other size is refused before its pixels are
    allocated, whatever its header claims.

    Raises DecodeError: not a picture, truncated, or another size.
    """
    shape = (-(-height // reduction), -(-width // reduction))
    try:
        if data[:2] == b"\xff\xd8":
            found = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
            _same_size(found, (height, width))
            small = {} if reduction == 1 else {"min_height": shape[0], "min_width": shape[1]}
            grey: Grey = np.asarray(simplejpeg.decode_jpeg(data, "GRAY", **small)[:, :, 0], np.uint8)
        else:
            _same_size(_header_size(data), (height, width))
            grey = _decode_other(data)
            _same_size(grey.shape, (height, width))
            if reduction > 1:
                grey = np.asarray(cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    except (ValueError, KeyError, cv2.error) as error:  # simplejpeg: KeyError for an unknown colour space
        raise DecodeError(f"the picture is damaged or cut short ({error})", reason="corrupt") from error
    _same_size(grey.shape, shape)
    return grey


def decode_any(data: bytes, side: int) -> Grey:
    """Decode a picture whose size nobody has written down, reduced as `reductions` says; uint8 [h, w].

    Raises DecodeError, also for one of more than 2^27 pixels.
    """
    try:
        found = simplejpeg.decode_jpeg_header(data)[:2] if data[:2] == b"\xff\xd8" else _header_size(data)
    except (ValueError, KeyError) as error:
        raise DecodeError(f"the picture is damaged or cut short ({error})", reason="corrupt") from error
    height, width = int(found[0]), int(found[1])
    if not 0 < height * width <= _MOST_PIXELS:
        raise DecodeError(f"its header gives {width}x{height} pixels", reason="too-large")
    return decode_grey(data, width, height, int(reductions(np.array([width]), np.array([height]), side)[0]))


def _decode_other(data: bytes) -> Grey:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None:
        raise DecodeError("the picture is damaged or cut short", reason="truncated")
    return np.asarray(decoded, np.uint8)


def _same_size(found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(found) != expected:
        raise DecodeError(
            f"the picture is {found[1]}x{found[0]}, its row says {expected[1]}x{expected[0]}", reason="size"
        )


def _header_size(data: bytes) -> tuple[int, int]:
    """Height and width that a PNG or WebP header announces."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", data[16:24])
            return height, width
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except struct.error as error:
        raise DecodeError("the picture is cut short in its header", reason="truncated") from error
    raise DecodeError("not a JPEG, PNG or WebP picture", reason="not-an-image")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # extended: 24-bit sizes less one
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":  # lossless: two 14-bit sizes less one
        (bits,) = struct.unpack("<I", data[21:25])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[26:30]))
    return height, width


def crop_boxes(
    seeds: Words,
    width: Ints,
    height: Ints,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Ints:
    """Random boxes for a resized crop, each from its own seed: int64 [n, 4] of x, y, w, h.

    The rule of torchvision's RandomResizedCrop (Szegedy et al., "Going deeper with convolutions", 2015): an area
    uniform in `scale` of the picture's, an aspect log-uniform in `ratio`, ten attempts, then the largest
    central box of a permitted aspect.
    """
    with np.errstate(over="ignore"):
        draws = mix(
            seeds[:, None] + np.arange(1, 4 * _ATTEMPTS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        )
    u = (draws >> np.uint64(11)).astype(np.float64).reshape(-1, 4, _ATTEMPTS) * 2.0**-53
    w0, h0 = np.asarray(width, np.float64)[:, None], np.asarray(height, np.float64)[:, None]
    area = w0 * h0 * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[:, 1])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w >= 1) & (h >= 1) & (w <= w0) & (h <= h0)
    first, rows = fits.argmax(1), np.arange(len(seeds))
    central_w = np.minimum(w0[:, 0], np.rint(h0[:, 0] * ratio[1]))
    central_h = np.minimum(h0[:, 0], np.rint(w0[:, 0] / ratio[0]))
    found = fits.any(1)
    w1, h1 = np.where(found, w[rows, first], central_w), np.where(found, h[rows, first], central_h)
    x = np.where(found, np.floor(u[rows, 2, first] * (w0[:, 0] - w1 + 1)), (w0[:, 0] - w1) // 2)
    y = np.where(found, np.floor(u[rows, 3, first] * (h0[:, 0] - h1 + 1)), (h0[:, 0] - h1) // 2)
    return np.stack([x, y, w1, h1], 1).astype(np.int64)


def cut(grey: Grey, x: int, y: int, w: int, h: int, out: Grey, interpolation: int = cv2.INTER_LINEAR) -> None:
    """Cut a box out of a decoded picture and resize it into `out`, uint8 [S, S], in place.

    Shrinking by more than two averages instead, since two- or four-tap interpolation would alias.
    """
    side = out.shape[0]
    how = cv2.INTER_AREA if max(w, h) > 2 * side else interpolation
    cv2.resize(grey[y : y + h, x : x + w], (side, side), dst=out, interpolation=how)
