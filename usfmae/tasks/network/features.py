"""Frozen features: what a network makes of whole images, nothing hidden, nothing trained.

For a ViT these are the tokens after the last norm: the mean of the patch tokens, the class token, or all of
them. For any other timm model the last feature map plays the part of the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openus.errors import UsageError
from usfmae.tasks.network.base import Network

Pool = Literal["mean", "class", "both"]


def tokens(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Patch tokens [B, T, D] and the class token [B, D] (None where there is none) of pixels [B, 1, S, S], 0..1."""
    body: Any = network.body
    out: Tensor = body.forward_features(network.normalise(pixels))
    if out.ndim == 4:  # a feature map, channels first, or last as some families (Swin) have it
        channels = getattr(body, "num_features", out.shape[1])
        last = out.shape[-1] == channels and out.shape[1] != channels
        return (out.flatten(1, 2) if last else out.flatten(2).transpose(1, 2)), None
    prefix = int(getattr(body, "num_prefix_tokens", 0))
    return out[:, prefix:], out[:, 0] if prefix else None


def pooled(network: Network, pixels: Tensor, pool: Pool = "mean") -> Tensor:
    """One vector per image, float [B, D]: mean of the patch tokens, class token, or both side by side [B, 2D].

    A ViT fine-tuned on the mean of its patches has its norm after that mean, and it is applied there.

    Raises UsageError where the class token is asked of a network that has none.
    """
    patches, first = tokens(network, pixels)
    after = getattr(network.body, "fc_norm", None)
    if pool == "mean":
        mean = patches.mean(1)
        return after(mean) if isinstance(after, nn.LayerNorm) else mean
    if first is None:
        raise UsageError(f"this network has no class token; use --pool mean instead of {pool}")
    return first if pool == "class" else torch.cat([patches.mean(1), first], 1)


@torch.inference_mode()
def _batches(
    network: Network, images: NDArray[np.uint8], batch: int, make: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    device = network.mean.device
    network.eval()
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).to(device).float().div_(255)
        yield make(pixels)


def extract(
    network: Network,
    images: NDArray[np.uint8],
    *,
    pool: Pool = "mean",
    batch: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Features float32 [N, D] of images uint8 [N, 1, S, S]; on_batch(done) is called as they come."""
    parts, done = [], 0
    for part in _batches(network, images, batch, lambda pixels: pooled(network, pixels, pool)):
        parts.append(part.float().cpu().numpy())
        done += len(part)
        if on_batch is not None:
            on_batch(done)
    return np.concatenate(parts)


def extract_tokens(
    network: Network,
    images: NDArray[np.uint8],
    *,
    batch: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """All patch tokens, float16 [N, T, D] on the network's device (half the memory; they are only read)."""
    parts, done = [], 0
    for part in _batches(network, images, batch, lambda pixels: tokens(network, pixels)[0]):
        parts.append(part.half())
        done += len(part)
        if on_batch is not None:
            on_batch(done)
    return torch.cat(parts)
