"""DICOM: pixels against GDCM (through SimpleITK), PS3.3 arithmetic and what was written; nothing identifying read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (its customary name)
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from openus.decode import DecodeLimits
from openus.manifest import FramePolicy
from tests.decode.test_image import colour, encode, frames, media, reason, speckle
from tests.decode.test_video import FORMATS, MEASURE, smooth, write

ULTRASOUND = {
    "ExplVR_BigEnd.dcm": "RGB, planes apart, big-endian",
    "examples_rgb_color.dcm": "RGB, with a TIFF header in the preamble",
    "examples_palette.dcm": "PALETTE COLOR",
    "examples_jpeg2k.dcm": "JPEG 2000",
    "examples_ybr_color.dcm": "a cine of 30 frames, JPEG, YBR_FULL_422",
}


def dicom(
    values: NDArray[Any], syntax: str = ExplicitVRLittleEndian, *, pixels: bytes | None = None, **tags: Any
) -> bytes:
    """A file of [N, H, W] or [N, H, W, 3] values; `pixels` replaces what is stored as Pixel Data."""
    ds = FileDataset(None, {}, preamble=bytes(128), file_meta=FileMetaDataset())
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UltrasoundMultiFrameImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid()
    ds.Modality, ds.PatientName, ds.PatientID, ds.StudyDate = "US", "Doe^Jane", "4711", "20200101"
    ds.InstitutionName, ds.Manufacturer, ds.PatientBirthDate = "General Hospital", "Maker", "19700101"
    ds.NumberOfFrames, ds.Rows, ds.Columns = values.shape[:3]
    ds.SamplesPerPixel = 3 if values.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if values.ndim == 4 else "MONOCHROME2"
    if values.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * values.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(values.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = pixels if pixels is not None else values.astype(values.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW" if values.dtype.itemsize > 1 else "OB"
    ds["PixelData"].is_undefined_length = pixels is not None
    for key, value in tags.items():
        setattr(ds, key, value)
    if syntax == RLELossless:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds["PixelData"].is_undefined_length = False
        ds.compress(RLELossless)
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def clip(count: int = 5) -> NDArray[np.uint8]:
    return np.stack([speckle(seed=seed) for seed in range(count)])


@pytest.mark.parametrize("name", ULTRASOUND)
def test_real_ultrasound_equals_gdcm(name: str) -> None:
    path = get_testdata_file(name)
    reference = sitk.GetArrayFromImage(sitk.ReadImage(path))
    data = Path(path).read_bytes()
    opened = media(data, name)
    assert (opened.format, opened.meta["Modality"], opened.count) == ("dicom", "US", len(reference))
    assert opened.kind == ("frame" if len(reference) == 30 else "image")
    for frame, expected in zip(opened.frames(), reference, strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)
        assert frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous


def test_cine_equals_its_jpegs() -> None:
    path = get_testdata_file("examples_ybr_color.dcm")
    ds = pydicom.dcmread(path)
    jpegs = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=30))
    found = frames(Path(path).read_bytes(), policy=FramePolicy(stride=4, cap=3))
    assert [frame.index for frame in found] == [4, 16, 24]
    for frame in found:
        np.testing.assert_array_equal(frame.pixels, np.asarray(Image.open(io.BytesIO(jpegs[frame.index]))))


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
)
def test_lossless_syntaxes(syntax: str) -> None:
    for values in (clip(), np.stack([colour()] * 2)):
        found = frames(dicom(values, syntax))
        assert [frame.index for frame in found] == list(range(len(values)))
        for frame, expected in zip(found, values, strict=True):
            np.testing.assert_array_equal(frame.pixels, expected)
        (last,) = frames(dicom(values, syntax), policy=FramePolicy(cap=1))
        np.testing.assert_array_equal(last.pixels, values[len(values) // 2])


def test_grey_stored_as_colour_comes_out_grey() -> None:
    values = np.repeat(clip(1)[..., None], 3, axis=3)
    (frame,) = frames(dicom(values))
    np.testing.assert_array_equal(frame.pixels, speckle())


@pytest.mark.parametrize(
    ("mode", "photometric"), [("L", "MONOCHROME2"), ("L", "MONOCHROME1"), ("RGB", "YBR_FULL_422")]
)
def test_jpeg_cine(mode: str, photometric: str) -> None:
    pictures = [Image.fromarray(colour() if mode == "RGB" else speckle(seed=seed)) for seed in range(4)]
    jpegs = [encode(picture, "JPEG", quality=90) for picture in pictures]
    values = np.stack([np.asarray(picture) for picture in pictures])
    data = dicom(values, JPEGBaseline8Bit, pixels=encapsulate(jpegs), PhotometricInterpretation=photometric)
    for frame, jpeg in zip(frames(data), jpegs, strict=True):
        expected = np.asarray(Image.open(io.BytesIO(jpeg)))
        np.testing.assert_array_equal(
            frame.pixels, 255 - expected if photometric == "MONOCHROME1" else expected
        )


def test_jpeg_whose_header_lies_about_its_colours() -> None:
    """RGB in the header, YCbCr with a JFIF marker in the JPEG: pydicom's rules decide, as for every viewer on it."""
    data = dicom(colour()[None], JPEGBaseline8Bit, pixels=encapsulate([encode(colour(), "JPEG", quality=95)]))
    expected = pydicom.dcmread(io.BytesIO(data)).pixel_array
    np.testing.assert_array_equal(one_frame(data), expected)


