"""Clips: right pixels against what was encoded and against FFmpeg's own conversion, bounded memory, cut files."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from openus.archives import Tree
from openus.decode import DecodeLimits, open_media
from openus.manifest import FramePolicy
from tests.decode.test_image import colour, frames, media, reason, speckle

FORMATS = {  # container, codec, pixel format; the first two keep every grey level
    "mkv-ffv1-gray": ("matroska", "ffv1", "gray"),
    "avi-rawvideo": ("avi", "rawvideo", "yuv420p"),
    "mp4-h264": ("mp4", "libx264", "yuv420p"),
    "mov-mjpeg": ("mov", "mjpeg", "yuvj420p"),
    "avi-mjpeg": ("avi", "mjpeg", "yuvj420p"),
    "avi-mpeg4": ("avi", "mpeg4", "yuv420p"),
    "webm-vp9": ("webm", "libvpx-vp9", "yuv420p"),
    "mpg-mpeg2": ("mpeg", "mpeg2video", "yuv420p"),
    "wmv": ("asf", "wmv2", "yuv420p"),
}
KINDS = {"mkv": "mkv", "webm": "mkv", "mov": "mp4"}


def write(
    pictures: list[NDArray[np.uint8]], container: str, codec: str, pix_fmt: str, **options: str
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for picture in pictures:
            source = av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "rgb24")
            file.mux(stream.encode(source.reformat(format=pix_fmt)))
        file.mux(stream.encode())
    return out.getvalue()


def smooth(count: int, height: int = 64, width: int = 96) -> list[NDArray[np.uint8]]:
    """A bright spot that moves: each frame differs, and lossy codecs keep it well."""
    y, x = np.mgrid[0:height, 0:width]
    return [
        (20 + 220 * np.exp(-((y - 30) ** 2 + (x - 10 - 3 * n) ** 2) / 300)).astype(np.uint8)
        for n in range(count)
    ]


def via_ffmpeg(data: bytes) -> list[NDArray[np.uint8]]:
    """Every frame as FFmpeg converts it to RGB, without the code under test."""
    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


@pytest.mark.parametrize("name", FORMATS)
def test_grey_clip(name: str) -> None:
    pictures = smooth(12)
    data = write(pictures, *FORMATS[name])
    opened = media(data, name)
    kind = name.split("-")[0]
    assert (opened.format, opened.kind) == (KINDS.get(kind, kind), "frame")
    assert opened.count in (12, None)
    assert opened.meta["fps"] == "25" and opened.meta["codec"]
    found = list(opened.frames())
    assert [frame.index for frame in found] == list(range(12))
    for frame, picture, rgb in zip(found, pictures, via_ffmpeg(data), strict=True):
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == (64, 96), "grey comes out grey"
        assert frame.pixels.flags.c_contiguous
        error = np.abs(frame.pixels.astype(int) - picture)
        assert error.mean() < 4 and np.abs(frame.pixels.astype(int) - rgb[..., 0]).max() <= 6
    if name == "mkv-ffv1-gray":
        assert all((f.pixels == p).all() for f, p in zip(found, pictures, strict=True))


def test_grey_frames_equal_ffmpegs_rgb_exactly() -> None:
    """Neutral chroma: luma through the table must be what swscale gives, limited and full range alike."""
    for pix_fmt, full in itertools.product(("yuv420p", "yuv444p", "yuv422p"), (False, True)):
        ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
        source = av.VideoFrame(256, 64, pix_fmt)
        for number, plane in enumerate(source.planes):
            rows = np.full((plane.height, plane.line_size), 128, np.uint8)
            rows[:, : plane.width] = ramp[: plane.height, : plane.width] if number == 0 else 128
            plane.update(rows.tobytes())
        out = io.BytesIO()
        with av.open(out, "w", format="matroska") as file:
            stream = file.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 256, 64, pix_fmt
            stream.codec_context.color_range = source.color_range = (
                ColorRange.JPEG if full else ColorRange.MPEG
            )
            file.mux(stream.encode(source))
            file.mux(stream.encode())
        (frame,) = frames(out.getvalue())
        (rgb,) = via_ffmpeg(out.getvalue())
        assert (rgb[..., 0] == rgb[..., 1]).all()
        np.testing.assert_array_equal(frame.pixels, rgb[..., 0])
        # Levels 16 … 235 carry the picture in limited range, 0 … 255 in full range (ITU-R BT.601).
        low, high = (0, 255) if full else (16, 235)
        exact = np.clip((np.arange(256) - low) * 255.0 / (high - low), 0, 255)
        assert np.abs(frame.pixels[0] - exact).max() <= 1.5


def test_colour_clip() -> None:
    pictures = [colour(64, 96)] * 3
    for name in ("mp4-h264", "avi-mjpeg"):
        data = write(pictures, *FORMATS[name])
        for frame, rgb in zip(frames(data), via_ffmpeg(data), strict=True):
            np.testing.assert_array_equal(frame.pixels, rgb)
    lossless = write(pictures, "matroska", "ffv1", "bgr0")
    for frame in frames(lossless):
        np.testing.assert_array_equal(frame.pixels, pictures[0])


def test_stride_and_cap() -> None:
    pictures = [np.full((16, 16), 2 * n, np.uint8) for n in range(100)]
    data = write(pictures, *FORMATS["mkv-ffv1-gray"])
    for policy, expected in (
        (FramePolicy(stride=7), list(range(0, 100, 7))),
        (FramePolicy(cap=4), [12, 37, 62, 87]),
        (FramePolicy(stride=10, cap=3), [10, 50, 80]),
        (FramePolicy(cap=1), [50]),
        (FramePolicy(cap=1000), list(range(100))),
        (FramePolicy(nonempty=True), list(range(6, 100))),
        (FramePolicy(nonempty=True, stride=3, cap=2), [30, 78]),
    ):
        found = frames(data, policy=policy)
        assert [frame.index for frame in found] == expected, policy
        assert all((frame.pixels == 2 * frame.index).all() for frame in found)


def test_count_is_found_where_the_container_does_not_say() -> None:
    data = write(smooth(30), *FORMATS["webm-vp9"])
    assert media(data).count is None
    assert [frame.index for frame in frames(data, policy=FramePolicy(cap=3))] == [5, 15, 25]


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 3)])
def test_rotation_is_applied(matrix: tuple[int, int, int, int], turns: int) -> None:
    """The track matrix of ISO/IEC 14496-12, 8.3.2: (0, 1, -1, 0) is what phones held upright write."""
    data = bytearray(write([speckle(64, 96)] * 2, *FORMATS["mp4-h264"]))
    plain = frames(bytes(data))[0].pixels
    at = data.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    assert struct.unpack_from(">3l", data, at) == (1 << 16, 0, 0)
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">6l", data, at, a, b, 0, c, d, 0)
    np.testing.assert_array_equal(frames(bytes(data))[0].pixels, np.rot90(plain, -turns))


@pytest.mark.parametrize("name", ["mp4-h264", "mov-mjpeg", "avi-mjpeg", "avi-mpeg4"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_clip_is_truncated(name: str, share: float) -> None:
    data = write(smooth(30), *FORMATS[name])
    found, message = reason(lambda: frames(data[: int(len(data) * share)], name="clip"))
    assert found == "truncated" and message.startswith("clip: ")


def test_mp4_with_its_index_first_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width = 64, 96
        for picture in smooth(30):
            file.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p"))
            )
        file.mux(stream.encode())
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat") and len(frames(data)) == 30
    found, _ = reason(lambda: frames(data[:-200]))
    assert found == "truncated"


def test_damaged_clip_does_not_leak_a_foreign_error(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("mp4-h264", "avi-mjpeg", "webm-vp9"):
        data = write(smooth(10), *FORMATS[name])
        rng = np.random.default_rng(3)
        for _ in range(15):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 20):
                damaged[at] = int(rng.integers(256))
            try:
                frames(bytes(damaged), limits=DecodeLimits(pixels=1 << 20, frames=1000))
            except Exception as error:
                assert type(error).__name__ == "DecodeError", error
    assert capfd.readouterr().err == ""


def test_sound_only_and_gigapixel() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert reason(lambda: frames(out.getvalue()))[0] == "not-an-image"
    data = write(smooth(2), *FORMATS["mp4-h264"])
    assert reason(lambda: frames(data, limits=DecodeLimits(pixels=64 * 96 - 1)))[0] == "too-large"


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(write(smooth(2), *FORMATS["mp4-h264"]))
    playlist = f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n".encode()
    assert reason(lambda: media(playlist, "clip.mp4"))[0] == "not-an-image"


MEASURE = """
import resource, sys
from openus.decode import open_media
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as fp:
    count = sum(1 for _ in open_media(fp, "clip").frames())
