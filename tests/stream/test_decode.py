"""Pictures to views: the right grey values, the right sizes, nothing believed of a hostile header."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from openus.errors import DecodeError
from tests.helpers.corpus import encode, make_corpus, picture
from usfmae.stream.decode import Grey, crop_boxes, cut, decode_any, decode_grey, decode_side_of, reductions
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader
from usfmae.stream.plan import key


@pytest.fixture(scope="module")
def grey() -> Grey:
    return picture(np.random.default_rng(1), 257, 401, True)[0]


@pytest.mark.parametrize("fmt", ["png", "webp"])
def test_lossless_pictures_come_back_exactly(grey: Grey, fmt: str) -> None:
    assert np.array_equal(decode_grey(encode(grey, fmt), 401, 257), grey)


def test_jpeg_is_decoded_as_pillow_does(grey: Grey) -> None:
    data = encode(grey, "jpg")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode_grey(data, 401, 257).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("fmt", ["jpg", "png", "webp"])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_pictures_show_the_same(grey: Grey, fmt: str, reduction: int) -> None:
    small = decode_grey(encode(grey, fmt), 401, 257, reduction)
    assert small.shape == (-(-257 // reduction), -(-401 // reduction))
    expected = cv2.resize(grey, small.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small[:-1, :-1].astype(int) - expected[:-1, :-1]).mean() < 4


def test_colour_becomes_luminance() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = cv2.imencode(".png", colour)[1].tobytes()
    expected = colour @ np.array([0.114, 0.587, 0.299])
    assert np.abs(decode_grey(data, 50, 40) - expected).max() < 1.1


def test_reductions_keep_the_short_side() -> None:
    sides = np.array([255, 256, 511, 512, 1024, 2048, 9000])
    assert reductions(sides, sides * 2, 256).tolist() == [1, 1, 1, 2, 4, 8, 8]
    assert reductions(sides, sides, 0).tolist() == [1] * 7
    assert decode_side_of(224) == 256


@pytest.mark.parametrize("fmt", ["jpg", "png", "webp"])
@pytest.mark.parametrize("keep", [0, 10, 30, 0.5, 0.9])
def test_cut_pictures_are_refused(grey: Grey, fmt: str, keep: float) -> None:
    data = encode(grey, fmt)
    part = data[: int(keep if keep >= 1 else keep * len(data))]
    with pytest.raises(DecodeError):
        decode_grey(part, 401, 257)
    with pytest.raises(DecodeError):
        decode_any(part, 256)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture at all", b"GIF89a" + bytes(100), b"\xff\xd8" + bytes(100)]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_grey(data, 401, 257)


def test_another_size_than_the_row_says_is_refused(grey: Grey) -> None:
    for fmt in ("jpg", "png", "webp"):
        with pytest.raises(DecodeError, match="401x257, its row says 402x257"):
            decode_grey(encode(grey, fmt), 402, 257)


def test_a_header_of_30000_x_30000_allocates_nothing() -> None:
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(DecodeError, match="30000x30000"):
        decode_grey(b"\x89PNG\r\n\x1a\n" + chunk + bytes(64), 100, 100)
    with pytest.raises(DecodeError) as error:
        decode_any(b"\x89PNG\r\n\x1a\n" + chunk + bytes(64), 256)
    assert error.value.reason == "too-large"


def test_a_row_and_a_header_that_agree_on_60000_x_60000_allocate_nothing() -> None:
    data = bytearray(encode(np.zeros((32, 32), np.uint8), "jpg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(DecodeError, match="60000x60000") as error:
        decode_grey(bytes(data), 60_000, 60_000, rows=60_000)
    assert error.value.reason == "too-large"


def test_crop_boxes_follow_the_reference_rule() -> None:
    """Area, aspect and place are distributed as torchvision's RandomResizedCrop draws them."""
    import torch

    n, width, height = 6000, 340, 256
    torch.manual_seed(0)
    canvas = torch.empty(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(canvas, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    top, left, h, w = theirs.T
    boxes = crop_boxes(key(3, np.arange(n)), np.full(n, width), np.full(n, height), (0.2, 1.0))
    x, y, w1, h1 = boxes.T
    assert (x >= 0).all() and (y >= 0).all() and (x + w1 <= width).all() and (y + h1 <= height).all()
    for ours, reference in ((w1 * h1, w * h), (np.log(w1 / h1), np.log(w / h)), (x, left), (y, top)):
        points = np.quantile(reference, np.linspace(0.05, 0.95, 10))
        shares = np.searchsorted(np.sort(ours), points) / n
        assert np.abs(shares - np.linspace(0.05, 0.95, 10)).max() < 0.035


def test_a_box_depends_on_its_seed_alone() -> None:
    seeds, width, height = key(1, np.arange(50)), np.arange(50) + 60, np.full(50, 90)
    together = crop_boxes(seeds, width, height, (0.2, 1.0))
    alone = [
        crop_boxes(seeds[i : i + 1], width[i : i + 1], height[i : i + 1], (0.2, 1.0))[0] for i in range(50)
    ]
    assert np.array_equal(together, np.stack(alone))


def test_extreme_pictures_have_a_box() -> None:
    width, height = np.array([1, 1000, 1, 3]), np.array([1, 1, 1000, 2])
    boxes = crop_boxes(key(np.arange(4)), width, height, (0.2, 1.0))
    assert (boxes[:, 2:] >= 1).all() and (boxes[:, 0] + boxes[:, 2] <= width).all()
    assert (boxes[:, 1] + boxes[:, 3] <= height).all()


def test_cutting_resizes_the_box_in_place(grey: Grey) -> None:
    out = np.zeros((2, 224, 224), np.uint8)
    cut(grey, 30, 20, 200, 150, out[1])
    assert np.array_equal(
        out[1], cv2.resize(grey[20:170, 30:230], (224, 224), interpolation=cv2.INTER_LINEAR)
    )
    assert not out[0].any()
    cut(grey, 0, 0, 401, 257, out[0][:64, :64])  # shrunk by more than two: averaged
    assert np.array_equal(out[0][:64, :64], cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA))


def jpegs() -> dict[str, bytes]:
    """A grey, a colour (4:2:0: coded units of 16 rows) and a progressive JPEG, 257 x 401."""
    shades = picture(np.random.default_rng(5), 257, 401, False)[0]
    colour = cv2.applyColorMap(shades, cv2.COLORMAP_BONE)
    return {
        "grey": encode(shades, "jpg"),
        "colour": cv2.imencode(".jpg", colour)[1].tobytes(),
        "progressive": cv2.imencode(".jpg", shades, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    }


@pytest.mark.parametrize("kind", ["grey", "colour", "progressive"])
@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_the_first_rows_alone_are_those_of_the_whole(kind: str, reduction: int) -> None:
    data = jpegs()[kind]
    whole = decode_grey(data, 401, 257, reduction)
    for rows in (1, 7, 16, 33, len(whole) - 1, len(whole)):
        for given in (data, memoryview(bytearray(data))):
            part = decode_grey(given, 401, 257, reduction, rows=rows)
            assert len(part) >= rows and np.array_equal(part[:rows], whole[:rows])
    short = decode_grey(data, 401, 257, reduction, rows=4)
    assert (len(short) < len(whole)) == (kind != "progressive")
    assert data == jpegs()[kind]  # bytes are never changed, only writable views


def test_any_one_wrong_byte_is_noticed(tmp_path: Path) -> None:
    """What decoding alone misses, the hash of the row does not."""
    index = open_index(make_corpus(tmp_path, {"pretrain": 8}))
    rng = np.random.default_rng(0)
    shard = tmp_path / "pretrain" / index.shards[0]
    sound = shard.read_bytes()
    for _ in range(25):
        row = int(rng.integers(index.count))
        at = int(index.offset[row] + rng.integers(index.size[row]))
        shard.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << int(rng.integers(8))]) + sound[at + 1 :])
        loader = Loader(index, batch_size=8, size=32, seed=0, epochs=1)
        list(loader)
        assert [(bad.row, bad.reason) for bad in loader.bad] == [(row, "altered")]


def test_unchecked_pictures_are_decoded_whole_and_look_the_same(tmp_path: Path) -> None:
    index = open_index(make_corpus(tmp_path, {"pretrain": 24}, size=90))
    checked, unchecked = (
        list(Loader(index, batch_size=8, size=32, seed=0, epochs=1, check=check)) for check in (True, False)
    )
    assert all(np.array_equal(a.images, b.images) for a, b in zip(checked, unchecked, strict=True))
