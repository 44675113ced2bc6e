"""A classifier that looks closer: a segmenter finds the structure, the classifier sees it enlarged.

A lesion covers a small part of most images, and its outline and texture decide. The segmenter is one that
`usfmae finetune` wrote; it is frozen and travels inside the model, so that prediction and export need nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from usfmae.tasks.network.base import Network
from usfmae.tasks.recipe import FocusSettings

IDENTITY = ((0.0,), (1.0,))  # the two networks inside normalise for themselves


class Focus(nn.Module):
    """Segment, cut out, classify.

    forward: grey float [B, 1, S, S] in 0..1 to what `classifier` gives for the square around the structure,
    enlarged to `settings.size`. Where the segmenter finds nothing, the whole image is looked at.
    """

    def __init__(
        self, classifier: Network, segmenter: Network, segmenter_size: int, settings: FocusSettings
    ) -> None:
        super().__init__()
        self.classifier, self.segmenter = classifier, segmenter.requires_grad_(False)
        self.segmenter_size, self.settings = segmenter_size, settings

    def train(self, mode: bool = True) -> Focus:
        """The segmenter stays as it was trained."""
        super().train(mode)
        self.segmenter.eval()
        return self

    def forward(self, grey: Tensor) -> Tensor:
        side, jitter = self.settings.size, self.settings.jitter
        boxes = self.boxes(grey)
        if self.training and jitter:
            boxes = _shaken(boxes, jitter)
        x, y, half = boxes.unbind(1)
        none = torch.zeros_like(half)
        place = torch.stack([half, none, x, none, half, y], 1).view(-1, 2, 3)
        grid = F.affine_grid(place, [grey.shape[0], 1, side, side], align_corners=False)
        out: Tensor = self.classifier(F.grid_sample(grey.float(), grid, align_corners=False))
        return out

    @torch.no_grad()
    def boxes(self, grey: Tensor) -> Tensor:
        """Centre (x, y in -1..1) and half side (1: the whole image) of each image's square: float [B, 3].

        The square spans the mean and twice the deviation of the foreground's probabilities (for an ellipse: its
        axes), times the margin.
        """
        side = (self.segmenter_size, self.segmenter_size)
        small = F.interpolate(grey, side, mode="bilinear", align_corners=False, antialias=True)
        shares = 1 - F.softmax(self.segmenter(small).float(), 1)[:, 0]  # [B, h, w]
        shares = torch.where(shares > 0.5, shares, 0.0)
        at = (torch.arange(side[0], device=grey.device) + 0.5) * (2 / side[0]) - 1
        across, down = shares.sum(1), shares.sum(2)  # [B, w], [B, h]
        total = shares.sum((1, 2)).clamp_min(1e-6)
        means = [(part * at).sum(1) / total for part in (across, down)]
        spreads = [
            ((part * at.square()).sum(1) / total - mean.square()).clamp_min(0).sqrt()
            for part, mean in zip((across, down), means, strict=True)
        ]
        half = 2 * self.settings.margin * torch.maximum(*spreads)
        half = torch.where(shares.sum((1, 2)) > 0, half.clamp(self.settings.least, 1.0), 1.0)
        return torch.stack([*(_inside(mean, half) for mean in means), half], 1)


def _inside(centre: Tensor, half: Tensor) -> Tensor:
    """Centres of squares that stay inside the image."""
    room = 1 - half
    return torch.minimum(torch.maximum(centre, -room), room)


def _shaken(boxes: Tensor, amount: float) -> Tensor:
    """Squares moved and resized by up to `amount` of their half side, from the generator of the epoch."""
    u = 2 * torch.rand(boxes.shape, device=boxes.device) - 1
    half = (boxes[:, 2:] * torch.exp(amount * u[:, 2:])).clamp(max=1.0)
    moved = boxes[:, :2] + amount * u[:, :2] * half
    return torch.cat([_inside(moved, half), half], 1)


def focus(classifier: Network, segmenter: Network, segmenter_size: int, settings: FocusSettings) -> Network:
    """Put a segmenter of images of `segmenter_size` before a classifier built for images of `settings.size`."""
    architecture = {
        "family": "focus", "segmenter_size": segmenter_size,
        "settings": {"size": settings.size, "margin": settings.margin, "least": settings.least},
        "classifier": {"architecture": classifier.architecture, "input": classifier.input},
        "segmenter": {"architecture": segmenter.architecture, "input": segmenter.input},
    }  # fmt: skip
    return Network(Focus(classifier, segmenter, segmenter_size, settings), architecture, *IDENTITY)
