"""`open_media`: recognise a file and give it to the decoder of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import BinaryIO

from openus.decode import array as arrays
from openus.decode import image
from openus.decode.frame import Frame, FrameKind, Media, Pixels, Sibling
from openus.decode.limits import DecodeLimits, gunzipped, size_of
from openus.decode.policy import Clip, oriented, selected
from openus.decode.sniff import HEAD, sniff, sniff_gzip
from openus.decode.volume import Volume, VolumeClip
from openus.errors import DecodeError
from openus.manifest import FramePolicy

LIMITS = DecodeLimits()
POLICY = FramePolicy()
VIDEOS = {"mp4", "avi", "mkv", "mpg", "mpeg2", "h264", "wmv"}


def open_media(
    fp: BinaryIO,
    name: str,
    *,
    policy: FramePolicy = POLICY,
    sibling: Sibling | None = None,
    limits: DecodeLimits = LIMITS,
    array: str | None = None,
    grey: bool = False,
    classes: bool = False,
) -> Media:
    """Open a file and say what it is; its frames are decoded when `Media.frames()` is iterated.

    fp:      seekable reader of the whole file; must stay open while frames are read.
    name:    what messages call the file. It does not decide how the file is read.
    policy:  which frames, and how they are turned.
    sibling: opens a file lying beside this one, by name; needed for .mhd with its raw data.
    limits:  what is refused on sight of the header.
    array:   name of the array to take from HDF5, MAT and NPZ files; by default the largest picture-like one.
    grey:    colours are of no interest: where they can be left undecoded, they are.
    classes: values are class numbers, and stay as stored: no range is stretched, no palette applied.

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
        size, head = size_of(fp), b""
    if kind in image.PILLOW:
        limits.check_memory(name, size)
        return _open_image(head + fp.read(), kind, name, policy, limits, grey, classes)
    fp.seek(0)
    clip, what, meta = _clip(fp, kind, name, policy, sibling, limits, array)
    if classes:
        clip.keep_values()
    return Media(kind, what, clip.count, partial(selected, clip, policy, limits, name), meta)


def _clip(
    fp: BinaryIO, kind: str, name: str, policy: FramePolicy, sibling: Sibling | None, limits: DecodeLimits,
    array: str | None,
) -> tuple[Clip, FrameKind, Mapping[str, str]]:  # fmt: skip
    """Everything but still pictures. Each family's libraries are imported when its first file is met."""
    if kind in VIDEOS:
        from openus.decode.video import VideoClip

        video = VideoClip(fp, kind, name, limits)
        return video, "frame", video.meta
    if kind == "dicom":
        from openus.decode.dicom import DicomClip

        dicom = DicomClip(fp, name, limits)
        if dicom.video is not None:
            return (
                _clip(dicom.video, dicom.video_kind, name, policy, None, limits, None)[0],
                "frame",
                dicom.meta,
            )
        return dicom, "image" if dicom.count == 1 else "frame", dicom.meta
    if kind in ("nifti", "mha", "nrrd"):
        return _volume(fp, kind, name, policy, sibling, limits)
    if kind == "npy":
        clip = arrays.open_npy(fp, name, limits)
    else:
        clip = {"npz": arrays.open_npz, "hdf5": arrays.open_hdf5, "mat": arrays.open_mat}[kind](
            fp, name, array, limits
        )
    return clip, "image" if clip.count == 1 else "frame", {}


def _volume(
    fp: BinaryIO, kind: str, name: str, policy: FramePolicy, sibling: Sibling | None, limits: DecodeLimits
) -> tuple[Clip, FrameKind, Mapping[str, str]]:
    volume: Volume
    if kind == "nifti":
        from openus.decode.nifti import NiftiVolume

        volume = NiftiVolume(fp, name, limits)
    else:
        from openus.decode.itk import ITKVolume

        volume = ITKVolume(fp, kind, name, sibling, limits)
    clip = VolumeClip(volume, policy.axis, name, limits)
    what: FrameKind = "frame" if policy.axis == "t" else "slice" if clip.count > 1 else "image"
    return clip, what, volume.meta


def decode_image(data: bytes, name: str = "image") -> Pixels:
    """Decode one encoded picture (the first of several): uint8 [H, W] or [H, W, 3], C-contiguous.

    Raises `DecodeError` as `open_media` does; ``unsupported`` for what is no picture file.
    """
    kind = sniff(data[:HEAD], name, len(data))
    if kind not in image.PILLOW:
        raise DecodeError(f"{name}: is {kind}, not a picture file", "unsupported")
    return image.decode_still(data, kind, name, LIMITS)[0]


def _open_image(
    data: bytes, kind: str, name: str, policy: FramePolicy, limits: DecodeLimits, grey: bool, classes: bool
) -> Media:
    if classes or kind in ("tiff", "gif", "webp"):
        clip = image.PillowClip(data, kind, name, limits)
        if classes:
            clip.keep_values()
        if classes or clip.count > 1:
            what: FrameKind = "frame" if clip.count > 1 else "image"
            return Media(kind, what, clip.count, partial(selected, clip, policy, limits, name))

    def frames() -> Iterator[Frame]:
        pixels, as_stored = image.decode_still(data, kind, name, limits, grey)
        shown = oriented(pixels, policy)
        yield Frame(shown, file=data if as_stored and shown is pixels else None)

    return Media(kind, "image", 1, frames)
