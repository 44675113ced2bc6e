"""JPEG without its colours, where nobody asks for them."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from openus.clean import to_grey
from openus.clean.area import shrink
from openus.decode import Frame, decode_image, open_media
from openus.dedup.hashes import pixel_sha256
from tests.helpers import stills


def coloured(height: int = 120, width: int = 163) -> np.ndarray:
    """Smooth tissue with a filled area in colour and a yellow line."""
    random = np.random.default_rng(3)
    noise = cv2.GaussianBlur(random.random((height, width)), (0, 0), 3)
    grey = cv2.normalize(noise, None, 20, 200, cv2.NORM_MINMAX).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[30:60, 40:80] = (190, 40, 30)
    picture[80:83, 10:150] = (230, 220, 20)
    return picture


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def frame(data: bytes, grey: bool) -> Frame:
    (found,) = open_media(io.BytesIO(data), "x.jpg", grey=grey).frames()
    return found


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_luma_is_what_grey_would_be_made_of_the_colours(options: dict[str, object]) -> None:
    data = jpeg(coloured(), **options)
    luma, colours = frame(data, grey=True), frame(data, grey=False)
    assert luma.pixels.shape == (120, 163) and colours.pixels.shape == (120, 163, 3)
    assert luma.pixels.flags.c_contiguous and luma.file is None  # the file holds more
    # Equal but for rounding, and for colours brighter than any screen shows, which come out clipped.
    apart = np.abs(luma.pixels.astype(int) - to_grey(colours.pixels))
    assert np.quantile(apart, 0.99) <= 2 and apart.max() <= 30


@pytest.mark.parametrize("stacked", [False, True])
def test_grey_files_stay_what_they_are(stacked: bool) -> None:
    grey = coloured()[..., 2]
    data = jpeg(np.repeat(grey[..., None], 3, axis=2) if stacked else grey)
    luma, whole = frame(data, grey=True), frame(data, grey=False)
    np.testing.assert_array_equal(luma.pixels, whole.pixels)
    np.testing.assert_array_equal(luma.pixels, decode_image(data))
    assert whole.file == data and luma.file == (None if stacked else data)


def test_turned_and_other_pictures() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = frame(jpeg(coloured(), exif=exif), grey=True).pixels
    np.testing.assert_array_equal(turned, np.rot90(frame(jpeg(coloured()), grey=True).pixels, k=-1))
    buffer = io.BytesIO()
    Image.fromarray(coloured()).save(buffer, "PNG")
    np.testing.assert_array_equal(frame(buffer.getvalue(), grey=True).pixels, coloured())
    cmyk = io.BytesIO()
    Image.fromarray(coloured()).convert("CMYK").save(cmyk, "JPEG")
    assert frame(cmyk.getvalue(), grey=True).pixels.shape == (120, 163, 3)


@pytest.mark.parametrize("level", ["none", "sector"])
def test_a_build_looks_at_colours_only_to_clean(tmp_path: Path, level: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jpg").write_bytes(jpeg(coloured()))
    done = stills.build(tmp_path, data, f"clean: {{level: {level}, size: 64}}")
    assert f"{data}/a.jpg" not in done.stderr  # it was closed, not left to the collector
    (row,) = stills.rows(tmp_path)
    if level == "none":
        luma = simplejpeg.decode_jpeg((data / "a.jpg").read_bytes(), colorspace="GRAY")[..., 0]
        assert row["pixel_sha256"] == pixel_sha256(shrink(luma, 87, 64)) and row["flags"] == ""
    else:
        assert "colour-doppler" in row["flags"]
