"""Bytes that are stored as they came: only of grey pictures that did not change, and never with a note in them."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from openus.decode import decode_image
from openus.decode.original import original

GREY = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 255, (60, 83)).astype(np.uint8), (0, 0), 1.5)


def encoded(form: str, mode: str = "L", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 40, "restart_marker_rows": 1}])
def test_a_plain_jpeg_passes_byte_for_byte(options: dict[str, Any]) -> None:
    data = encoded("JPEG", **options)
    assert original(data, "jpg") == data
    assert original(data, "png") is None


def test_a_plain_png_passes_byte_for_byte() -> None:
    data = cv2.imencode(".png", GREY)[1].tobytes()
    assert original(data, "png") == data
    assert original(data, "jpg") is None


def test_notes_of_a_jpeg_stay_behind_and_its_pixels_do_not_change() -> None:
    exif = Image.Exif()
    exif[0x010E] = "DOE^JANE"
    noted = (
        encoded("JPEG", exif=exif, comment=b"DOE^JANE", icc_profile=b"DOE^JANE" * 40) + b"\0DOE^JANE\xff\xd9"
    )
    bare = original(noted, "jpg")
    assert bare is not None and b"JANE" in noted and b"JANE" not in bare
    assert np.array_equal(decode_image(bare), decode_image(noted))


def test_notes_of_a_png_stay_behind_and_its_pixels_do_not_change() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "DOE^JANE")
    noted = encoded("PNG", pnginfo=text) + b"DOE^JANE"
    bare = original(noted, "png")
    assert bare is not None and b"JANE" in noted and b"JANE" not in bare
    assert np.array_equal(decode_image(bare), GREY)


@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "1"), ("PNG", "P")]
)
def test_what_is_not_grey_is_coded_anew(form: str, mode: str) -> None:
    assert original(encoded(form, mode), "jpg" if form == "JPEG" else "png") is None


@given(st.integers(0, 4000), st.integers(0, 255), st.sampled_from(["JPEG", "PNG"]))
def test_mangled_files_pass_or_do_not_and_never_fail(at: int, value: int, form: str) -> None:
    data = bytearray(encoded(form))
    data[at % len(data)] = value
    original(bytes(data), "jpg" if form == "JPEG" else "png")
    original(bytes(data[: at % len(data)]), "jpg" if form == "JPEG" else "png")
