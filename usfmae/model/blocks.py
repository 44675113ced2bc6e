"""Transformer blocks and positions of the autoencoder, with timm's parameter names."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """The patch projection: the reference's convolution, written as a product with only the given patches."""

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """[B,K,P], inside a patch row, column, channel -> [B,K,D]."""
        channels = self.proj.in_channels
        if channels > 1:  # the kernel has the channel first
            patches = patches.view(*patches.shape[:-1], -1, channels).transpose(-1, -2).flatten(-2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


# Who computes attention, and norms and GELU under a compiler: "torch", PyTorch; "ours", our kernels
# (`short_attention`, `one_pass`), an error where they cannot run; "auto", ours wherever they can.
KERNELS = "auto"
HAS_TRITON = find_spec("triton") is not None


def attend(q: Tensor | None, source: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention -> [B,M,H,d], by the kernels that `KERNELS` names.

    Self-attention: q is None and source [B,T,3,H,d] holds queries, keys and values. Otherwise q [B,M,H,d] asks and
    source [B,T,2,H,d] holds keys and values. bias: [3*H*d], already added to queries, keys and values, by a constant:
    its gradient is summed here.
    """
    if KERNELS == "ours" or (KERNELS == "auto" and source.is_cuda):
        from usfmae.model import short_attention

        if KERNELS == "ours" or short_attention.fits(q, source):
            return short_attention.attend(q, source, bias)
    if bias is not None:  # adds nothing
        parts = (bias - bias.detach()).to(source.dtype).view(3, *source.shape[3:])
        q, source = (None, source + parts) if q is None else (q + parts[0], source + parts[1:])
    q, k, v = source.unbind(2) if q is None else (q, *source.unbind(2))
    return fused(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def in_one_pass(x: Tensor) -> bool:
    """Whether norms and GELU of rows like those of x [..,D] take our kernels, which pay beside a compiler."""
    if KERNELS == "torch" or not HAS_TRITON:
        return False
    if not (KERNELS == "ours" or (x.is_cuda and torch.compiler.is_compiling())):
        return False
    from usfmae.model import one_pass

    return one_pass.fits(x)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of [B,H,M,d] over [B,H,T,d].

    PyTorch's fused kernels, but for bfloat16 on a CPU, where the plain products are the faster ones
    (`benchmarks/pretrain_step.py`). The softmax is computed in float32 there, too, and rounded as it is stored.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return mixed
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention over [B,T,D] (Vaswani et al. 2017)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """Attend over all tokens; answer for all of them, or only for the `last` ones."""
        b, t, d = x.shape
        shape = (self.num_heads, d // self.num_heads)
        if last is None:
            y = attend(None, self.qkv(x).view(b, t, 3, *shape))
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, -last:], weight[:d], bias[:d]).view(b, last, *shape)
            y = attend(q, F.linear(x, weight[d:], bias[d:]).view(b, t, 2, *shape))
        result: Tensor = self.proj(y.reshape(b, -1, d))
        return result

    def unbiased(self, x: Tensor, last: int | None = None) -> Tensor:
        """The same without the last bias; the gradients of the others are left to whoever attends."""
        b, t, d = x.shape
        shape, weight, bias = (self.num_heads, d // self.num_heads), self.qkv.weight, self.qkv.bias.detach()
        if last is None:
            y = attend(None, F.linear(x, weight, bias).view(b, t, 3, *shape), self.qkv.bias)
        else:
            q = F.linear(x[:, -last:], weight[:d], bias[:d]).view(b, last, *shape)
            y = attend(q, F.linear(x, weight[d:], bias[d:]).view(b, t, 2, *shape), self.qkv.bias)
        return F.linear(y.reshape(b, -1, d), self.proj.weight)


class CrossAttention(nn.Module):
    """Queries [B,M,D] look at the source tokens [B,T,S], not at one another."""

    def __init__(self, dim: int, source_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(source_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        b, m, d = x.shape
        shape = (self.num_heads, d // self.num_heads)
        y = attend(self.q(x).view(b, m, *shape), self.kv(source).view(b, source.shape[1], 2, *shape))
        result: Tensor = self.proj(y.reshape(b, m, d))
        return result

    def unbiased(self, x: Tensor, source: Tensor) -> Tensor:
        """The same without the last bias; the gradients of the others are left to whoever attends."""
        b, m, d = x.shape
        shape = (self.num_heads, d // self.num_heads)
        q = F.linear(x, self.q.weight, self.q.bias.detach()).view(b, m, *shape)
        kv = F.linear(source, self.kv.weight, self.kv.bias.detach()).view(b, source.shape[1], 2, *shape)
        y = attend(q, kv, torch.cat([self.q.bias, self.kv.bias]))
        return F.linear(y.reshape(b, m, d), self.proj.weight)


class Mlp(nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result

    def unbiased(self, x: Tensor) -> Tensor:
        """The same without the last bias."""
        from usfmae.model import one_pass

        return F.linear(one_pass.gelu(F.linear(x, self.fc1.weight), self.fc1.bias), self.fc2.weight)


class Block(nn.Module):
    """Pre-norm transformer block; with `last`, only the last tokens come out (others are looked at)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        if in_one_pass(x):
            return _in_one_pass(self, x, last)
        x = (x if last is None else x[:, -last:]) + self.attn(self.norm1(x), last)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class CrossBlock(nn.Module):
    """Cross-attention and MLP of CrossMAE (Fu et al., arXiv 2401.14391): no attention among hidden tokens."""

    def __init__(self, dim: int, source_dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, source_dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        if in_one_pass(x):
            return _in_one_pass(self, x, source)
        x = x + self.attn(self.norm1(x), source)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


def _in_one_pass(block: Block | CrossBlock, x: Tensor, beside: Any) -> Tensor:
    """A block's arithmetic in the order of our kernels: they add the biases and sum their gradients as they pass."""
    from usfmae.model import one_pass

    skip, y = one_pass.norm_beside(x, block.norm1)
    y = block.attn.unbiased(y, beside)
    x = (skip if y.shape[1] == skip.shape[1] else skip[:, -y.shape[1] :]) + y
    skip, y = one_pass.norm_beside(x, block.norm2, block.attn.proj.bias, block.mlp.fc2.bias)
    return skip + block.mlp.unbiased(y)


class FeatureMix(nn.Module):
    """Each decoder block looks at its own learned mixture of all encoder levels (CrossMAE, section 3.3)."""

    def __init__(self, dim: int, levels: int, readers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(readers, levels).normal_(std=levels**-0.5))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(readers))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels, each [B,T,D] -> one normalised mixture [B,T,D] for each reader."""
        mixed = torch.einsum("rl,lbtd->rbtd", self.weight.to(levels[0].dtype), torch.stack(levels))
        return [norm(mix) for norm, mix in zip(self.norms, mixed, strict=True)]


def sincos_positions(dim: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, float32 [1, 1+grid*grid, dim]; the class token's is zero.

    The first half encodes the column and the second the row, which is the order of the reference MAE.
    """
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # [grid, dim/2]
    columns, rows = wave.repeat(grid, 1), wave.repeat_interleave(grid, dim=0)
    table = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table])[None].float()
