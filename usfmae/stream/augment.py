"""Augmentation on the device, in batch, seeded per draw: uint8 [B,1,S,S] to normalised float [B,C,s,s].

Every random number is a hash of the draw's seed and of what it is for (SplitMix64 in integer arithmetic), so a
sample is augmented alike in any batch, on any rank, on CPU and GPU; all arithmetic is element by element,
so no result depends on the rest of the batch. Nothing is copied back from the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openus.errors import UsageError

# What a random number is for; a new purpose takes a new number, so that old ones keep their values.
_AREA, _ASPECT, _X, _Y, _FLIP, _FLIP_V, _ROTATE, _ANGLE, _BLUR, _SIGMA, _SPECKLE, _NOISE = range(1, 13)


@dataclass(frozen=True)
class Augment:
    """A pipeline; call it with images and seeds.

    Args:
        size: side s of the result; None keeps the side of the input.
        crop: area range of a random resized crop made here; None: the input is a view already (the loader crops
            while it decodes), and another `size` only resizes it.
        ratio: aspect range of that crop.
        flip, flip_v: probability of a left-right and of a top-bottom flip.
        rotate, degrees: probability of a rotation, and its greatest angle; what enters at the corners mirrors
            the picture.
        blur, sigma: probability of a Gaussian blur, and the range of its standard deviation in pixels.
        speckle, strength: probability of multiplicative noise x (1 + strength n), n of zero mean and unit
            variance (the sum of four uniform bytes, near normal).
        mean, std: of pixels in 0..1, one number or one for each channel of the result.
        dtype: of the result.
    """

    size: int | None = None
    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    flip_v: float = 0.0
    rotate: float = 0.0
    degrees: float = 15.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    speckle: float = 0.0
    strength: float = 0.1
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in ("flip", "flip_v", "rotate", "blur", "speckle"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augment: {name} = {getattr(self, name)} is no probability (0 to 1)")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UsageError(
                f"augment: crop = {self.crop}; expected an area range within 0 to 1, as (0.2, 1.0)"
            )
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise UsageError(
                f"augment: sigma = {self.sigma}; expected a range of positive pixels, as (0.1, 2.0)"
            )

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Augment and normalise.

        Args:
            images: uint8 [B, 1, S, S], on the device to work on.
            seeds: int64 [B], as in `usfmae.stream.loader.Batch`, on the CPU or the same device.

        Returns `dtype` [B, C, s, s], C the number of means.
        """
        seeds = seeds.to(images.device, non_blocking=True)
        warps = self.crop is not None or self.rotate > 0 or self.size not in (None, images.shape[-1])
        images = self._warp(images, seeds) if warps else self._flip(images, seeds)
        if self.blur > 0:
            images = self._blurred(images.float(), seeds)
        if self.speckle > 0:
            images = self._speckled(images.float(), seeds)
        return self.normalise(images)

    def normalise(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std in float32, then `dtype`; one channel is repeated for several means."""
        if isinstance(self.mean, int | float) and isinstance(self.std, int | float):
            return (
                images.to(torch.float32, copy=True)
                .mul_(1 / (255 * self.std))
                .sub_(self.mean / self.std)
                .to(self.dtype)
            )
        mean = torch.as_tensor(self.mean, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        std = torch.as_tensor(self.std, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        return (images * (1 / (255 * std)) - mean / std).to(self.dtype)

    def _flip(self, images: Tensor, seeds: Tensor) -> Tensor:
        for chance, purpose, axis in ((self.flip, _FLIP, -1), (self.flip_v, _FLIP_V, -2)):
            if chance <= 0:
                continue
            flips = _happens(seeds, purpose, chance)
            if images.device.type == "cpu":  # five times as fast there as a broadcast choice; the same values
                images = images.clone()
                for k in flips.nonzero()[:, 0].tolist():
                    images[k] = images[k].flip(axis)
            else:
                images = torch.where(flips[:, None, None, None], images.flip(axis), images)
        return images

    def _warp(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Crop, flips and rotation as one bilinear resampling; float32 [B, 1, s, s] of 0..255."""
        side = images.shape[-1]
        size = self.size or side
        x, y, w, h = self._boxes(seeds)
        angle = uniform(seeds, _ANGLE) * 2 * math.radians(self.degrees) - math.radians(self.degrees)
        angle = torch.where(_happens(seeds, _ROTATE, self.rotate), angle, torch.zeros_like(angle))
        flip = 1 - 2 * _happens(seeds, _FLIP, self.flip).float()
        flip_v = 1 - 2 * _happens(seeds, _FLIP_V, self.flip_v).float()
        cos, sin = torch.cos(angle), torch.sin(angle)
        # Output (-1..1) to input (-1..1): flip, rotate about the middle of the box, scale and shift to the box.
        theta = torch.stack(
            [
                w * cos * flip,
                -w * sin * flip_v,
                2 * x + w - 1,
                h * sin * flip,
                h * cos * flip_v,
                2 * y + h - 1,
            ],
            1,
        ).view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
        return F.grid_sample(
            images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )

    def _boxes(self, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, y, w, h of each crop as shares of the side, float32 [B] each.

        An aspect that does not fit the area is clipped to the widest that does; torchvision draws again.
        """
        if self.crop is None:
            zero = torch.zeros(len(seeds), device=seeds.device)
            return zero, zero, zero + 1, zero + 1
        area = self.crop[0] + (self.crop[1] - self.crop[0]) * uniform(seeds, _AREA)
        low, high = (math.log(value) for value in self.ratio)
        aspect = torch.exp(low + (high - low) * uniform(seeds, _ASPECT))
        aspect = torch.minimum(torch.maximum(aspect, area), 1 / area)
        w, h = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
        return uniform(seeds, _X) * (1 - w), uniform(seeds, _Y) * (1 - h), w, h

    def _blurred(self, images: Tensor, seeds: Tensor) -> Tensor:
        radius = math.ceil(3 * self.sigma[1])
        if radius >= images.shape[-1]:
            raise UsageError(
                f"augment: sigma up to {self.sigma[1]} pixels is too wide for {images.shape[-1]}-pixel views"
            )
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * uniform(seeds, _SIGMA)
        taps = torch.arange(-radius, radius + 1, device=images.device)
        weights = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        here = _happens(seeds, _BLUR, self.blur)[:, None]
        weights = torch.where(here, weights, (taps == 0).float()).view(len(seeds), -1, 1, 1, 1)
        side = images.shape[-1]
        # Shifted sums, not a convolution: its algorithm, and so its rounding, may change with the batch.
        wide = F.pad(images, (radius, radius, 0, 0), mode="reflect")
        images = torch.zeros_like(images)
        for k in range(2 * radius + 1):
            images = images + wide[..., k : k + side] * weights[:, k]
        tall = F.pad(images, (0, 0, radius, radius), mode="reflect")
        images = torch.zeros_like(images)
        for k in range(2 * radius + 1):
            images = images + tall[..., k : k + side, :] * weights[:, k]
        return images

    def _speckled(self, images: Tensor, seeds: Tensor) -> Tensor:
        noise = near_normal(seeds, images.shape[-2] * images.shape[-1]).view(images.shape)
        strength = self.strength * _happens(seeds, _SPECKLE, self.speckle).float()
        return (images * (1 + strength.view(-1, 1, 1, 1) * noise)).clamp_(0, 255)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def hashed(seeds: Tensor, purpose: int) -> Tensor:
    """SplitMix64 of seeds int64 [B] and a purpose: int64 [B], all 64 bits well mixed (Steele et al., 2014)."""
    x = seeds + _signed(purpose * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF, 64)
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB, 64)
    return x ^ (x >> 31 & (1 << 33) - 1)


def uniform(seeds: Tensor, purpose: int) -> Tensor:
    """A float32 in [0, 1) for each seed, of 24 bits: the same on every device."""
    return (hashed(seeds, purpose) >> 40 & (1 << 24) - 1).float() * 2.0**-24


def _happens(seeds: Tensor, purpose: int, chance: float) -> Tensor:
    return uniform(seeds, purpose) < chance


def near_normal(seeds: Tensor, count: int) -> Tensor:
    """`count` numbers for each seed, float32 [B, count]: zero mean, unit variance, excess kurtosis -0.3.

    A 32-bit hash of (seed, number) (C. Wellons, "lowbias32", 2018) gives four bytes; their sum is an
    Irwin-Hall variable near the normal, bounded by 3.5 standard deviations.
    """
    start = hashed(seeds, _NOISE).to(torch.int32)[:, None]
    x = start + torch.arange(count, device=seeds.device, dtype=torch.int32) * _signed(0x9E3779B9, 32)
    x = (x ^ (x >> 16 & 0xFFFF)) * _signed(0x7FEB352D, 32)
    x = (x ^ (x >> 15 & 0x1FFFF)) * _signed(0x846CA68B, 32)
    x = x ^ (x >> 16 & 0xFFFF)
    total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24 & 255)
    return (total.float() - 510) * (1 / math.sqrt((256**2 - 1) / 3))
