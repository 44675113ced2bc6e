"""What a few pictures looked like before cleaning, kept small, so that a person can judge what cleaning did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
import simplejpeg

from openus.clean.area import shrink
from openus.decode.frame import Pixels

SHOWN = 60
"""Pictures of a source that are shown before and after cleaning."""
SIDE = 280
"""Longest side of such a picture: burned-in letters can still be told from speckle."""
_QUALITY = 80


def rank(seed: int, *words: str) -> bytes:
    """A place in a seeded order, that nothing else can change."""
    return hashlib.blake2b("\0".join((str(seed), *words)).encode(), digest_size=8).digest()


def shares(members: Iterable[str], seed: int) -> dict[str, int]:
    """How many pictures to show of which files, about `SHOWN` together: one of each in a seeded choice of them, or
    several of each where they are few clips."""
    chosen = sorted(members, key=lambda member: rank(seed, member))[:SHOWN]
    each = -(-SHOWN // max(1, len(chosen)))
    return dict.fromkeys(chosen, each)


class Before:
    """Keeps the pictures before cleaning of a few samples of a file, chosen by a seeded order."""

    def __init__(self, shown: Mapping[str, int], seed: int) -> None:
        self.kept: dict[str, bytes] = {}
        """Small JPEGs, by the key of their sample."""
        self._shown, self._seed = shown, seed
        self._member, self._best = "", list[tuple[bytes, str]]()

    def offer(self, key: str, member: str, pixels: Pixels) -> None:
        """One more sample of the file `member`, with its frame as it was decoded."""
        most = self._shown.get(member, 0)
        if most == 0:
            return
        if member != self._member:
            self._member, self._best = member, []
        place = rank(self._seed, key)
        if len(self._best) == most:
            last = max(self._best)
            if place > last[0]:
                return
            del self.kept[last[1]]
            self._best.remove(last)
        self.kept[key] = thumbnail(pixels)
        self._best.append((place, key))


def thumbnail(pixels: Pixels, side: int = SIDE) -> bytes:
    """uint8 [H, W] or [H, W, 3] as a JPEG that fits a square of `side` pixels; never enlarged."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    grey, small = pixels.ndim == 2, pixels
    if scale < 1 and grey:
        small = shrink(pixels, *size)
    elif scale < 1:
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(small[:, :, None] if grey else small),
        quality=_QUALITY,
        colorspace="GRAY" if grey else "RGB",
        fastdct=False,
    )
    return data
