"""Prints how far apart the gradients of an autoencoder are with our kernels, emulated, and with PyTorch's."""

import sys

import torch

from tests.helpers import cuda_emulated
from usfmae.model import blocks, nvrtc, short_attention
from usfmae.model.mae import MAE, MAEConfig

nvrtc.compile_kernels = cuda_emulated.compile_kernels
short_attention.room = lambda device: cuda_emulated.ROOM


def gradients(how: str, decoder: str) -> torch.Tensor:
    """All of them, flat, after one step in float16; compiled in one graph with our kernels."""
    blocks.KERNELS = how
    torch.manual_seed(1)
    sizes = {"embed_dim": 64, "depth": 1, "num_heads": 2}
    sizes |= {"decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 2}
    model = MAE(MAEConfig(img_size=32, patch_size=8, decoder=decoder, **sizes))
    model.narrow = True
    images, noise = torch.randn(2, 1, 32, 32), torch.rand(2, 16)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if how == "ours" else model
    with torch.autocast("cpu", torch.float16):
        loss = run(images, noise).loss
    (loss * 1024).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


ours, theirs = (gradients(how, sys.argv[1]) for how in ("ours", "torch"))
print(((ours - theirs).norm() / theirs.norm()).item())
