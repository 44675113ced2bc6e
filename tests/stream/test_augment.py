"""Augmentation: what it promises, and that no result depends on the rest of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from openus.errors import UsageError
from usfmae.stream.augment import Augment, hashed, near_normal, uniform
from usfmae.stream.plan import mix

SEEDS = torch.randint(-(2**63), 2**63 - 1, (40,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    smooth = torch.rand(40, 1, 14, 14, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(smooth, 56, mode="bicubic").clamp(0, 255).to(torch.uint8)


EVERYTHING = Augment(
    size=48, crop=(0.2, 1.0), flip_v=0.3, rotate=0.5, blur=0.5, speckle=0.5, mean=0.2, std=0.25
)  # fmt: skip


@pytest.mark.parametrize("augment", [Augment(), Augment(rotate=0.5), EVERYTHING])
def test_a_sample_is_augmented_alike_in_any_batch(images: torch.Tensor, augment: Augment) -> None:
    whole = augment(images, SEEDS)
    parts = torch.cat([augment(images[i : i + 7], SEEDS[i : i + 7]) for i in range(0, 40, 7)])
    order = torch.randperm(40)
    assert torch.equal(whole, parts)
    assert torch.equal(whole[order], augment(images[order], SEEDS[order]))


def test_other_seeds_augment_otherwise(images: torch.Tensor) -> None:
    first, second = EVERYTHING(images, SEEDS), EVERYTHING(images, SEEDS + 1)
    assert (first != second).flatten(1).any(1).all()


def test_normalisation_is_the_usual_one(images: torch.Tensor) -> None:
    plain = Augment(flip=0, mean=0.25, std=0.2)(images, SEEDS)
    assert plain.dtype == torch.float32 and plain.shape == images.shape
    assert torch.allclose(plain, (images / 255 - 0.25) / 0.2, atol=1e-5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    three = Augment(flip=0, mean=mean, std=std)(images, SEEDS)
    assert torch.allclose(three, tv.normalize(images.expand(-1, 3, -1, -1) / 255, mean, std), atol=1e-5)
    assert Augment(dtype=torch.bfloat16)(images, SEEDS).dtype == torch.bfloat16


def test_the_input_is_left_alone(images: torch.Tensor) -> None:
    before = images.clone()
    EVERYTHING(images, SEEDS)
    Augment(flip_v=0.5, mean=0.1)(images, SEEDS)
    Augment(flip=0)(images.float(), SEEDS)
    assert torch.equal(images, before)


def test_flips_happen_as_often_as_asked(images: torch.Tensor) -> None:
    seeds = torch.arange(4000)
    one = images[:1].expand(4000, -1, -1, -1)
    flipped = (Augment(flip=0.3)(one, seeds) == Augment(flip=1)(one, seeds)).flatten(1).all(1)
    assert abs(flipped.float().mean() - 0.3) < 0.03
    assert torch.allclose(Augment(flip=1)(images, SEEDS), images.flip(-1) / 255, atol=1e-6)


def test_warping_by_nothing_changes_nothing(images: torch.Tensor) -> None:
    plain = Augment(flip=0.5, flip_v=0.5)(images, SEEDS)
    warped = Augment(flip=0.5, flip_v=0.5, rotate=1.0, degrees=0.0, crop=(1.0, 1.0))(images, SEEDS)
    square = Augment(flip=0.5, flip_v=0.5, crop=(1.0, 1.0), ratio=(1.0, 1.0))(images, SEEDS)
    assert (warped - plain).abs().mean() < 0.02  # an aspect is drawn; at full area it is clipped to 1
    assert torch.allclose(square, plain, atol=1e-3)


def test_rotation_is_that_of_torchvision(images: torch.Tensor) -> None:
    rotated = Augment(flip=0, rotate=1.0, degrees=20.0)(images, SEEDS) * 255
    angles = (uniform(SEEDS, 8) * 2 - 1) * 20.0
    assert angles.min() < -10 and angles.max() > 10
    middle = (..., slice(16, 40), slice(16, 40))  # corners are filled differently
    for image, angle, found in zip(images, angles.tolist(), rotated, strict=True):
        turned = tv.rotate(image.float(), -angle, tv.InterpolationMode.BILINEAR)
        other = tv.rotate(image.float(), angle, tv.InterpolationMode.BILINEAR)
        errors = [(found[middle] - expected[middle]).abs().mean() for expected in (turned, other)]
        assert min(errors) < 0.5


def test_blur_is_that_of_torchvision(images: torch.Tensor) -> None:
    blurred = Augment(flip=0, blur=1.0, sigma=(1.5, 1.5))(images, SEEDS) * 255
    expected = tv.gaussian_blur(images.float(), [11, 11], [1.5, 1.5])
    assert (blurred - expected).abs().max() < 0.01
    some = Augment(flip=0, blur=0.5, sigma=(1.5, 1.5))(images, SEEDS) * 255
    sharp = (some == Augment(flip=0)(images, SEEDS) * 255).flatten(1).all(1)
    assert 5 < int(sharp.sum()) < 35  # the rest exactly as it was


def test_speckle_is_multiplicative_noise_of_the_given_strength() -> None:
    grey = torch.full((200, 1, 56, 56), 100, dtype=torch.uint8)
    noisy = Augment(flip=0, speckle=1.0, strength=0.1)(grey, torch.arange(200)) * 255
    assert abs(noisy.mean() - 100) < 0.2 and abs(noisy.std() - 10) < 0.1
    assert torch.equal(Augment(speckle=1.0)(grey * 0, torch.arange(200)), torch.zeros(200, 1, 56, 56))


def test_numbers_are_those_of_the_plan() -> None:
    """The device's hash is the SplitMix64 the order is made of, wrap-around included."""
    with np.errstate(over="ignore"):
        expected = mix(SEEDS.numpy().view(np.uint64) + np.uint64(5) * np.uint64(0x9E3779B97F4A7C15))
    assert hashed(SEEDS, 5).numpy().view(np.uint64).tolist() == expected.tolist()


