"""Pictures to bytes, by the fastest encoder there is for each format."""

from __future__ import annotations

import cv2
import simplejpeg

from openus.decode.frame import Pixels
from openus.manifest import Encoding

# Speckle holds no repeats for deflate to find: run-length matching alone is both smaller (by a tenth) and faster than
# the default strategy at any level, and still shrinks flat masks to nothing.
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
"""How PNGs are written, for `cv2.imencode`."""


def encode(pixels: Pixels, encoding: Encoding) -> bytes:
    """Encode uint8 [H, W] as JPEG (grey, at the given quality), PNG or lossless WebP."""
    if encoding.format == "jpg":
        data: bytes = simplejpeg.encode_jpeg(
            pixels[:, :, None], quality=encoding.quality, colorspace="GRAY", fastdct=False
        )
        return data
    if encoding.format == "png":
        done, buffer = cv2.imencode(".png", pixels, PNG)
    else:
        done, buffer = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])
    if not done:
        raise ValueError(f"cannot encode {pixels.shape} as {encoding.format}")
    return bytes(buffer)