def one_frame(data: bytes, **options: Any) -> NDArray[np.uint8]:
    (frame,) = frames(data, **options)
    return frame.pixels


def test_monochrome1_is_inverted() -> None:
    np.testing.assert_array_equal(
        one_frame(dicom(clip(1), PhotometricInterpretation="MONOCHROME1")), 255 - speckle()
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_of_deep_pixels(function: str) -> None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, checked against pydicom's implementation."""
    values = (clip(1).astype(np.int16) - 100) * 9
    tags = {"WindowCenter": 200, "WindowWidth": 700, "VOILUTFunction": function}
    tags |= {"RescaleSlope": 2, "RescaleIntercept": -50}
    data = dicom(values, **tags)
    ds = pydicom.dcmread(io.BytesIO(data))
    shown = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(ds.pixel_array, ds), ds)
    low, high = (2 * bound - 50 for bound in (-32768, 32767))  # the output range pydicom scales to
    expected = (shown - low) / (high - low) * 255
    assert np.abs(one_frame(data) - expected).max() <= 0.51


def test_voi_lut_sequence() -> None:
    values = clip(1).astype(np.uint16)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], (65535 - 257 * np.arange(256)).astype("<u2").tobytes()
    np.testing.assert_array_equal(one_frame(dicom(values, VOILUTSequence=[item])), 255 - speckle())


def test_voi_lut_comes_after_the_modality_lut() -> None:
    """PS3.3 C.11.2.1.1: its input is what rescaling gives, here the stored values less 1,000 halved."""
    stored = clip(1).astype(np.uint16) * 2 + 1000
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], (65535 - 257 * np.arange(256)).astype("<u2").tobytes()
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": -500, "VOILUTSequence": [item]}
    np.testing.assert_array_equal(one_frame(dicom(stored, **tags)), 255 - speckle())


def test_tables_of_more_entries_than_their_values_have_levels() -> None:
    """4,096 entries of 8 bits: pydicom counts them in 8 bits, and shows black."""
    stored = clip(1).astype(np.uint16) * 16
    table = (255 - np.arange(4096) // 16).astype(np.uint8)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 8], table.astype("<u2").tobytes()
    np.testing.assert_array_equal(one_frame(dicom(stored, VOILUTSequence=[item])), 255 - speckle())
    np.testing.assert_array_equal(one_frame(palette(stored, table, 8)), 255 - speckle())


def palette(stored: NDArray[Any], table: NDArray[Any], bits: int) -> bytes:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(table), 0, bits]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    return dicom(stored, **tags)