print(count, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_growth(path: Path) -> tuple[int, int]:
    """(frames, KiB by which a fresh process grew while it went through them)."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    count, before, after = map(int, run.stdout.split())
    return count, after - before


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path) -> None:
    short, long = tmp_path / "short.mp4", tmp_path / "long.mp4"
    short.write_bytes(write([speckle(240, 320)] * 50, "mp4", "mpeg4", "yuv420p"))
    long.write_bytes(write([speckle(240, 320)] * 1000, "mp4", "mpeg4", "yuv420p"))
    (few, small), (many, large) = peak_growth(short), peak_growth(long)
    assert (few, many) == (50, 1000)
    assert large - small < 16 * 1024, f"{small} KiB for 50 frames, {large} KiB for 1000"


def blues(shared: Path) -> tuple[Tree, list[str]]:
    (path,) = (shared / "mirror/github.com/NinaWie/COVID-BLUES/archive").glob("*.zip")
    tree = Tree([path])
    return tree, [entry.path for entry in tree.entries() if entry.path.endswith(".mp4")]


def count_frames(tree: Tree, clips: list[str]) -> int:
    total = 0
    for member in tree.read(clips):
        with member.open() as reader:
            opened = open_media(reader, member.path)
            found = sum(frame.pixels.shape == (350, 350) for frame in opened.frames())
            assert found == opened.count
            total += found
    return total


@pytest.mark.realdata
def test_some_real_clips(shared: Path) -> None:
    tree, clips = blues(shared)
    assert len(clips) == 362
    chosen = [
        clip
        for clip in clips
        if clip.endswith(("patient_2_L2.mp4", "patient_10_L1.mp4", "patient_11_R2.mp4"))
    ]
    assert count_frames(tree, chosen) == 100 + 100 + 60
    with tree.open(chosen[0]) as reader:
        data = reader.read()
    for frame, rgb in zip(frames(data), via_ffmpeg(data), strict=True):
        if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
            np.testing.assert_array_equal(frame.pixels, rgb[..., 0])
        else:
            luma = rgb @ np.array([0.299, 0.587, 0.114])
            assert np.abs(frame.pixels - luma).max() <= 2.5


@pytest.mark.realdata
@pytest.mark.long
def test_all_real_clips(shared: Path) -> None:
    assert count_frames(*blues(shared)) == 31_746
