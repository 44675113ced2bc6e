"""`open_media`: recognise a file and give it to the decoder of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import BinaryIO

from openus.decode import image
from openus.decode.frame import Frame, FrameKind, Media, Pixels, Sibling
from openus.decode.limits import DecodeLimits, gunzipped, size_of
from openus.decode.policy import Clip, oriented, selected
from openus.decode.sniff import HEAD, sniff, sniff_gzip
from openus.errors import DecodeError
from openus.manifest import FramePolicy

LIMITS = DecodeLimits()
POLICY = FramePolicy()
VIDEOS = {"mp4", "avi", "mkv", "mpg", "wmv"}


def open_media(
    fp: BinaryIO,
    name: str,
    *,
    policy: FramePolicy = POLICY,
    sibling: Sibling | None = None,
    limits: DecodeLimits = LIMITS,
    array: str | None = None,
) -> Media:
    """Open a file and say what it is; its frames are decoded when `Media.frames()` is iterated.

    fp:      seekable reader of the whole file; must stay open while frames are read.
    name:    what messages call the file. It does not decide how the file is read.
    policy:  which frames, and how they are turned.
    sibling: opens a file lying beside this one, by name; needed for .mhd with its raw data.
    limits:  what is refused on sight of the header.
    array:   name of the array to take from HDF5, MAT and NPZ files; by default the largest picture-like one.

    Raises `DecodeError` (reasons ``empty-file``, ``not-an-image``, ``truncated``, ``too-large``,
    ``unsupported``, ``corrupt``), here or while frames are read.
    """
    size = size_of(fp)
    head = fp.read(HEAD)
    kind = sniff(head, name, size)
    if kind == "gz":
        inner = sniff_gzip(head)
        kind = sniff(inner, name, len(inner)) if inner else kind
        fp.seek(0)
        fp = gunzipped(fp, limits, name)
    fp.seek(0)
    if kind in image.PILLOW:
        return _open_image(fp, kind, name, policy, limits)
    if kind in VIDEOS:
        from openus.decode.video import VideoClip  # each family's libraries are loaded when one is met

        video = VideoClip(fp, kind, name, limits)
        return _media(kind, "frame", video, policy, limits, name, video.meta)
    raise DecodeError(f"{name}: files of kind {kind} are not supported", "unsupported")


def decode_image(data: bytes, name: str = "image", limits: DecodeLimits = LIMITS) -> Pixels:
    """Decode one encoded picture (the first of several): uint8 [H, W] or [H, W, 3], C-contiguous.

    Raises `DecodeError` as `open_media` does; ``unsupported`` for what is no picture file.
    """
    kind = sniff(data[:HEAD], name, len(data))
    if kind not in image.PILLOW:
        raise DecodeError(f"{name}: is {kind}, not a picture file", "unsupported")
    return image.decode(data, kind, name, limits)


def _open_image(fp: BinaryIO, kind: str, name: str, policy: FramePolicy, limits: DecodeLimits) -> Media:
    limits.check_memory(name, size_of(fp))
    data = fp.read()
    if kind in ("tiff", "gif", "webp"):
        clip = image.PillowClip(data, kind, name, limits)
        if clip.count > 1:
            return _media(kind, "frame", clip, policy, limits, name, {})

    def frames() -> Iterator[Frame]:
        yield Frame(oriented(image.decode(data, kind, name, limits), policy))

    return Media(kind, "image", 1, frames)


def _media(
    kind: str, what: FrameKind, clip: Clip, policy: FramePolicy, limits: DecodeLimits, name: str,
    meta: Mapping[str, str],
) -> Media:  # fmt: skip
    return Media(kind, what, clip.count, partial(selected, clip, policy, limits, name), meta)
