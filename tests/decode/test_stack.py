"""Clips that lie one after another in one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from openus.decode import DecodeLimits
from openus.decode.stack import StackedClip, clips, open_clip
from openus.errors import DecodeError
from openus.manifest import FramePolicy, Stack

STACK = Stack(pixels="image", clip="annot_id", order="frame_num")
OWNERS = [b"129_", b"129_", b"129_", b"7_", b"7_"]
NUMBERS = [b"10", b"2", b"1", b"1", b"2"]
PICTURES = np.random.default_rng(3).integers(0, 256, (5, 8, 12), dtype=np.uint8)


def write(path: Path, **arrays: Any) -> Path:
    whole = {"image": PICTURES, "annot_id": np.array(OWNERS), "frame_num": np.array(NUMBERS), **arrays}
    with h5py.File(path, "w") as file:
        for name, values in whole.items():
            if values is not None:
                file[name] = values
    return path


def test_clips_are_put_in_order_by_number(tmp_path: Path) -> None:
    with write(tmp_path / "a.h5").open("rb") as file:
        found = clips(file, "a.h5", STACK)
        assert found == [StackedClip("129_", (2, 1, 0)), StackedClip("7_", (3, 4))]
        media = open_clip(file, "a.h5", STACK, found[0], FramePolicy())
        assert (media.format, media.kind, media.count) == ("hdf5", "frame", 3)
        frames = list(media.frames())
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame, row in zip(frames, (2, 1, 0), strict=True):
        np.testing.assert_array_equal(frame.pixels, PICTURES[row])
        assert frame.pixels.flags.c_contiguous


def test_without_numbers_frames_stay_as_they_lie(tmp_path: Path) -> None:
    with write(tmp_path / "a.h5").open("rb") as file:
        assert clips(file, "a.h5", Stack(pixels="image", clip="annot_id"))[0].rows == (0, 1, 2)


def test_numbers_and_names_may_be_integers_and_colour_is_kept(tmp_path: Path) -> None:
    colour = np.random.default_rng(4).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    path = write(
        tmp_path / "a.h5",
        image=colour,
        annot_id=np.array([4, 4, 4, 9, 9]),
        frame_num=np.array([3, 2, 1, 0, 1]),
    )
    with path.open("rb") as file:
        found = clips(file, "a.h5", STACK)
        assert found == [StackedClip("4", (2, 1, 0)), StackedClip("9", (3, 4))]
        [frame] = open_clip(file, "a.h5", STACK, found[1], FramePolicy(stride=2)).frames()
    np.testing.assert_array_equal(frame.pixels, colour[3])


def test_a_policy_counts_within_the_clip(tmp_path: Path) -> None:
    with write(tmp_path / "a.h5").open("rb") as file:
        clip = clips(file, "a.h5", STACK)[0]
        frames = list(open_clip(file, "a.h5", STACK, clip, FramePolicy(stride=2)).frames())
    assert [frame.index for frame in frames] == [0, 2]
    np.testing.assert_array_equal(frames[1].pixels, PICTURES[0])


def test_pictures_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    with write(tmp_path / "a.h5").open("rb") as file:
        clip = clips(file, "a.h5", STACK)[0]
        media = open_clip(file, "a.h5", STACK, clip, FramePolicy(), DecodeLimits(pixels=95))
        with pytest.raises(DecodeError, match="12 x 8 pixels, more than the limit of 95"):
            list(media.frames())


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"image": None}, "no array 'image' in it .it holds annot_id, frame_num"),
        ({"annot_id": None}, "no array 'annot_id'"),
        ({"image": PICTURES.astype(np.float32)}, "float32 .5, 8, 12.; expected uint8"),
        ({"image": PICTURES[:, 0]}, "expected uint8 .n, H, W."),
        ({"annot_id": np.array(OWNERS[:4])}, "shape .4,.; expected .5,."),
        ({"frame_num": np.array([b"1", b"x", b"3", b"4", b"5"])}, "frame 1 has clip '129_' and number 'x'"),
        ({"annot_id": np.array([b"../a"] * 5)}, "frame 0 has clip '../a'"),
        ({"frame_num": np.array([b"--1"] * 5)}, "frame 0 has clip .* and number '--1'"),
        ({"frame_num": np.array(["\N{SUPERSCRIPT TWO}".encode()] * 5)}, "frame 0 has clip"),
    ],
)
def test_what_does_not_belong_together_is_named(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    with write(tmp_path / "a.h5", **arrays).open("rb") as file, pytest.raises(DecodeError, match=problem):
        clips(file, "a.h5", STACK)


def test_a_file_that_is_not_hdf5_or_is_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    for data in (b"", b"not an array file", path.read_bytes()[:200]):
        path.write_bytes(data)
        with path.open("rb") as file, pytest.raises(DecodeError, match=r"a\.h5: (corrupt|truncated): "):
            clips(file, "a.h5", STACK)


def test_arrays_of_other_files_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other.h5")
    external = write(tmp_path / "a.h5", image=h5py.ExternalLink(str(tmp_path / "other.h5"), "image"))
    with external.open("rb") as file, pytest.raises(DecodeError, match="no array 'image'"):
        clips(file, "a.h5", STACK)
    layout = h5py.VirtualLayout((5, 8, 12), "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", (5, 8, 12))
    path = write(tmp_path / "b.h5", image=None)
    with h5py.File(path, "a") as archive:
        archive.create_virtual_dataset("image", layout)
    with path.open("rb") as file, pytest.raises(DecodeError, match="not an array inside this file"):
        clips(file, "b.h5", STACK)
