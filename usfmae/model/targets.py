"""What is to be painted. Restoring targets show the encoder a worse image and ask for the better one.

pixels      the pixels themselves
normalised  each patch by its own mean and variance (He et al., arXiv 2111.06377; in `MAE.target`)
deblur      sharp pixels from a blurred image (deblurring MAE, arXiv 2306.08249)
denoise     clean pixels from a noisy image (the spatial task of USFM, arXiv 2401.00153)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from usfmae.model.draws import normal, uniform

BLUR = (0.5, 2.0)  # sigma in pixels, drawn for each image
NOISE = (0.1, 0.5)  # sigma in units of the normalised image, drawn for each image


def same(images: Tensor, seeds: Tensor) -> Tensor:
    """The image as it is."""
    return images


def blurred(images: Tensor, seeds: Tensor) -> Tensor:
    """Gaussian blur of images [B,C,H,W], its width drawn for each image; edges are mirrored."""
    b, c, h, w = images.shape
    sigma = BLUR[0] + (BLUR[1] - BLUR[0]) * uniform(seeds, 1, purpose=5)  # [B,1]
    radius = min(int(3 * BLUR[1]), h - 1, w - 1)
    place = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (place / sigma).square())
    kernel = (
        (kernel / kernel.sum(dim=1, keepdim=True)).to(images.dtype).repeat_interleave(c, dim=0)
    )  # [B*C,k]
    x = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, b * c, h + 2 * radius, w + 2 * radius)
    x = F.conv2d(x, kernel[:, None, :, None], groups=b * c)
    return F.conv2d(x, kernel[:, None, None, :], groups=b * c).reshape(b, c, h, w)


def noisy(images: Tensor, seeds: Tensor) -> Tensor:
    """Additive Gaussian noise, its strength drawn for each image."""
    sigma = NOISE[0] + (NOISE[1] - NOISE[0]) * uniform(seeds, 1, purpose=6)
    noise = sigma * normal(seeds, images[0].numel(), purpose=7)
    return images + noise.view_as(images).to(images.dtype)


TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pixels": same,
    "normalised": same,
    "deblur": blurred,
    "denoise": noisy,
}