def test_eight_bit_colours_under_a_header_of_sixteen() -> None:
    """Palettes and RGB whose values need 8 bits and lie in 16: the upper byte alone is black."""
    levels = np.arange(256, dtype="<u2")
    np.testing.assert_array_equal(one_frame(palette(clip(1), 255 - levels, 16)), 255 - speckle())
    np.testing.assert_array_equal(one_frame(palette(clip(1), 257 * levels, 16)), speckle())
    colours = np.stack([clip(1), 255 - clip(1), clip(1) // 2], axis=-1)
    for stored in (8, 12, 16):
        values = colours.astype(np.uint16) << (stored - 8)
        data = dicom(values, BitsStored=stored, HighBit=stored - 1)
        np.testing.assert_array_equal(one_frame(data), colours[0])


@pytest.mark.parametrize("tags", [{"WindowCenter": None, "WindowWidth": None}, {"VOILUTSequence": []}])
def test_a_window_that_is_there_and_empty_is_none(tags: dict[str, Any]) -> None:
    """As programs leave it that take names out of files."""
    values = clip(1).astype(np.uint16) * 16
    np.testing.assert_array_equal(one_frame(dicom(values, **tags)), one_frame(dicom(values)))


def test_deep_pixels_without_window_by_the_range_of_the_cine() -> None:
    values = clip(4).astype(np.uint16) * np.array([1, 5, 20, 90], np.uint16)[:, None, None]
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        found = frames(dicom(values, syntax), policy=FramePolicy(stride=2))
        for frame in found:
            np.testing.assert_array_equal(frame.pixels, np.rint(values[frame.index] * (255 / values.max())))
    np.testing.assert_array_equal(one_frame(dicom(clip(1).astype(np.uint16))), speckle())


def test_one_bit() -> None:
    bits = speckle(16, 16) > 60
    packed = np.packbits(bits, bitorder="little").tobytes()
    data = dicom(bits[None].astype(np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    np.testing.assert_array_equal(one_frame(data), bits * np.uint8(255))


def test_mpeg_in_dicom() -> None:
    stream = write(smooth(10), *FORMATS["mp4-h264"])
    data = dicom(np.stack(smooth(10)), MPEG4HP41, pixels=encapsulate([stream]))
    opened = media(data)
    assert (opened.format, opened.kind, opened.count) == ("dicom", "frame", 10)
    for frame, expected in zip(opened.frames(), frames(stream), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected.pixels)


def test_without_preamble_and_file_meta() -> None:
    full = pydicom.dcmread(io.BytesIO(dicom(clip(2))))
    out = io.BytesIO()
    bare = Dataset()
    bare.update(full)
    bare.save_as(out, implicit_vr=True, little_endian=True)
    for frame, expected in zip(frames(out.getvalue()), clip(2), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


def test_meta_holds_the_allow_list_only() -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 60, 50
    region.RegionDataType, region.PhysicalDeltaX = 1, 0.05
    data = dicom(
        clip(2), SequenceOfUltrasoundRegions=[region], FrameTime="40", ManufacturerModelName="LOGIQ\x1b[31m"
    )
    meta = media(data).meta
    assert meta["Manufacturer"] == "Maker" and meta["FrameTime"] == "40" and meta["NumberOfFrames"] == "2"
    assert "\x1b" not in meta["ManufacturerModelName"]
    (found,) = json.loads(meta["SequenceOfUltrasoundRegions"])
    assert found == {
        "RegionLocationMinX0": 10, "RegionLocationMinY0": 20, "RegionLocationMaxX1": 60, "RegionLocationMaxY1": 50,
        "RegionDataType": 1, "PhysicalDeltaX": 0.05,
    }  # fmt: skip
    text = str(dict(meta))
    for secret in ("Doe", "4711", "2020", "General", "1970", "1.2.826"):
        assert secret not in text


@pytest.mark.parametrize("share", [0.4, 0.8, 0.99])
def test_truncated(share: float) -> None:
    jpegs = [encode(picture, "JPEG", quality=90) for picture in clip()]
    for data in (
        dicom(clip()),
        dicom(clip(), RLELossless),
        dicom(clip(), JPEGBaseline8Bit, pixels=encapsulate(jpegs)),
        Path(get_testdata_file("examples_ybr_color.dcm")).read_bytes(),
    ):
        found, message = reason(lambda data=data: frames(data[: int(len(data) * share)], name="cine"))
        assert found == "truncated" and message.startswith("cine: ")


def test_headers_that_promise_too_much() -> None:
    jpegs = [encode(picture, "JPEG") for picture in clip(2)]
    many = dicom(clip(2), JPEGBaseline8Bit, pixels=encapsulate(jpegs), NumberOfFrames=65_000)
    found, message = reason(lambda: frames(many))
    assert found == "truncated" and "65,000 frames" in message
    assert reason(lambda: frames(dicom(clip(2), NumberOfFrames=65_000)))[0] == "truncated"
    assert reason(lambda: frames(many, limits=DecodeLimits(frames=64_999)))[0] == "too-large"
    assert reason(lambda: frames(dicom(clip(1), Rows=30_000, Columns=30_000)))[0] == "too-large"


def test_no_pixels_and_no_decoder() -> None:
    assert reason(lambda: media(Path(get_testdata_file("test-SR.dcm")).read_bytes()))[0] == "not-an-image"
    lossless = dicom(clip(1), JPEGLosslessSV1, pixels=encapsulate([b"\xff\xd8\xff\xd9"]))
    found, message = reason(lambda: frames(lossless))
    assert found == "unsupported" and "JPEG Lossless" in message
    unknown = dicom(clip(1), "1.2.3.4", pixels=encapsulate([b"xx"]))
    assert reason(lambda: frames(unknown))[0] == "unsupported"
    broken = dicom(clip(1), JPEG2000Lossless, pixels=encapsulate([b"\xff\x4f\xff\x51 nonsense"]))
    assert reason(lambda: frames(broken))[0] == "corrupt"


def test_damaged_files_do_not_leak_a_foreign_error(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(7)
    for name in ULTRASOUND:
        data = Path(get_testdata_file(name)).read_bytes()
        for _ in range(15):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 3000), 12):
                damaged[at] = int(rng.integers(256))
            try:
                frames(bytes(damaged), limits=DecodeLimits(pixels=1 << 22))
            except Exception as error:
                assert type(error).__name__ == "DecodeError", error
    assert capfd.readouterr().err == ""


def test_every_file_of_pydicom_gives_frames_or_a_decode_error() -> None:
    decoded = 0
    for path in sorted(Path(get_testdata_file("CT_small.dcm")).parent.glob("*.dcm")):
        try:
            decoded += len(frames(path.read_bytes(), name=path.name))
        except Exception as error:
            assert type(error).__name__ == "DecodeError", f"{path.name}: {error}"
    assert decoded > 50


def test_memory_does_not_grow_with_the_length_of_a_cine(tmp_path: Path) -> None:
    growth = []
    for count in (50, 1000):
        path = tmp_path / f"{count}.dcm"
        path.write_bytes(dicom(np.stack([speckle(240, 320)] * count)))
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
        )
        found, before, after = map(int, run.stdout.split())
        assert found == count
        growth.append(after - before)
    assert growth[1] - growth[0] < 16 * 1024, f"{growth} KiB for 50 and 1000 frames of 77 kB"
