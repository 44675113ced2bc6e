"""Random changes of training images, in one batch on the device, the same for the same generator.

All random numbers of an epoch are drawn at once on the CPU, so that a run draws the same on any device and a step
waits for no copy; the pixels are touched by one resampling and one grey curve.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from usfmae.tasks.recipe import AugmentSettings


@dataclass(frozen=True)
class Changes:
    """What happens to each of N images, on their device; None where a kind of change is off."""

    place: Tensor | None
    """float [N, 2, 3]: affine maps from output to input coordinates (-1..1)."""
    gamma: Tensor | None
    """float [N, 1, 1, 1]: exponents."""
    contrast: Tensor | None
    """float [N, 1, 1, 1]: factors of the distance from the image's mean grey."""
    gain: Tensor | None
    """float [N, 1, 1, 1]: factors."""
    box: Tensor | None
    """float [N, 4]: top, bottom, left, right (0..1) of what is blackened; an empty box blackens nothing."""

    def __getitem__(self, part: slice) -> Changes:
        """Those of some of the images."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Changes(**{name: None if value is None else value[part] for name, value in fields.items()})


def draw(
    count: int, settings: AugmentSettings, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Changes:
    """Changes of `count` images, from a CPU generator to `device`."""
    place = _placements(count, settings, generator)
    moves = not torch.equal(place, torch.eye(2, 3).expand_as(place))
    u = (2 * torch.rand(3, count, 1, 1, 1, generator=generator) - 1).unbind(0)
    gamma = torch.exp(u[0] * math.log1p(settings.gamma)) if settings.gamma else None
    gain = 1 + u[1] * settings.gain if settings.gain else None
    contrast = torch.exp(u[2] * math.log1p(settings.contrast)) if settings.contrast else None
    box = _boxes(count, settings, generator) if settings.erase else None
    parts = (place if moves else None, gamma, contrast, gain, box)
    return Changes(*(None if part is None else part.to(device) for part in parts))


def augment(images: Tensor, changes: Changes, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Apply drawn changes to a batch.

    images: uint8 [B, C, S, S] on any device; masks: uint8 [B, S, S] or None, moved with the images.
    Returns float32 [B, C, S, S] in 0..1 and the masks (nearest neighbour; 0 outside).
    """
    pixels = images.float().div_(255)
    if changes.place is not None:
        grid = F.affine_grid(changes.place, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if masks is not None:
            moved = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
            masks = moved[:, 0].round().to(torch.uint8)
    pixels = _grey_curve(pixels, changes)
    return (pixels if changes.box is None else _erase(pixels, changes.box)), masks


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


def _grey_curve(pixels: Tensor, changes: Changes) -> Tensor:
    """Exponent, contrast, gain, in this order; black outside the sector stays black."""
    black = pixels <= 0 if changes.contrast is not None else None
    if changes.gamma is not None:
        pixels = pixels.clamp_min(1e-6).pow(changes.gamma)
    if changes.contrast is not None and black is not None:
        mean = pixels.mean((1, 2, 3), keepdim=True)
        pixels = torch.lerp(mean, pixels, changes.contrast).masked_fill(black, 0.0)
    if changes.gain is not None:
        pixels = pixels * changes.gain
    return pixels.clamp_(0, 1)


def _boxes(count: int, s: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Boxes of 2 to 20 % of the area, float [count, 4]; empty ones where nothing is erased."""
    u = torch.rand(5, count, generator=generator)
    area, ratio = 0.02 + 0.18 * u[1], torch.exp((2 * u[2] - 1) * math.log(2.0))
    height, width = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = u[3] * (1 - height), u[4] * (1 - width)
    boxes = torch.stack([top, top + height, left, left + width], 1)
    return boxes.masked_fill((u[0] >= s.erase)[:, None], 0.0)


def _erase(pixels: Tensor, box: Tensor) -> Tensor:
    side = pixels.shape[-1]
    at = (torch.arange(side, device=pixels.device) + 0.5) / side
    rows = (at >= box[:, 0:1]) & (at < box[:, 1:2])
    columns = (at >= box[:, 2:3]) & (at < box[:, 3:4])
    return pixels.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
