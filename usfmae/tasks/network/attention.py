"""Where a network looks: attention rollout of a ViT, and class activation by gradients for any classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openus.errors import UsageError
from usfmae.tasks.network.base import Network


@torch.inference_mode()
def rollout(network: Network, pixels: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020): how much of each patch reaches the output, [B, g, g], sum 1.

    pixels: float [B, 1, S, S] in 0..1. Attention is averaged over heads, half of each step is the residual path.
    The output is the class token, or the mean of the patches where the network pools those. UsageError for a
    network that is no plain ViT.
    """
    body: Any = network.body
    blocks = getattr(body, "blocks", None)
    if blocks is None or not all(hasattr(getattr(block, "attn", None), "qkv") for block in blocks):
        raise UsageError("attention rollout needs a plain ViT; for other networks there are gradient maps")
    body.eval()
    x = body.patch_embed(network.normalise(pixels))
    x = body.norm_pre(body.patch_drop(body._pos_embed(x)))
    count = x.shape[1]
    through = torch.eye(count, device=x.device).expand(len(x), -1, -1)
    for block in blocks:
        mixed = 0.5 * _attention(block.attn, block.norm1(x)) + 0.5 * torch.eye(count, device=x.device)
        through = mixed @ through
        x = block(x)
    prefix = int(body.num_prefix_tokens)
    first = body.global_pool == "token" and prefix > 0
    reached = through[:, 0] if first else through[:, prefix:].mean(1)
    patches = reached[:, prefix:]
    side = round(patches.shape[1] ** 0.5)
    return (patches / patches.sum(1, keepdim=True)).view(-1, side, side)


def _attention(attention: Any, x: Tensor) -> Tensor:
    """Softmax of scaled products, averaged over heads: [B, T, T]; rows sum to 1."""
    batch, count, width = x.shape
    heads = attention.num_heads
    q, k, _ = attention.qkv(x).view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    products: Tensor = attention.q_norm(q) * attention.scale @ attention.k_norm(k).transpose(-2, -1)
    return products.softmax(-1).mean(1)


def gradient_map(network: Network, pixels: Tensor, target: Tensor | None = None) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of the last feature map: float [B, h, w] in 0..1.

    target: int64 [B], the class whose evidence is shown; the decision if None. For a ViT the patch tokens after
    the last norm are the map. Areas that speak against the class are 0.
    """
    body: Any = network.body
    if not hasattr(body, "forward_head"):
        raise UsageError(
            "gradient maps need one network that classifies, not a segmenter before a classifier"
        )
    body.eval()
    with torch.enable_grad():
        features = body.forward_features(network.normalise(pixels)).detach().requires_grad_(True)
        outputs = body.forward_head(features)
        chosen = outputs.argmax(1) if target is None else target.to(outputs.device)
        (gradient,) = torch.autograd.grad(outputs.gather(1, chosen[:, None]).sum(), features)
    cam = _spatial(body, features * gradient)
    cam = cam.relu()
    return (cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-12)).detach()


def _spatial(body: Any, product: Tensor) -> Tensor:
    """Sum over channels of features times gradient, as a grid [B, h, w]."""
    if product.ndim == 4:
        channels = getattr(body, "num_features", product.shape[1])
        last = product.shape[-1] == channels and product.shape[1] != channels
        return product.sum(-1 if last else 1)
    patches = product[:, int(getattr(body, "num_prefix_tokens", 0)) :].sum(-1)
    side = round(patches.shape[1] ** 0.5)
    return patches.view(-1, side, side)


def enlarge(grid: Tensor, side: int) -> Tensor:
    """Maps [B, h, w] to the size of the picture, [B, side, side], bilinear."""
    return F.interpolate(grid[:, None].float(), (side, side), mode="bilinear", align_corners=False)[:, 0]