def test_uniform_and_near_normal_numbers_are_what_they_are_called() -> None:
    u = uniform(torch.arange(50_000), 3)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(torch.stack([u, uniform(torch.arange(50_000), 4)]))[0, 1]) < 0.02
    z = near_normal(torch.arange(30), 20_000)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and z.abs().max() < 3.5
    assert abs((z**4).mean() - 2.7) < 0.05
    assert (torch.corrcoef(z) - torch.eye(30)).abs().max() < 0.05
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.01 and abs((z[:, 56:] * z[:, :-56]).mean()) < 0.01


def test_crops_cover_the_asked_areas(images: torch.Tensor) -> None:
    ramp = torch.arange(64).repeat(64, 1).to(torch.uint8)[None, None].expand(2000, -1, -1, -1)
    cropped = Augment(flip=0, crop=(0.25, 0.25), ratio=(1.0, 1.0))(ramp, torch.arange(2000)) * 255
    widths = cropped[..., -1].mean((1, 2)) - cropped[..., 0].mean((1, 2))
    assert torch.allclose(widths, torch.full((2000,), 63 / 64 * 32), atol=0.6)
    lefts = cropped[..., 0].mean((1, 2))
    assert lefts.min() < 1 and lefts.max() > 31 and math.isclose(lefts.mean(), 15.7, abs_tol=0.8)


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"flip": 1.5},
        {"blur": -0.1},
        {"crop": (0.0, 1.0)},
        {"crop": (0.5, 0.2)},
        {"sigma": (0.0, 1.0)},
    ):
        with pytest.raises(UsageError, match="augment"):
            Augment(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="too wide"):
        Augment(blur=1.0, sigma=(1.0, 9.0))(torch.zeros(1, 1, 16, 16, dtype=torch.uint8), SEEDS[:1])
