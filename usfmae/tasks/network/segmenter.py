"""A dense head on any backbone: features of several depths, brought to a quarter of the image and summed.

The decoder is that of Semantic FPN (Kirillov et al. 2019). A plain ViT gives the same grid at each depth; a
convolutional network gives coarser ones further down; both are upsampled in steps of two with a convolution
between, so that one head serves all.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from openus.errors import UsageError
from usfmae.tasks.network.base import Network

WIDTH = 128
LEVELS = 4


class Level(nn.Module):
    """One feature map [B, D, h, w] to [B, WIDTH, S/4, S/4]: convolutions with upsampling between them."""

    def __init__(self, width: int, doublings: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for number in range(max(1, doublings)):
            steps += [
                nn.Conv2d(width if number == 0 else WIDTH, WIDTH, 3, padding=1, bias=False),
                nn.GroupNorm(32, WIDTH),
                nn.GELU(),
            ]
            if doublings:
                steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        self.steps = nn.Sequential(*steps)

    def forward(self, features: Tensor, side: int) -> Tensor:
        out: Tensor = self.steps(features)
        if out.shape[-1] != side:
            out = F.interpolate(out, (side, side), mode="bilinear", align_corners=False)
        return out


class Segmenter(nn.Module):
    """A backbone with a dense head.

    forward: images float [B, C, S, S] to logits [B, 1 + classes, S, S]; map 0 is the background.
    """

    def __init__(self, encoder: Any, size: int, classes: int) -> None:
        super().__init__()
        if not hasattr(encoder, "forward_intermediates"):
            kind = type(encoder).__name__
            raise UsageError(
                f"{kind} gives no feature maps of several depths; use a ViT, ResNet, Swin or ConvNeXt"
            )
        self.encoder = encoder
        self.depths, widths, grids = _levels(encoder, size)
        self.levels = nn.ModuleList(
            Level(width, _doublings(grid, size)) for width, grid in zip(widths, grids, strict=True)
        )
        self.out = nn.Conv2d(WIDTH, 1 + classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder.forward_intermediates(
            images, indices=self.depths, intermediates_only=True, output_fmt="NCHW"
        )
        side = images.shape[-1] // 4
        total = sum(level(features, side) for level, features in zip(self.levels, maps, strict=True))
        logits: Tensor = self.out(total)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def _levels(encoder: Any, size: int) -> tuple[list[int], list[int], list[int]]:
    """Indices, widths and grids of the feature maps that are used: at most four, evenly spaced, the last included."""
    blocks = getattr(encoder, "blocks", None)
    if blocks is not None and hasattr(encoder, "patch_embed"):
        depth = len(blocks)
        indices = sorted({max(0, round(depth * (i + 1) / LEVELS) - 1) for i in range(LEVELS)})
        grid = size // encoder.patch_embed.patch_size[0]
        return indices, [encoder.embed_dim] * len(indices), [grid] * len(indices)
    info = list(encoder.feature_info)[-LEVELS:]
    whole = list(encoder.feature_info)
    indices = list(range(len(whole) - len(info), len(whole)))
    return indices, [item["num_chs"] for item in info], [max(1, size // item["reduction"]) for item in info]


def _doublings(grid: int, size: int) -> int:
    count = 0
    while grid * 2**count < size // 4:
        count += 1
    return count


def dress(network: Network, classes: int, size: int) -> Network:
    """Put the dense head on a network built without a classifier; config.json remembers it."""
    network.body = Segmenter(network.body, size, classes)
    network.architecture["maps"] = classes
    return network
