"""From stored pictures to the rows that describe them: hashes, flags, names.

It is done for many pictures at a time, one kind of thing after the other. Decoding a file drives everything else out
of the processor's caches; between two of them, hashes and flags take half as long again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openus.clean import Cleaned
from openus.clean.quality import quality_flags
from openus.decode.frame import FrameKind
from openus.dedup.hashes import phashes, pixel_sha256
from openus.select import Selected
from openus.shards.schema import QUALITY, VERBATIM
from openus.stages.chunkspec import ChunkSpec, sample_key

AT_ONCE = 2 << 20
"""Bytes of pixels that are worth describing: more would not stay in the cache."""


@dataclass(slots=True)
class Picture:
    """A picture that lies in the file of its chunk.

    frame:    shape of the decoded frame it was made of, [H, W] or [H, W, 3].
    data:     its bytes in the file, from `at` on.
    verbatim: they are those of the source's file.
    mask:     first byte and length of its mask in the file; the length is 0 where it has none.
    """

    selected: Selected
    kind: FrameKind
    index: int
    frame: tuple[int, ...]
    cleaned: Cleaned
    data: bytes
    verbatim: bool
    at: int
    mask: tuple[int, int]


def rows_of(pictures: Sequence[Picture], spec: ChunkSpec) -> list[dict[str, Any]]:
    """A row of `CHUNK_ROW` for each picture, in their order, without `before`."""
    keys = [sample_key(spec.source, picture.selected.member, picture.index) for picture in pictures]
    files = [hashlib.sha256(picture.data).hexdigest() for picture in pictures]
    pixels = [pixel_sha256(picture.cleaned.pixels) for picture in pictures]
    looks = phashes([picture.cleaned.pixels for picture in pictures])
    quality = [quality_flags(picture.cleaned.pixels, spec.clean.quality) for picture in pictures]
    made = zip(pictures, keys, files, pixels, looks, quality, strict=True)
    return [_row(spec, *facts) for facts in made]


def _row(
    spec: ChunkSpec, picture: Picture, key: str, file: str, pixels: str, look: str, quality: list[str]
) -> dict[str, Any]:
    selected, cleaned = picture.selected, picture.cleaned
    flags = {*cleaned.flags, *quality, *([VERBATIM] if picture.verbatim else [])}
    height, width = cleaned.pixels.shape
    return {
        "key": key,
        "set": spec.set,
        "source": spec.source,
        "anatomy": spec.anatomy,
        "kind": picture.kind,
        "member": selected.member,
        "index": picture.index,
        "clip": selected.clip,
        "patient": selected.patient,
        "labels": sorted(selected.labels.items()),
        "split": selected.split,
        "width": width,
        "height": height,
        "source_width": picture.frame[1],
        "source_height": picture.frame[0],
        "sha256": file,
        "pixel_sha256": pixels,
        "phash": look,
        "sector": list(cleaned.sector),
        "cleaned_fraction": cleaned.fraction,
        "text_boxes": cleaned.text_boxes,
        "flags": ",".join(sorted(flags)),
        **{word: word in quality for word in QUALITY},
        "licence": spec.licence,
        "redistribution": spec.redistribution,
        "at": picture.at,
        "length": len(picture.data),
        "mask_at": picture.mask[0],
        "mask_length": picture.mask[1],
    }
