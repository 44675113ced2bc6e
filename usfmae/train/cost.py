"""What training costs: arithmetic, memory, and the peak of known GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from usfmae.model.mae import MAE, MAEConfig

# Dense bfloat16 peak in TFLOP/s by a part of the device's name; from NVIDIA's data sheets, without sparsity.
PEAKS = (
    ("B200", 2250.0), ("H200", 989.4), ("H100 PCIe", 756.0), ("H100", 989.4), ("GH200", 989.4), ("A100", 312.0),
    ("A10G", 70.0), ("A10", 125.0), ("A40", 149.7), ("L40S", 362.0), ("L40", 181.0), ("L4", 121.0), ("4090", 165.2),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one image in one training step.

    forward, training  floating-point operations (a multiply and an add are two); training is forward and
                       backward as they are computed here, nothing recomputed
    activations        bytes kept for the backward pass in float32
    """

    forward: int
    training: int
    activations: int


def cost_of(config: MAEConfig) -> Cost:
    """Count on shapes alone: nothing is computed, no memory taken. Elementwise work is not counted."""
    with torch.device("meta"):
        mae = MAE(config)
        images = torch.empty(1, config.in_chans, config.img_size, config.img_size)
        noise = torch.empty(1, config.num_patches)
    own = {p.untyped_storage()._cdata for p in mae.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Fused attention keeps no weights [.., T, T]; on shapes alone PyTorch takes the plain way, which does.
        square = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] > 1
        if storage._cdata not in own and tensor.is_floating_point() and not square:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with (
        FlopCounterMode(display=False) as forward,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        loss = mae(images, noise).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return Cost(
        forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops(), sum(kept.values())
    )


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second of a known GPU; None for others and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAKS if part in name), None)


def parameters(config: MAEConfig) -> tuple[int, int]:
    """Numbers of the encoder and of the decoder."""
    with torch.device("meta"):
        state = MAE(config).state_dict()
    decoder = sum(v.numel() for k, v in state.items() if k.startswith(("decoder", "mask_token")))
    return sum(v.numel() for v in state.values()) - decoder, decoder
