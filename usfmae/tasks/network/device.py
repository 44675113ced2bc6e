"""Where a network runs, and in which precision."""

from __future__ import annotations

import torch
from torch import nn

from openus.errors import UsageError


def pick_device(name: str = "auto") -> torch.device:
    """The device asked for; ``auto`` is a GPU if there is one. UsageError for a device that is not there."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device '{name}' on this machine; use --device auto or cpu") from error
    return device


def multiplies_bf16(device: torch.device, precision: str) -> bool:
    """Whether the recipe and the device allow bf16."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported()
    else:
        # Only with instructions for it: elsewhere a CPU emulates bf16 and is slower than float32.
        able = device.type == "cpu" and (
            torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        )
    return precision == "bf16" or (precision == "auto" and able)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where the recipe and the device allow it, else a context that does nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device, precision))


def choose_attention(network: nn.Module, device: torch.device, precision: str) -> None:
    """Let the blocks of timm multiply attention out where PyTorch's fused kernel is the slower one: bf16 on a CPU."""
    if device.type == "cpu" and multiplies_bf16(device, precision):
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
