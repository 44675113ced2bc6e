import hashlib

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from openus.dedup import hashes
from openus.dedup.hashes import phash, phashes, pixel_sha256


def speckle(seed: int, height: int = 180, width: int = 240) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.rayleigh(1, (height, width)) * cv2.GaussianBlur(rng.random((height, width)), (0, 0), 20) ** 8
    return (255 * noise / noise.max()).astype(np.uint8)


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_pixel_hash_covers_shape_and_pixels() -> None:
    flat = np.zeros((4, 6), np.uint8)
    assert pixel_sha256(flat) != pixel_sha256(flat.reshape(6, 4))
    assert pixel_sha256(flat) == hashlib.sha256(b"\4\0\0\0\6\0\0\0" + bytes(24)).hexdigest()
    assert pixel_sha256(speckle(1)[:, ::2]) == pixel_sha256(np.ascontiguousarray(speckle(1)[:, ::2]))


def test_phash_survives_resizing_and_jpeg_but_tells_pictures_apart() -> None:
    picture = speckle(1)
    base = phash(picture)
    assert len(base) == 64
    small = cv2.resize(picture, (160, 120), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE
    )
    others = [distance(base, phash(speckle(seed))) for seed in range(2, 22)]
    assert distance(base, phash(small)) < min(others) / 2
    assert distance(base, phash(jpeg)) < min(others) / 2


def test_phashes_of_many_are_those_of_each() -> None:
    pictures = [speckle(seed, 100 + 7 * seed, 90 + 31 * seed) for seed in range(5)]
    assert phashes(pictures) == [phash(picture) for picture in pictures] and phashes([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_phash_agrees_with_imagehash(seed: int) -> None:
    picture = speckle(seed, 64, 64)  # equal size, so that only the transform is compared
    theirs = imagehash.phash(Image.fromarray(picture), hash_size=16, highfreq_factor=4)
    bits = np.packbits(theirs.hash).tobytes().hex()
    assert distance(phash(picture), bits) <= 4  # ties at the median only


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (90, 127), (131, 255), (257, 459), (128, 128), (40, 25)]
)
def test_phash_is_exact(height: int, width: int) -> None:
    """Its sums are of whole numbers below 2^53: no order of adding, and so no processor, gives other bits."""
    picture = speckle(height, height, width)
    small = picture.astype(int)
    halvings = [max(0, side.bit_length() - 7) for side in picture.shape]
    small = np.pad(
        small, [(0, -side % 2**n) for side, n in zip(picture.shape, halvings, strict=True)], "edge"
    )
    for _ in range(min(halvings)):
        small = (sum(small[y::2, x::2] for y in (0, 1) for x in (0, 1)) + 2) // 4
    assert halvings[0] == halvings[1] and max(small.shape) <= 128
    down, across = (hashes._waves(side).astype(int) for side in picture.shape)
    low = down.astype(object) @ small.astype(object) @ across.T.astype(object)
    assert int(np.abs(down).sum(axis=1).max()) * int(np.abs(across).sum(axis=1).max()) * 255 < 2**53
    ordered = sorted(low.ravel())
    bits = np.array([value > ordered[127] for value in low.ravel()])
    assert phash(picture) == np.packbits(bits).tobytes().hex()


def test_halving_shifts_nothing() -> None:
    """The bits of a picture are nearly those of it shrunk by area: what halving leaves over stays in its place."""
    moved = []
    for seed in range(12):
        picture = cv2.GaussianBlur(speckle(seed, 256 + 13 * seed, 259 + 21 * seed), (0, 0), 3)
        picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
        small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
        moved.append(distance(phash(picture), phash(small)))
    assert np.mean(moved) <= 3 and max(moved) <= 8


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (5, 3), (1, 70_000), (70_000, 3), (300, 20), (64, 5000)]
)
def test_phash_of_odd_shapes(height: int, width: int) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (height, width), np.uint8)
    assert len(phash(picture)) == 64
    assert phash(np.zeros((height, width), np.uint8)) == "0" * 64


def test_phash_of_a_long_picture_is_that_of_its_squashed_copy() -> None:
    long = speckle(3, 100, 1600)
    assert distance(phash(long), phash(cv2.resize(long, (100, 100), interpolation=cv2.INTER_AREA))) <= 10
