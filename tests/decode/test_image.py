"""Still pictures: the right pixels against Pillow and hand-made arrays, and the right reason for what is broken."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from openus.decode import DecodeLimits, Frame, Media, decode_image, open_media
from openus.errors import DecodeError
from openus.manifest import FramePolicy

Array = NDArray[Any]


def speckle(height: int = 60, width: int = 81, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth bright blob under multiplicative noise: compresses like ultrasound, uses the whole range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    blob = np.exp(-(((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2) * 6)
    return np.clip(blob * rng.rayleigh(90, (height, width)), 0, 255).astype(np.uint8)


def colour(height: int = 60, width: int = 81) -> NDArray[np.uint8]:
    return np.stack([speckle(height, width, seed) for seed in range(3)], axis=2)


def encode(image: Image.Image | Array, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, kind, **options)
    return out.getvalue()


def media(data: bytes, name: str = "x.bin", **options: Any) -> Media:
    return open_media(io.BytesIO(data), name, **options)


def frames(data: bytes, name: str = "x.bin", **options: Any) -> list[Frame]:
    return list(media(data, name, **options).frames())


def one(data: bytes, **options: Any) -> Array:
    (frame,) = frames(data, **options)
    assert frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous and frame.index == 0
    np.testing.assert_array_equal(frame.pixels, decode_image(data))
    return frame.pixels


def reason(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(DecodeError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return caught.value.reason, message


LOSSLESS = ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000"]
NAMES = {"JPEG2000": "jp2", "JPEG": "jpg"}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_grey_and_colour_without_loss(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(one(encode(speckle(), kind, **options)), speckle())
    opened = media(encode(speckle(), kind, **options))
    assert (opened.format, opened.kind, opened.count) == (NAMES.get(kind, kind.lower()), "image", 1)
    if kind != "GIF":  # 256 colours only
        np.testing.assert_array_equal(one(encode(colour(), kind, **options)), colour())


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS if kind != "GIF"])
def test_grey_stored_as_colour_comes_out_grey(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    stacked = np.repeat(speckle()[..., None], 3, axis=2)
    np.testing.assert_array_equal(one(encode(stacked, kind, **options)), speckle())
    stacked[59, 80, 1] ^= 1  # one coloured pixel in the last row keeps the colour
    np.testing.assert_array_equal(one(encode(stacked, kind, **options)), stacked)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(subsampling: int, progressive: bool) -> None:
    for picture in (speckle(), colour()):
        data = encode(picture, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        np.testing.assert_array_equal(one(data), np.asarray(Image.open(io.BytesIO(data))))
    stacked = encode(np.repeat(speckle()[..., None], 3, axis=2), "JPEG", quality=90)
    assert one(stacked).ndim == 2
    np.testing.assert_array_equal(one(stacked), np.asarray(Image.open(io.BytesIO(stacked)))[..., 0])


def test_cmyk_jpeg() -> None:
    data = encode(Image.fromarray(colour()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(one(data).astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() == 0
    assert one(data).shape == (60, 81, 3)


def test_one_bit_palette_and_interlaced() -> None:
    bits = speckle() > 60
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(one(encode(Image.fromarray(bits), kind)), bits * np.uint8(255))
    palette = Image.fromarray(colour()).quantize(64)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(one(encode(palette, kind)), np.asarray(palette.convert("RGB")))


def test_transparency_is_composited_on_black() -> None:
    alpha = np.linspace(0, 255, 60 * 81).astype(np.uint8).reshape(60, 81)
    expected = np.rint(colour() * (alpha[..., None] / 255.0))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        pixels = one(encode(np.dstack([colour(), alpha]), kind, **options))
        assert np.abs(pixels - expected).max() <= 1
    grey = one(encode(Image.merge("LA", [Image.fromarray(speckle()), Image.fromarray(alpha)]), "PNG"))
    assert grey.ndim == 2 and np.abs(grey - np.rint(speckle() * (alpha / 255.0))).max() <= 1
    keyed = one(encode(speckle(), "PNG", transparency=200))
    np.testing.assert_array_equal(keyed, np.where(speckle() == 200, 0, speckle()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(colour(), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(one(data), expected)
    assert expected.shape[:2] == ((81, 60) if orientation > 4 else (60, 81))


def test_broken_exif_does_not_spoil_the_picture() -> None:
    data = encode(speckle(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.abs(one(data).astype(int) - speckle()).mean() < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_by_the_range_of_the_file(kind: str) -> None:
    deep = speckle().astype(np.uint16) * 13 + 700
    low, high = int(deep.min()), int(deep.max())
    np.testing.assert_array_equal(one(encode(deep, kind)), np.rint((deep - float(low)) * 255 / (high - low)))
    small = speckle().astype(np.uint16)  # 8-bit levels in a 16-bit file stay as they are
    np.testing.assert_array_equal(one(encode(small, kind)), speckle())
    constant = np.full((9, 9), 5000, np.uint16)
    assert not one(encode(constant, kind)).any()


def test_float_tiff() -> None:
    fraction = (speckle() / 255.0).astype(np.float32)
    fraction[0, 0] = np.nan
    expected = speckle().copy()
    expected[0, 0] = 0
    np.testing.assert_array_equal(one(encode(fraction, "TIFF")), expected)
    spread = (speckle().astype(np.float32) - 128) * 3
    low, high = spread.min(), spread.max()
    assert np.abs(one(encode(spread, "TIFF")) - (spread - low) * 255 / (high - low)).max() <= 0.51


def pages(kind: str, pictures: list[Array], **options: Any) -> bytes:
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    return encode(first, kind, save_all=True, append_images=rest, **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_several_pages(kind: str) -> None:
    pictures = [speckle(seed=seed) for seed in range(7)]
    data = pages(kind, pictures, **({"lossless": True} if kind == "WEBP" else {}))
    opened = media(data)
    assert (opened.kind, opened.count) == ("frame", 7)
    found = list(opened.frames())
    assert [frame.index for frame in found] == list(range(7))
    for frame, picture in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture)
    some = frames(data, policy=FramePolicy(stride=2, cap=2))
    assert [frame.index for frame in some] == [2, 6]
    np.testing.assert_array_equal(some[1].pixels, pictures[6])
    np.testing.assert_array_equal(decode_image(data), pictures[0])


def test_pages_of_a_deep_tiff_share_one_scale() -> None:
    pictures = [speckle(seed=seed).astype(np.uint16) * (seed + 1) * 20 for seed in range(3)]
    high = max(int(picture.max()) for picture in pictures)
    for frame, picture in zip(frames(pages("TIFF", pictures)), pictures, strict=True):
        np.testing.assert_array_equal(frame.pixels, np.rint(picture * (255.0 / high)))


def test_pages_of_different_depth() -> None:
    """Deep pages become 8-bit by a scale of their own, whichever comes first; the others stay as they are."""
    deep = speckle().astype(np.uint16) * 200
    for pictures in ([speckle(), deep], [deep, speckle()]):
        for frame in frames(pages("TIFF", pictures)):
            assert frame.pixels.dtype == np.uint8
            assert np.abs(frame.pixels.astype(int) - np.rint(speckle() * (255 / speckle().max()))).max() <= (
                255 - int(speckle().max())
            )


def test_zero_may_be_white() -> None:
    """TIFF 6.0, PhotometricInterpretation 0; Pillow turns pages of 8 bits when it writes, and those alone."""
    deep = speckle().astype(np.uint16) * 257
    shown = one(encode(deep, "TIFF", tiffinfo={262: 0}))
    np.testing.assert_array_equal(shown, 255 - one(encode(deep, "TIFF")))
    np.testing.assert_array_equal(one(encode(speckle(), "TIFF", tiffinfo={262: 0})), speckle())


def deep_file(form: str, values: Array) -> bytes:
    """uint16 [H, W, C] as a file: PNG, or TIFF: by libtiff, of either byte order, or channel after channel."""
    if form in ("png", "tiff"):
        shown = values if values.shape[2] == 1 else np.dstack([values[..., 2::-1], values[..., 3:]])
        return bytes(cv2.imencode(f".{form}", shown)[1].tobytes())
    order, planar = ("<" if "II" in form else ">"), "planar" in form
    planes = np.moveaxis(values, 2, 0) if planar else values[None]
    parts = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    (height, width, channels), at, offsets = values.shape, 8, []
    for part in parts:
        offsets.append(at)
        at += len(part)
    extra = {338: [1 if "premultiplied" in form else 2]} if channels == 4 else {}
    tags = {
        256: [width], 257: [height], 258: [16] * channels, 259: [1], 262: [2], 273: offsets, 277: [channels],
        278: [height], 279: [len(part) for part in parts], 284: [2 if planar else 1],
    } | extra  # fmt: skip
    table, tail = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            where, tail = at + 2 + 12 * len(tags) + 4 + len(tail), tail + packed
            packed = struct.pack(f"{order}I", where)
        table += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return head + b"".join(parts) + struct.pack(f"{order}H", len(tags)) + table + bytes(4) + tail


@pytest.mark.parametrize("form", ["png", "tiff", "II", "MM", "II planar", "MM planar"])
@pytest.mark.parametrize("opaque", [False, True])
def test_deep_colours_by_the_range_of_the_file(form: str, opaque: bool) -> None:
    """Twelve bits in words of sixteen, of which the upper bytes alone are nearly black."""
    values = colour().astype(np.uint16) * 15 + 40
    low, high = float(values.min()), float(values.max())
    data = deep_file(form, np.dstack([values, np.full((60, 81), 65535, np.uint16)]) if opaque else values)
    np.testing.assert_array_equal(one(data), np.rint((values - low) * (255 / (high - low))))
    (frame,) = frames(data)
    assert frame.file is None, "what is stored must be what was decoded"
    small = deep_file(form, colour().astype(np.uint16))
    np.testing.assert_array_equal(one(small), colour(), "8-bit levels in a 16-bit file stay as they are")
    grey = deep_file(form, np.dstack([values[..., :1]] * 3))
    np.testing.assert_array_equal(one(grey), one(encode(values[..., 0], "PNG")), "the rule of deep grey")


@pytest.mark.parametrize("form", ["png", "tiff", "MM", "MM premultiplied"])
def test_transparency_of_deep_colours_is_composited_on_black(form: str) -> None:
    values = colour().astype(np.uint16) * 15
    alpha = np.full((60, 81, 1), 65535, np.uint16)
    alpha[:30] = 65535 // 3
    shown = np.rint(values * (alpha / 65535))
    stored = shown.astype(np.uint16) if "premultiplied" in form else values
    expected = shown * (255 / shown.max())
    assert np.abs(one(deep_file(form, np.dstack([stored, alpha]))) - expected).max() <= 0.51


def test_deep_png_of_grey_with_alpha_and_an_orientation() -> None:
    values = speckle().astype(np.uint16) * 15
    body = np.dstack([values, np.full((60, 81), 65535, np.uint16)]).astype(">u2")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(part)) + name + part + struct.pack(">L", zlib.crc32(name + part))
        for name, part in (
            (b"IHDR", struct.pack(">2L5B", 81, 60, 16, 4, 0, 0, 0)),
            (b"eXIf", exif.tobytes()[6:]),
            (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in body))),
            (b"IEND", b""),
        )
    )
    np.testing.assert_array_equal(one(data), np.rot90(one(encode(values, "PNG")), -1))


def test_pages_of_a_tiff_of_deep_colours_share_one_scale(tmp_path: Path) -> None:
    values = [colour().astype(np.uint16) * factor for factor in (4, 16)]
    assert cv2.imwritemulti(str(tmp_path / "two.tiff"), [page[..., ::-1] for page in values])
    data = (tmp_path / "two.tiff").read_bytes()
    high = float(values[1].max())
    for frame, page in zip(frames(data), values, strict=True):
        np.testing.assert_array_equal(frame.pixels, np.rint(page * (255 / high)))


def test_a_bmp_that_forgot_its_fourth_byte() -> None:
    pixels = np.dstack([colour()[::-1, :, ::-1], np.zeros((60, 81), np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 81, 60, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 14 + 108) + header + pixels
    np.testing.assert_array_equal(one(data), colour())


def test_preview_pages_of_a_tiff_are_no_frames() -> None:
    data = bytearray(pages("TIFF", [speckle(), speckle(30, 40)], tiffinfo={254: 0}))
    offset = struct.unpack_from("<L", data, 4)[0]
    count = struct.unpack_from("<H", data, offset)[0]
    second = struct.unpack_from("<L", data, offset + 2 + 12 * count)[0]
    tags = {struct.unpack_from("<H", data, second + 2 + 12 * n)[0]: second + 2 + 12 * n for n in range(3)}
    struct.pack_into("<L", data, tags[254] + 8, 1)
    np.testing.assert_array_equal(one(bytes(data)), speckle())


def test_animated_gif_frames_are_whole_pictures() -> None:
    """Later frames of a GIF hold only what changed; transparent pixels show the frame before."""
    base = Image.fromarray(colour()).quantize(60)
    dot = base.copy()
    dot.paste(0, (10, 10, 20, 20))
    data = pages("GIF", [np.asarray(base.convert("RGB")), np.asarray(dot.convert("RGB"))])
    reference = Image.open(io.BytesIO(data))
    for frame in frames(data):
        reference.seek(frame.index)
        np.testing.assert_array_equal(frame.pixels, np.asarray(reference.convert("RGB")))
    assert len(frames(data)) == 2


def test_orientation_policy() -> None:
    data = encode(speckle(), "PNG")
    for rotate in (0, 90, 180, 270):
        for flip, turn in (("none", None), ("horizontal", np.fliplr), ("vertical", np.flipud)):
            (frame,) = frames(data, policy=FramePolicy(rotate=rotate, flip=flip))
            clockwise = np.asarray(Image.fromarray(speckle()).rotate(-rotate, expand=True))
            np.testing.assert_array_equal(frame.pixels, turn(clockwise) if turn else clockwise)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + body + struct.pack(">L", zlib.crc32(body))


def huge(kind: str) -> bytes:
    """A header of 30,000 x 30,000 pixels with next to nothing behind it."""
    if kind == "png":
        return png_header(30_000, 30_000)
    data = bytearray(encode(speckle(8, 8), {"jpg": "JPEG", "jp2": "JPEG2000"}.get(kind, kind.upper())))
    if kind == "jpg":
        at = data.find(b"\xff\xc0")
        struct.pack_into(">2H", data, at + 5, 30_000, 30_000)
    elif kind == "bmp":
        struct.pack_into("<2l", data, 18, 30_000, 30_000)
    elif kind == "gif":
        struct.pack_into("<2H", data, 6, 30_000, 30_000)
    elif kind == "tiff":
        at = struct.unpack_from("<L", data, 4)[0] + 2
        for entry in range(at, at + 24, 12):
            assert struct.unpack_from("<H", data, entry)[0] in (256, 257)
            struct.pack_into("<HLL", data, entry + 2, 4, 1, 30_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "tiff"])
def test_gigapixel_header_is_refused_before_allocation(kind: str) -> None:
    found, message = reason(lambda: frames(huge(kind), name=f"huge.{kind}"))
    assert found == "too-large" and message.startswith(f"huge.{kind}: ")
    assert re.search("30,000 x 30,000|900000000 pixels", message)
    assert reason(lambda: decode_image(huge(kind)))[0] == "too-large"


def test_limits_are_adjustable() -> None:
    data = encode(speckle(), "PNG")
    assert reason(lambda: frames(data, limits=DecodeLimits(pixels=60 * 81 - 1)))[0] == "too-large"
    assert frames(data, limits=DecodeLimits(pixels=60 * 81))
    many = pages("TIFF", [speckle()] * 5)
    assert reason(lambda: frames(many, limits=DecodeLimits(frames=4)))[0] == "too-large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated(kind: str, share: float) -> None:
    data = encode(colour(200, 200), kind)
    found, message = reason(lambda: frames(data[: int(len(data) * share)], name="cut"))
    assert found in ("truncated", "corrupt") and message.startswith("cut: ")
    if kind in ("PNG", "JPEG", "TIFF", "BMP"):
        assert found == "truncated"


def test_not_images() -> None:
    assert reason(lambda: media(b""))[0] == "empty-file"
    assert reason(lambda: media(b"\x89PNG"))[0] == "truncated"
    for data, word in (
        (b"just a note\n" * 50, "is text"),
        (b"<!DOCTYPE html><html></html>" * 20, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git LFS"),
        (bytes(1000), "zeros"),
        (bytes(range(1, 200)), "no kind"),
    ):
        found, message = reason(lambda data=data: media(data, "photo.png"))
        assert found == "not-an-image" and word in message and message.startswith("photo.png: ")


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_altered_png_is_corrupt(at: float) -> None:
    data = bytearray(encode(speckle(), "PNG"))
    data[int(len(data) * at)] ^= 0x10
    assert reason(lambda: frames(bytes(data)))[0] == "corrupt"


def test_decoders_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(encode(colour(), "PNG"))
    damaged[len(damaged) // 2] ^= 1
    for data in (
        bytes(damaged),
        *(encode(colour(), kind)[:900] for kind in ("PNG", "TIFF", "JPEG", "JPEG2000")),
    ):
        reason(lambda data=data: frames(data))
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_class_numbers_stay_as_stored() -> None:
    """Of a mask, palettes and single bits give numbers, where a picture would show colours and white."""
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    indexed = Image.fromarray(classes)
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # two classes of equal brightness
    bits = Image.fromarray(classes > 0)
    for picture, expected in ((indexed, classes), (bits, classes > 0), (Image.fromarray(classes), classes)):
        out = io.BytesIO()
        picture.save(out, "PNG")
        (found,) = open_media(io.BytesIO(out.getvalue()), "mask.png", classes=True).frames()
        np.testing.assert_array_equal(found.pixels, expected)
    turned = FramePolicy(rotate=90)
    (found,) = open_media(io.BytesIO(out.getvalue()), "mask.png", policy=turned, classes=True).frames()
    np.testing.assert_array_equal(found.pixels, np.rot90(classes, -1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mangled_pictures_give_pixels_or_a_decode_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000"]))
    mangled = bytearray(encode(colour(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        mangled[data.draw(st.integers(0, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = frames(bytes(mangled), limits=DecodeLimits(pixels=1 << 22, frames=50))
    except DecodeError as error:
        assert error.reason in {"truncated", "corrupt", "unsupported", "too-large", "not-an-image"}
    else:
        assert all(frame.pixels.dtype == np.uint8 for frame in found)


@pytest.mark.realdata
def test_real_pictures(shared: Path) -> None:
    for path in sorted((shared / "data/bus-bra/BUSBRA/Images").glob("*.png"))[::100]:
        np.testing.assert_array_equal(one(path.read_bytes()), np.asarray(Image.open(path)))
