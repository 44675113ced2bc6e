"""Dual-domain masking: patches are hidden, and a band of spatial frequencies is removed from what is seen.

USFM (Jiao et al., Medical Image Analysis 2024, arXiv 2401.00153) masks in space and by band-stop filters,
because the texture of ultrasound lives in its frequencies. The target stays the whole image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from usfmae.model.draws import uniform
from usfmae.model.mae import MAEConfig
from usfmae.model.masking.hiding import Hiding

LOWEST, HIGHEST = 0.05, 0.8  # where the band may begin, as a share of the Nyquist frequency
WIDTH = 0.2  # of the band, in the same unit


def band_stop(images: Tensor, low: Tensor, width: float) -> Tensor:
    """Remove the ring ``low <= |f| < low + width`` (shares of Nyquist; low: [B]) from images [B,C,H,W]."""
    h, w = images.shape[-2:]
    fy = torch.fft.fftfreq(h, device=images.device)[:, None]
    fx = torch.fft.rfftfreq(w, device=images.device)[None, :]
    radius = 2 * (fy.square() + fx.square()).sqrt()  # 1 at the Nyquist frequency
    low = low.view(-1, 1, 1, 1)
    passed = (radius < low) | (radius >= low + width)
    spectrum = torch.fft.rfft2(images.float())
    stopped: Tensor = torch.fft.irfft2(spectrum * passed, s=(h, w))
    return stopped.to(images.dtype)


def frequency(images: Tensor, config: MAEConfig, seeds: Tensor, batch: int) -> Hiding:
    """Random patches hidden as in the reference; the visible ones lack one random band of frequencies."""
    low = LOWEST + (HIGHEST - LOWEST) * uniform(seeds, 1, purpose=4)[:, 0]
    seen = band_stop(images, low, WIDTH)
    return Hiding(uniform(seeds, config.num_patches, purpose=1), config.num_keep, seen=seen)
