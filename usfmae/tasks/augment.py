"""Random changes of training images, in one batch on the device, the same for the same generator.

The few random numbers come from a CPU generator, so that a run draws the same on any device; the pixels are
touched once, by one resampling and one grey curve.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from usfmae.tasks.recipe import AugmentSettings


def augment(
    images: Tensor, settings: AugmentSettings, generator: torch.Generator, masks: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Change a batch at random.

    images: uint8 [B, C, S, S] on any device; masks: uint8 [B, S, S] or None, moved with the images.
    Returns float32 [B, C, S, S] in 0..1 and the masks (nearest neighbour; 0 outside).
    """
    pixels = images.float().div_(255)
    theta = _placements(len(images), settings, generator)
    if not torch.equal(theta, torch.eye(2, 3).expand_as(theta)):
        grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if masks is not None:
            moved = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
            masks = moved[:, 0].round().to(torch.uint8)
    return _erase(_grey_curve(pixels, settings, generator), settings, generator), masks


def _placements(count: int, s: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Affine maps from output to input coordinates (-1..1): float [count, 2, 3]."""
    u = torch.rand(count, 8, generator=generator)
    angle = (2 * u[:, 0] - 1) * math.radians(s.rotate)
    low, high = (math.log(value) for value in s.zoom)
    scale = torch.exp(-(low + u[:, 1] * (high - low)))
    ratio = torch.exp((2 * u[:, 2] - 1) * math.log1p(s.stretch) / 2)
    across = torch.where(u[:, 3] < s.hflip, -1.0, 1.0) * scale * ratio
    down = torch.where(u[:, 4] < s.vflip, -1.0, 1.0) * scale / ratio
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift = (2 * u[:, 5:7] - 1) * 2 * s.shift
    top = torch.stack([cos * across, -sin * down, shift[:, 0]], 1)
    bottom = torch.stack([sin * across, cos * down, shift[:, 1]], 1)
    return torch.stack([top, bottom], 1)


def _grey_curve(pixels: Tensor, s: AugmentSettings, generator: torch.Generator) -> Tensor:
    if not s.gain and not s.gamma:
        return pixels
    u = (2 * torch.rand(2, len(pixels), 1, 1, 1, generator=generator) - 1).to(pixels.device)
    if s.gamma:
        pixels = pixels.clamp_min(1e-6).pow(torch.exp(u[0] * math.log1p(s.gamma)))
    # Gain multiplies: black outside the sector stays black.
    return (pixels * (1 + u[1] * s.gain)).clamp_(0, 1)


def _erase(pixels: Tensor, s: AugmentSettings, generator: torch.Generator) -> Tensor:
    if not s.erase:
        return pixels
    u = torch.rand(5, len(pixels), generator=generator)
    side = pixels.shape[-1]
    area, ratio = 0.02 + 0.18 * u[1], torch.exp((2 * u[2] - 1) * math.log(2.0))
    height, width = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = u[3] * (1 - height), u[4] * (1 - width)
    at = (torch.arange(side) + 0.5) / side
    rows = (at >= top[:, None]) & (at < (top + height)[:, None])
    columns = (at >= left[:, None]) & (at < (left + width)[:, None])
    box = (rows[:, :, None] & columns[:, None, :]) & (u[0] < s.erase)[:, None, None]
    return pixels.masked_fill(box[:, None].to(pixels.device), 0.0)
