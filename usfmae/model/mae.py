"""The masked autoencoder: a ViT encoder sees a few patches, a small decoder paints the hidden ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv 2111.06377). Parameters carry
the names of the reference implementation, so that timm loads the encoder unchanged. Two liberties are taken
with the order of the arithmetic, none with its result: hidden patches are never embedded, and the last
decoder block answers only for the tokens whose error counts.

    images [B,C,H,W] ─ patches [B,N,P] ─ keep K ─▶ encoder [B,1+K,D] ─▶ decoder [B,1+N,E] ─▶ hidden [B,M,P]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openus.errors import UsageError, did_you_mean
from usfmae.model.blocks import Block, CrossBlock, FeatureMix, PatchEmbed, sincos_positions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.2,), (0.2,)  # round figures near those of B-mode images after cropping to the sector

# Encoder sizes of Dosovitskiy et al. (arXiv 2010.11929) and Touvron et al. (tiny, small; arXiv 2012.12877).
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Everything needed to build the network again. Defaults: ViT-B/16, the reference decoder, grey input."""

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 1
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    positions: str = "sincos"  # or "learned"
    decoder: str = (
        "full"  # or "cross": CrossMAE (arXiv 2401.14391), hidden tokens attend only to visible ones
    )
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75
    predict_ratio: float = 1.0  # share of the hidden patches that the cross decoder paints and scores
    norm_pix_loss: bool = False  # score patches normalised by their own mean and variance
    mean: tuple[float, ...] = GREY_MEAN  # of the input normalisation, in units of 0..1
    std: tuple[float, ...] = GREY_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        _check(self)

    @classmethod
    def preset(cls, size: str, **changes: Any) -> MAEConfig:
        """The configuration of a size ("tiny" … "huge"; "small/8": patches of 8 px), with `changes` applied."""
        name, slash, patch = size.partition("/")
        if name not in SIZES or (slash and not patch.isdecimal()):
            raise UsageError(
                f"unknown model size '{size}', known: {', '.join(SIZES)}, or with the side of a patch, like small/8"
                f"{did_you_mean(name, SIZES)}"
            )
        own = {"patch_size": int(patch)} if slash else {}
        return cls(**{**SIZES[name], **own, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MAEConfig:
        """Read back what `to_dict` wrote; an unknown field raises `UsageError`."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise UsageError(
                    f"unknown field '{name}' in a model configuration{did_you_mean(name, known)}"
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def with_(self, **changes: Any) -> MAEConfig:
        return replace(self, **changes)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.img_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def num_keep(self) -> int:
        """Patches the encoder sees: rounded down, as in the reference."""
        return int(self.num_patches * (1 - self.mask_ratio))


class Masked(NamedTuple):
    """What one masked forward pass gives."""

    loss: Tensor  # float [], the mean over images of each one's mean squared error over its scored patches
    per_sample: Tensor  # float [B], that error of each image (detached)
    pred: Tensor  # float [B,M,P], painted patches in the order of `hidden`
    hidden: Tensor  # int64 [B,M], their places in the grid, row by row
    keep: Tensor  # int64 [B,K], the places the encoder saw


class MAE(nn.Module):
    """The autoencoder of `config`. `forward` trains, `features` encodes whole images."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = c = config
        self.checkpointing = False  # recompute the blocks in the backward pass: slower, much less memory
        self.narrow = False  # under autocast, keep the residual stream in bfloat16 too: fewer bytes to move
        patch = c.patch_size**2 * c.in_chans
        learned = c.positions == "learned"

        self.patch_embed = PatchEmbed(c.patch_size, c.in_chans, c.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.embed_dim))
        self.pos_embed = nn.Parameter(sincos_positions(c.embed_dim, c.grid), requires_grad=learned)
        self.blocks = nn.ModuleList(Block(c.embed_dim, c.num_heads, c.mlp_ratio) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.embed_dim, eps=1e-6)

        dim, heads = c.decoder_embed_dim, c.decoder_num_heads
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(dim, c.grid), requires_grad=learned)
        if c.decoder == "full":
            self.decoder_embed = nn.Linear(c.embed_dim, dim)
            self.decoder_blocks = nn.ModuleList(
                Block(dim, heads, c.mlp_ratio) for _ in range(c.decoder_depth)
            )
        else:
            self.norm.requires_grad_(False)  # the mixtures have norms of their own
            self.decoder_mix = FeatureMix(c.embed_dim, c.depth, c.decoder_depth)
            self.decoder_blocks = nn.ModuleList(
                CrossBlock(dim, c.embed_dim, heads, c.mlp_ratio) for _ in range(c.decoder_depth)
            )
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_pred = nn.Linear(dim, patch)
        self._initialise()

    def _initialise(self) -> None:
        """As the reference: Xavier for every linear map (the patch projection is one), 0.02 for tokens."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        weight = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.data.view(len(weight), -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def patchify(self, images: Tensor) -> Tensor:
        """float [B,C,H,W] -> [B,N,P]; inside a patch: row, column, channel."""
        b, c, p, g = len(images), self.config.in_chans, self.config.patch_size, self.config.grid
        if images.shape[1:] != (c, g * p, g * p):
            wanted = f"[B,{c},{g * p},{g * p}]"
            raise ValueError(
                f"the model wants images {wanted}, found {list(images.shape)}; set img_size/in_chans"
            )
        return images.reshape(b, c, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(b, g * g, p * p * c)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of `patchify`: [B,N,P] -> [B,C,H,W]."""
        b, c, p, g = len(patches), self.config.in_chans, self.config.patch_size, self.config.grid
        return patches.reshape(b, g, g, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, g * p, g * p)

    def _run(self, block: nn.Module, *args: Any) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, *args, use_reentrant=False)
        else:
            result = block(*args)
        return result

    def _stream(self, positions: Tensor, x: Tensor) -> Tensor:
        """Positions as they are added to x: float32 makes the residual stream float32, unless it is `narrow`."""
        return positions.to(x.dtype) if self.narrow else positions

    def encode(self, patches: Tensor, places: Tensor | None = None) -> list[Tensor]:
        """Patches [B,K,P] at `places` int64 [B,K] (None: all, in order) -> tokens [B,1+K,D] after each block.

        The last is not yet normalised.
        """
        x = self.patch_embed(patches)
        at = self._stream(self.pos_embed[:, 1:], x)
        x = x + (at if places is None else at[0][places])
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls.to(x.dtype), x], dim=1)
        levels = []
        for block in self.blocks:
            x = self._run(block, x)
            levels.append(x)
        return levels

    def features(self, images: Tensor) -> Tensor:
        """Normalised tokens [B,1+N,D] of whole images [B,C,H,W], nothing hidden; the class token is first."""
        tokens: Tensor = self.norm(self.encode(self.patchify(images))[-1])
        return tokens

    def decode(self, levels: list[Tensor], keep: Tensor, hidden: Tensor) -> Tensor:
        """Paint the patches at `hidden` [B,M] from the encoder's levels of those at `keep` [B,K]: [B,M,P]."""
        at = self._stream(self.decoder_pos_embed[0, 1:], levels[-1])
        queries = self._stream(self.mask_token, levels[-1]) + at[hidden]
        if self.config.decoder == "cross":
            for block, source in zip(self.decoder_blocks, self.decoder_mix(levels), strict=True):
                queries = self._run(block, queries, source)
        else:
            x = self.decoder_embed(self.norm(levels[-1]))
            seen = x[:, 1:] + at[keep]
            first = x[:, :1] + self._stream(self.decoder_pos_embed[:, :1], x)
            # Attention does not mind the order of tokens: hidden ones stay at the end, nothing is unshuffled.
            x = torch.cat([first, seen, queries.to(x.dtype)], dim=1)
            for block in self.decoder_blocks[:-1]:
                x = self._run(block, x)
            queries = self._run(self.decoder_blocks[-1], x, hidden.shape[1])
        painted: Tensor = self.decoder_pred(self.decoder_norm(queries))
        return painted

    def target(self, patches: Tensor) -> Tensor:
        """What a patch [.., P] should be painted as: itself, or itself normalised (`norm_pix_loss`)."""
        if not self.config.norm_pix_loss:
            return patches
        var, mean = torch.var_mean(patches, dim=-1, keepdim=True)  # unbiased, as in the reference
        return (patches - mean) / (var + 1e-6).sqrt()

    def forward(
        self,
        images: Tensor,
        noise: Tensor | None = None,
        *,
        num_keep: int | None = None,
        scored: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Masked:
        """Hide patches, paint them, compare.

        images: float [B,C,H,W], normalised; the target. noise: float [B,N]; the `num_keep` patches of the
        smallest noise stay visible (default: uniform noise, `config.num_keep`). scored: bool [B,N], patches
        whose error counts if hidden (default: all). seen: float [B,C,H,W], what the encoder sees (default:
        `images`).
        """
        patches = self.patchify(images)
        b, n, p = patches.shape
        k = self.config.num_keep if num_keep is None else num_keep
        if noise is None:
            noise = torch.rand(b, n, device=images.device)
        order = noise.argsort(dim=1, stable=True)
        keep, hidden = order[:, :k], order[:, k:]
        if (
            self.config.predict_ratio < 1
        ):  # the order is random, so its head is a fair sample of the hidden ones
            hidden = hidden[:, : max(1, round((n - k) * self.config.predict_ratio))]

        source = patches if seen is None else self.patchify(seen)
        levels = self.encode(source.gather(1, keep[..., None].expand(-1, -1, p)), keep)
        pred = self.decode(levels, keep, hidden)
        target = self.target(patches.gather(1, hidden[..., None].expand(-1, -1, p)))
        error = (pred.float() - target.float()).square().mean(dim=-1)
        if scored is None:
            return Masked(error.mean(), error.detach().mean(dim=1), pred, hidden, keep)
        counts = scored.gather(1, hidden).to(error.dtype)
        # Image by image, so that a batch taken in parts or by several processes has the loss of the whole.
        each = (error * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        return Masked(each.mean(), each.detach(), pred, hidden, keep)


def _check(c: MAEConfig) -> None:
    """Refuse sizes that do not fit together, saying which and how to mend them."""
    if c.patch_size < 1 or c.img_size % c.patch_size:
        raise UsageError(
            f"img_size {c.img_size} is not a multiple of patch_size {c.patch_size}; change one of them"
        )
    for name, dim, heads in (
        ("", c.embed_dim, c.num_heads),
        ("decoder_", c.decoder_embed_dim, c.decoder_num_heads),
    ):
        if heads < 1 or dim % heads or dim % 4:
            raise UsageError(f"{name}embed_dim {dim} must be a multiple of 4 and of {name}num_heads {heads}")
    if c.in_chans not in (1, 3) or not len(c.mean) == len(c.std) == c.in_chans:
        raise UsageError(
            f"in_chans must be 1 or 3, with as many values in mean and std; found in_chans {c.in_chans}, "
            f"mean {list(c.mean)}, std {list(c.std)}"
        )
    for name, known in {"positions": ("sincos", "learned"), "decoder": ("full", "cross")}.items():
        value = getattr(c, name)
        if value not in known:
            hint = did_you_mean(value, known)
            raise UsageError(f"{name} must be one of {', '.join(known)}, found '{value}'{hint}")
    if not (0 < c.mask_ratio < 1 and 0 < c.num_keep < c.num_patches and 0 < c.predict_ratio <= 1):
        raise UsageError(
            f"mask_ratio {c.mask_ratio} of {c.num_patches} patches leaves {c.num_keep} visible; keep it between "
            f"0 and 1 with at least one visible and one hidden patch, and predict_ratio ({c.predict_ratio}) in (0, 1]"
        )
    if min(c.depth, c.decoder_depth) < 1:
        raise UsageError(f"depth and decoder_depth must be at least 1, found {c.depth} and {c.decoder_depth}")
    if c.predict_ratio < 1 and c.decoder == "full":
        raise UsageError(
            "predict_ratio below 1 needs decoder: cross; the full decoder paints every hidden patch"
        )
