"""Changes of training images: the same for the same generator, mild, black stays black, masks go along."""

from __future__ import annotations

import pytest
import torch

from usfmae.tasks.recipe import AugmentSettings
from usfmae.tasks.training.augment import augment, draw

OFF = {
    "hflip": 0.0,
    "rotate": 0.0,
    "zoom": (1.0, 1.0),
    "stretch": 0.0,
    "shift": 0.0,
    "gain": 0.0,
    "gamma": 0.0,
}


def only(**changes: object) -> AugmentSettings:
    """Settings with nothing but `changes`."""
    return AugmentSettings(**(OFF | changes))  # type: ignore[arg-type]


@pytest.fixture
def images() -> torch.Tensor:
    """Grey gradients with a black left third, uint8 [8, 1, 48, 48]."""
    ramp = torch.linspace(40, 220, 48).repeat(8, 1, 48, 1).to(torch.uint8)
    ramp[..., :16] = 0
    return ramp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_nothing_changed(images: torch.Tensor) -> None:
    changes = draw(8, only(), generator())
    assert changes.place is changes.gamma is changes.contrast is changes.gain is changes.box is None
    pixels, masks = augment(images, changes)
    assert masks is None and torch.equal(pixels, images.float() / 255)


def test_the_same_draw_gives_the_same_and_each_image_its_own(images: torch.Tensor) -> None:
    every = AugmentSettings(contrast=0.2, erase=0.5)
    one, two = (augment(images, draw(8, every, generator(3)))[0] for _ in range(2))
    assert torch.equal(one, two) and one.min() >= 0 and one.max() <= 1
    assert len({float(image.sum()) for image in one}) == 8
    other, _ = augment(images, draw(8, every, generator(4)))
    assert not torch.equal(one, other)


def test_a_batch_of_an_epoch_has_its_part_of_the_draw(images: torch.Tensor) -> None:
    every = AugmentSettings(contrast=0.2, erase=0.5)
    changes = draw(8, every, generator())
    whole, _ = augment(images, changes)
    parts = [augment(images[part], changes[part])[0] for part in (slice(0, 3), slice(3, 8))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


@pytest.mark.parametrize("change", [{"gain": 0.3}, {"contrast": 0.5}, {"gamma": 0.5}])
def test_grey_changes_keep_black_and_order(images: torch.Tensor, change: dict[str, float]) -> None:
    pixels, _ = augment(images, draw(8, only(**change), generator()))
    assert pixels[..., :16].max() < 1e-4
    assert not torch.allclose(pixels, images.float() / 255, atol=0.02)
    assert (pixels[..., 16:].diff() >= -1e-6).all()


def test_masks_go_where_their_image_goes(images: torch.Tensor) -> None:
    masks = (images[:, 0] > 120).to(torch.uint8)
    settings = AugmentSettings(rotate=20, gain=0, gamma=0)
    pixels, moved = augment(images, draw(8, settings, generator()), masks)
    assert moved is not None and moved.dtype == torch.uint8 and set(moved.unique().tolist()) == {0, 1}
    differ = (moved.bool() != (pixels[:, 0] > 120 / 255)).float().mean()
    assert differ < 0.04  # only along the edge


def test_flips_and_boxes_come_as_often_as_asked(images: torch.Tensor) -> None:
    many = images[:1].expand(400, -1, -1, -1)
    pixels, _ = augment(many, draw(400, only(hflip=0.5), generator()))
    flipped = (pixels[:, 0, :, 0] > 0.5).all(1).float().mean()
    assert 0.4 < flipped < 0.6
    white = torch.full((400, 1, 48, 48), 255, dtype=torch.uint8)
    erased = augment(white, draw(400, only(erase=0.25), generator()))[0] == 0
    share = erased.float().mean((1, 2, 3))
    assert 0.17 < (share > 0).float().mean() < 0.33 and share.max() < 0.22 and share[share > 0].min() > 0.01
