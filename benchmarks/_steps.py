"""Training steps that can be compared: ours and transformers' ViTMAE, same sizes, same images, same optimiser."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from usfmae.model.layouts import to_huggingface
from usfmae.model.mae import IMAGENET_MEAN, IMAGENET_STD, MAE, MAEConfig

BETAS, LR, DECAY = (0.9, 0.95), 1e-4, 0.05


@dataclass
class Contestant:
    """A model with its optimiser; `step` is one whole training step on `images`."""

    name: str
    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    device: torch.device

    def step(self, images: Tensor, bf16: bool) -> None:
        """Forward, backward, AdamW; returns when the device is done."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            loss = self.loss(images)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def time(self, images: Tensor, bf16: bool, steps: int = 1) -> tuple[float, float]:
        """Seconds a step by the clock, and by the processor's time of this process."""
        settle(self.device)
        wall, busy = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step(images, bf16)
        settle(self.device)
        return (time.perf_counter() - wall) / steps, (time.process_time() - busy) / steps


def settle(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def config_of(size: str, **changes: Any) -> MAEConfig:
    """A size in colour, as the peer has it."""
    shape = {"img_size": 32, "patch_size": 8, "decoder_depth": 1} if size == "tiny" else {"patch_size": 16}
    return MAEConfig.preset(
        size, **{"in_chans": 3, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, **shape, **changes}
    )


def ours(
    name: str, config: MAEConfig, device: torch.device, compiled: bool, *, narrow: bool = False
) -> Contestant:
    """This package's network; narrow: the residual stream in bfloat16 too (the recipe's bf16-residual)."""
    model = MAE(config).to(device)
    model.narrow = narrow
    called = torch.compile(model) if compiled else model
    return Contestant(name, model, lambda x: called(x).loss, adamw(model, device, fused=True), device)


def peer(name: str, config: MAEConfig, device: torch.device, compiled: bool, *, best: bool) -> Contestant:
    """transformers' ViTMAE: at its best (SDPA, fused AdamW), or in the plain form of the reference code."""
    from transformers import ViTMAEForPreTraining

    model = ViTMAEForPreTraining._from_config(
        peer_config(config), attn_implementation="sdpa" if best else "eager"
    )
    model = model.to(device).train()
    called = torch.compile(model) if compiled else model
    return Contestant(name, model, lambda x: called(x).loss, adamw(model, device, fused=best), device)


def peer_config(config: MAEConfig) -> Any:
    """Our configuration in transformers' words."""
    from transformers import ViTMAEConfig

    return ViTMAEConfig(
        hidden_size=config.embed_dim, num_hidden_layers=config.depth, num_attention_heads=config.num_heads,
        intermediate_size=int(config.embed_dim * config.mlp_ratio), image_size=config.img_size,
        patch_size=config.patch_size, num_channels=config.in_chans, decoder_hidden_size=config.decoder_embed_dim,
        decoder_num_hidden_layers=config.decoder_depth, decoder_num_attention_heads=config.decoder_num_heads,
        decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio), layer_norm_eps=1e-6,
        mask_ratio=config.mask_ratio, norm_pix_loss=config.norm_pix_loss,
    )  # fmt: skip


def adamw(model: nn.Module, device: torch.device, *, fused: bool) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=LR, betas=BETAS, weight_decay=DECAY, fused=fused)


def same_loss(config: MAEConfig, device: torch.device) -> float:
    """How far apart the two losses are, relatively, with the same weights, images and mask, in float32."""
    import safetensors.torch
    from transformers import ViTMAEForPreTraining

    mae = MAE(config)
    with tempfile.TemporaryDirectory() as folder:
        peer_config(config).save_pretrained(folder)
        stored = to_huggingface(mae.state_dict())
        safetensors.torch.save_file(stored, Path(folder) / "model.safetensors", {"format": "pt"})
        other = ViTMAEForPreTraining.from_pretrained(folder).to(device)
    mae = mae.to(device)
    images = torch.randn(2, config.in_chans, config.img_size, config.img_size, device=device)
    noise = torch.rand(2, config.num_patches, device=device)
    with torch.no_grad():
        a, b = mae(images, noise).loss, other(images, noise=noise).loss
    return abs(float(a / b) - 1)


def machine(device: torch.device) -> str:
    """What this was measured on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = lines[0] if lines else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
