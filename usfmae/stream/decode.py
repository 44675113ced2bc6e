"""One stored picture to one grey view: uint8 all the way, no colour, no float.

Measured here on 256-pixel-high breast pictures (one core; `benchmarks/loader.py` repeats it): grey JPEG decode
by libjpeg-turbo (simplejpeg) 243 us, OpenCV 248, torchvision 249, Pillow 313; PNG by OpenCV 680, Pillow 690; crop
and bilinear resize to 224 x 224 25-33 us, bicubic 41-70, area 215; SHA-256 of the encoded bytes 15-25.

So a view is cut while decoding: a JPEG is decoded from the top to the last row its box needs (16-19 % less time
on average with the reference crop), the box is cut from the decoded rows without a copy and resized straight
into the batch. That leaves damage further down unseen, and damage above is often seen only at the end of a JPEG
(of 2,575 pictures with one to three wrong bytes a whole decode noticed 41 %), so the bytes are compared with
the SHA-256 of their row first: cheaper than what it saves, and nothing altered passes.

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
_MCU = 16  # rows of the tallest usual minimum coded unit; a grey one has 8


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


def decode_grey(
    data: bytes | memoryview, width: int, height: int, reduction: int = 1, rows: int | None = None
) -> Grey:
    """Decode an encoded picture to uint8 [ceil(height / reduction), ceil(width / reduction)].

    `width` and `height` are those of the manifest; a picture of any other size is refused before its pixels are
    allocated, whatever its header claims.

    With `rows`, only so many rows of the result are wanted, from the top: there may come fewer than all, never
    fewer than `rows`. The caller has checked the bytes then, since damage goes unnoticed; a writable view of them
    may be changed.

    Raises DecodeError: not a picture, truncated, another size, or one of more than 2^27 pixels.
    """
    if not 0 < height * width <= _MOST_PIXELS:
        raise DecodeError(f"the picture is said to have {width}x{height} pixels", reason="too-large")
    try:
        if data[:2] == b"\xff\xd8":
            found = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
            _same_size(found, (height, width))
            if rows is not None and (lines := -(-rows * reduction // _MCU) * _MCU) < height:
                data, height = _shortened(data, height, lines)
            shape = (-(-height // reduction), -(-width // reduction))
            small = {} if reduction == 1 else {"min_height": shape[0], "min_width": shape[1]}
            grey: Grey = np.asarray(
                simplejpeg.decode_jpeg(data, "GRAY", strict=rows is None, **small)[:, :, 0], np.uint8
            )
        else:
            shape = (-(-height // reduction), -(-width // reduction))
            _same_size(_header_size(data), (height, width))
            grey = _decode_other(data)
            _same_size(grey.shape, (height, width))
            if reduction > 1:
                grey = np.asarray(cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    except (ValueError, KeyError, cv2.error) as error:  # simplejpeg: KeyError for an unknown colour space
        raise DecodeError(f"the picture is damaged or cut short ({error})", reason="corrupt") from error
    _same_size(grey.shape, shape)
    return grey


def _shortened(data: bytes | memoryview, height: int, lines: int) -> tuple[bytes | memoryview, int]:
    """The JPEG with a header that announces `lines` rows, and the height it announces now.

    A sequential JPEG stores its rows in order, so the decoder stops after them (ITU-T T.81, B.2.2: SOF0 and SOF1
    hold the height at their sixth byte). A progressive one is left as it is.
    """
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1):
            if isinstance(data, bytes) or data.readonly:
                data = memoryview(bytearray(data))
            data[at + 5 : at + 7] = lines.to_bytes(2, "big")
            return data, lines
        if 0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            break
        at += 2 + (data[at + 2] << 8) + data[at + 3]
    return data, height


def decode_any(data: bytes, side: int) -> Grey:
    """Decode a picture whose size nobody has written down, reduced as `reductions` says; uint8 [h, w].

    Raises DecodeError, as `decode_grey`.
    """
    try:
        found = simplejpeg.decode_jpeg_header(data)[:2] if data[:2] == b"\xff\xd8" else _header_size(data)
    except (ValueError, KeyError) as error:
        raise DecodeError(f"the picture is damaged or cut short ({error})", reason="corrupt") from error
    height, width = int(found[0]), int(found[1])
    return decode_grey(data, width, height, int(reductions(np.array([width]), np.array([height]), side)[0]))


def _decode_other(data: bytes | memoryview) -> Grey:
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


def _header_size(data: bytes | memoryview) -> tuple[int, int]:
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


def _webp_size(data: bytes | memoryview) -> tuple[int, int]:
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
