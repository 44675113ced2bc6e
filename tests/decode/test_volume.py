"""Volumes written by nibabel and SimpleITK: right slices on every axis, one scale per volume, safe headers."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its customary name)
from numpy.typing import NDArray

from openus.decode import DecodeLimits, open_media
from openus.manifest import FramePolicy
from tests.decode.test_image import colour, frames, media, reason, speckle
from tests.decode.test_video import MEASURE

Volume = NDArray[Any]


def volume(depth: int = 5, height: int = 40, width: int = 52, dtype: Any = np.uint8) -> Volume:
    """[z, y, x] with a different picture in every slice."""
    return np.stack([speckle(height, width, seed) for seed in range(depth)]).astype(dtype)


def nifti(
    values: Volume, *, zipped: bool = False, second: bool = False, slope: float = 1, inter: float = 0
) -> bytes:
    """[…, z, y, x] as NIfTI, whose own order is x first."""
    image = (nib.Nifti2Image if second else nib.Nifti1Image)(values.transpose(), np.eye(4))
    image.header.set_slope_inter(slope, inter)
    data: bytes = image.to_bytes()
    return gzip.compress(data, 1) if zipped else data


def itk(values: Volume, path: Path, *, vector: bool = False, compress: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=vector), str(path), compress)
    return path


WRITERS: dict[str, Callable[[Volume, Path], bytes]] = {
    "nii": lambda values, folder: nifti(values),
    "nii.gz": lambda values, folder: nifti(values, zipped=True),
    "nii2": lambda values, folder: nifti(values, second=True),
    "mha": lambda values, folder: itk(values, folder / "v.mha").read_bytes(),
    "mha-z": lambda values, folder: itk(values, folder / "v.mha", compress=True).read_bytes(),
    "nrrd": lambda values, folder: itk(values, folder / "v.nrrd").read_bytes(),
    "nrrd-z": lambda values, folder: itk(values, folder / "v.nrrd", compress=True).read_bytes(),
    "mha.gz": lambda values, folder: gzip.compress(itk(values, folder / "v.mha").read_bytes()),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_slices_along_each_axis(kind: str, tmp_path: Path) -> None:
    values = volume()
    data = WRITERS[kind](values, tmp_path)
    opened = media(data, "v")
    assert (opened.format, opened.kind, opened.count) == (
        kind[:3].replace("nii", "nifti").replace("nrr", "nrrd"),
        "slice",
        5,
    )
    for axis, number in (("z", 0), ("y", 1), ("x", 2)):
        found = frames(data, policy=FramePolicy(axis=axis))
        assert [frame.index for frame in found] == list(range(values.shape[number]))
        for frame in found:
            np.testing.assert_array_equal(frame.pixels, values.take(frame.index, axis=number))
            assert frame.pixels.flags.c_contiguous and frame.pixels.dtype == np.uint8
    some = frames(data, policy=FramePolicy(axis="y", stride=4, cap=2, rotate=90))
    assert [frame.index for frame in some] == [8, 28]
    np.testing.assert_array_equal(some[0].pixels, np.rot90(values[:, 8], -1))


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "mha", "mha-z", "nrrd"])
@pytest.mark.parametrize("rank", [2, 4])
def test_single_pictures_and_series(kind: str, rank: int, tmp_path: Path) -> None:
    values = volume(1)[0] if rank == 2 else np.stack([volume(3), volume(3)[::-1], volume(3) // 2])
    data = WRITERS[kind](values, tmp_path)
    if rank == 2:
        (frame,) = frames(data)
        np.testing.assert_array_equal(frame.pixels, values)
        assert media(data).kind == "image"
        return
    for frame in frames(data):
        np.testing.assert_array_equal(frame.pixels, values.reshape(9, 40, 52)[frame.index])
    times = media(data, policy=FramePolicy(axis="t"))
    assert (times.kind, times.count) == ("frame", 9)
    for frame in times.frames():
        np.testing.assert_array_equal(frame.pixels, values[frame.index % 3, frame.index // 3])
    across = frames(data, policy=FramePolicy(axis="x", stride=60))
    assert [frame.index for frame in across] == [0, 60, 120]
    np.testing.assert_array_equal(across[1].pixels, values[1, :, :, 8])


def test_third_dimension_as_time() -> None:
    opened = media(nifti(volume()), policy=FramePolicy(axis="t", stride=2))
    assert (opened.kind, opened.count) == ("frame", 5)
    for frame in opened.frames():
        np.testing.assert_array_equal(frame.pixels, volume()[frame.index])


@pytest.mark.parametrize("kind", ["nii", "mha", "mha-z", "nrrd"])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32", "float64", "int32"])
def test_one_scale_for_the_whole_volume(kind: str, dtype: str, tmp_path: Path) -> None:
    values = volume(4, dtype=np.float64) * np.array([1, 3, 9, 27])[:, None, None] + 300
    values = values.astype(dtype)
    low, high = float(values.min()), float(values.max())
    expected = np.rint((values - low) * (255 / (high - low)))
    data = WRITERS[kind](values, tmp_path)
    for axis in ("z", "y"):
        for frame in frames(data, policy=FramePolicy(axis=axis, stride=3)):
            difference = frame.pixels - expected.take(frame.index, axis=0 if axis == "z" else 1)
            assert np.abs(difference).max() <= 1  # the last digit of single precision


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32", "int8"])
def test_eight_bit_levels_in_wider_types_stay(dtype: str) -> None:
    values = volume(3)
    if dtype == "int8":
        values = values // 2
    for frame in frames(nifti(values.astype(dtype))):
        np.testing.assert_array_equal(frame.pixels, values[frame.index])


def test_fractions_nan_and_slope() -> None:
    fractions = (volume(3) / 255.0).astype(np.float32)
    fractions[0, 0, 0] = np.nan
    found = frames(nifti(fractions))
    assert found[0].pixels[0, 0] == 0
    np.testing.assert_array_equal(found[2].pixels, volume(3)[2])
    sloped = nib.Nifti1Image(volume(3).transpose(), np.eye(4)).to_bytes()
    header = bytearray(sloped)
    header[112:120] = np.array([2, -100], "<f4").tobytes()  # scl_slope, scl_inter
    real = volume(3) * 2.0 - 100
    for frame in frames(bytes(header)):
        expected = (real[frame.index] - real.min()) * 255 / (real.max() - real.min())
        assert np.abs(frame.pixels - expected).max() <= 0.51
    assert not frames(nifti(np.full((3, 9, 9), np.nan, np.float32)))[0].pixels.any()
    assert not frames(nifti(np.full((3, 9, 9), 4000, np.int16)))[0].pixels.any()


@pytest.mark.parametrize("big", [False, True])
def test_byte_order(big: bool) -> None:
    header = nib.Nifti1Header(endianness=">" if big else "<")
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image((volume(3).astype(np.int16) * 9).transpose(), np.eye(4), header)
    values = volume(3) * 9.0
    for frame in frames(image.to_bytes()):
        expected = (values[frame.index] - values.min()) * 255 / (values.max() - values.min())
        assert np.abs(frame.pixels - expected).max() <= 0.51


def test_colour(tmp_path: Path) -> None:
    values = np.stack([colour(40, 52), colour(40, 52)[::-1]])  # [z, y, x, 3]
    structured = np.zeros((52, 40, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for number, channel in enumerate("RGB"):
        structured[channel] = values[..., number].transpose()
    datas = {
        "nifti rgb24": nib.Nifti1Image(structured, np.eye(4)).to_bytes(),
        "nifti vector": nifti(np.moveaxis(values, 3, 0)[:, None]),
        "mha": itk(values, tmp_path / "v.mha", vector=True).read_bytes(),
        "nrrd": itk(values, tmp_path / "v.nrrd", vector=True).read_bytes(),
    }
    for name, data in datas.items():
        found = frames(data)
        assert len(found) == 2, name
        for frame in found:
            np.testing.assert_array_equal(frame.pixels, values[frame.index], err_msg=name)
        side = frames(data, policy=FramePolicy(axis="y", cap=1))
        np.testing.assert_array_equal(side[0].pixels, values[:, 20], err_msg=name)
    grey = np.repeat(volume(2)[..., None], 3, axis=3)
    assert frames(itk(grey, tmp_path / "g.mha", vector=True).read_bytes())[0].pixels.ndim == 2


@pytest.mark.parametrize("kind", ["nii", "mha", "nrrd"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_deep_colour_has_one_scale_too(kind: str, dtype: str, tmp_path: Path) -> None:
    """Three channels of more than 8 bits: scaled as grey is, neither cut to their lower bytes nor left as they are."""
    values = np.stack([volume(2) for _ in range(3)], axis=-1).astype(dtype) * 200
    values[..., 1] //= 2
    if kind == "nii":
        image = nib.Nifti1Image(np.transpose(values, (2, 1, 0, 3))[:, :, :, None], np.eye(4))
        data = image.to_bytes()
    else:
        data = itk(values, tmp_path / f"a.{kind}", vector=True).read_bytes()
    for frame, plane in zip(frames(data), values, strict=True):
        assert frame.pixels.dtype == np.uint8
        np.testing.assert_allclose(frame.pixels, plane * (255 / values.max()), atol=1.01)


def test_only_slices_that_are_not_black() -> None:
    values = volume(8)
    values[[0, 1, 5, 7]] = 3
    data = nifti(values, zipped=True)
    assert [f.index for f in frames(data, policy=FramePolicy(nonempty=True))] == [2, 3, 4, 6]
    assert [f.index for f in frames(data, policy=FramePolicy(nonempty=True, cap=2))] == [3, 6]
    assert [f.index for f in frames(data, policy=FramePolicy(nonempty=True, stride=2))] == [2, 4, 6]


def beside(folder: Path) -> Callable[[str], BinaryIO]:
    return lambda name: (folder / name).open("rb")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_header_with_its_data_beside(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = itk(volume(), tmp_path / f"v.{suffix}", compress=compress)
    assert len(list(tmp_path.iterdir())) == 2
    for frame in frames(path.read_bytes(), sibling=beside(tmp_path)):
        np.testing.assert_array_equal(frame.pixels, volume()[frame.index])
    found, message = reason(lambda: media(path.read_bytes(), "v"))
    assert found == "unsupported" and "beside it" in message
    (data,) = [p for p in tmp_path.iterdir() if p != path]
    data.write_bytes(data.read_bytes()[:-300])
    found, _ = reason(lambda: frames(path.read_bytes(), sibling=beside(tmp_path)))
    assert found == "truncated" or (suffix == "nhdr" and compress)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../v.raw", "LIST", "v%03d.raw 1 3 1", "sub/v.raw", "..\\v.raw"]
)
def test_header_that_names_another_file(tmp_path: Path, target: str) -> None:
    """ITK would open whatever path stands in a header."""
    path = itk(volume(), tmp_path / "v.mhd")
    opened: list[str] = []

    def sibling(name: str) -> BinaryIO:
        opened.append(name)
        return io.BytesIO(bytes(10**6))

    changed = path.read_text().replace("v.raw", target).encode()
    assert reason(lambda: media(changed, sibling=sibling))[0] == "unsupported"
    nhdr = itk(volume(), tmp_path / "v.nhdr").read_text()
    data_file = next(line for line in nhdr.splitlines() if line.startswith("data file"))
    changed = nhdr.replace(data_file, f"data file: {target}").encode()
    assert reason(lambda: media(changed, sibling=sibling))[0] == "unsupported"
    assert not opened


def test_raw_with_a_header_of_its_own(tmp_path: Path) -> None:
    path = itk(volume(), tmp_path / "v.mhd")
    raw = tmp_path / "v.raw"
    raw.write_bytes(b"x" * 100 + raw.read_bytes())
    text = path.read_text().replace("ElementDataFile", "HeaderSize = 100\nElementDataFile")
    for frame in frames(text.encode(), sibling=beside(tmp_path)):
        np.testing.assert_array_equal(frame.pixels, volume()[frame.index])


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    data = WRITERS[kind](volume(), tmp_path)
    found, message = reason(lambda: frames(data[: int(len(data) * share)], name="v"))
    assert found == "truncated" or (kind == "nrrd-z" and found == "corrupt")
    assert message.startswith("v: ")


def test_too_large_before_allocation(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((30_000, 30_000, 2))
    header["magic"] = b"n+1"
    data = header.binaryblock + bytes(400)
    assert reason(lambda: frames(data))[0] == "too-large"
    assert reason(lambda: frames(nifti(volume()), limits=DecodeLimits(pixels=40 * 52 - 1)))[0] == "too-large"
    assert reason(lambda: frames(nifti(volume()), limits=DecodeLimits(frames=4)))[0] == "too-large"
    bomb = nifti(np.zeros((50, 200, 200), np.uint8), zipped=True)
    assert reason(lambda: frames(bomb, limits=DecodeLimits(spool=10**6)))[0] == "too-large"
    packed = itk(np.zeros((50, 200, 200), np.uint8), tmp_path / "v.mha", compress=True).read_bytes()
    assert reason(lambda: frames(packed, limits=DecodeLimits(spool=10**6)))[0] == "too-large"
    nrrd = itk(np.zeros((50, 200, 200), np.uint8), tmp_path / "v.nrrd", compress=True).read_bytes()
    assert reason(lambda: frames(nrrd, limits=DecodeLimits(memory=10**6)))[0] == "too-large"


def test_shapes_that_are_no_pictures() -> None:
    for values in (np.zeros((4, 2, 3, 8, 8), np.uint8), np.zeros((3, 9, 9), np.complex64)):
        assert reason(lambda values=values: frames(nifti(values)))[0] == "unsupported"
    pair = bytearray(nifti(volume()))
    pair[344:348] = b"ni1\0"
    assert reason(lambda: frames(bytes(pair)))[0] == "unsupported"


def test_damaged_volumes_do_not_leak_a_foreign_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(11)
    for kind, writer in WRITERS.items():
        data = writer(volume(2, 12, 12), tmp_path)
        for _ in range(20):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 400), 4):
                damaged[at] = int(rng.integers(256))
            try:
                frames(bytes(damaged), limits=DecodeLimits(pixels=1 << 20, frames=500, memory=1 << 24))
            except Exception as error:
                assert type(error).__name__ == "DecodeError", f"{kind}: {error!r}"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["nii.gz", "mha-z", "nrrd"])
def test_class_numbers_of_any_type_stay_as_stored(kind: str, tmp_path: Path) -> None:
    values = np.zeros((2, 5, 6), np.float32)
    values[:, 1:3, 2:4] = 1
    data = WRITERS[kind](values, tmp_path)
    found = list(open_media(io.BytesIO(data), "mask", classes=True).frames())
    np.testing.assert_array_equal([frame.pixels for frame in found], values)
    assert max(frame.pixels.max() for frame in frames(data)) == 255  # as a picture they are fractions


@pytest.mark.parametrize("kind", ["nii.gz", "mha-z"])
def test_memory_does_not_grow_with_the_number_of_slices(kind: str, tmp_path: Path) -> None:
    growth = []
    for depth in (50, 1000):
        values = np.stack([speckle(300, 400, seed % 5) for seed in range(depth)])
        path = tmp_path / f"{depth}"
        path.write_bytes(WRITERS[kind](values, tmp_path))
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
        )
        found, before, after = map(int, run.stdout.split())
        assert found == depth
        growth.append(after - before)
    # 120 MB of slices; up to 64 MiB of an expanded gzip are held in memory.
    assert growth[1] - growth[0] < (72 if kind == "nii.gz" else 16) * 1024, growth
