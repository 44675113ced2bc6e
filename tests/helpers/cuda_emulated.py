"""CUDA kernels run on a CPU, by `cuda_emulated.h` and g++: in the place of `usfmae.model.nvrtc.compile_kernels`."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

ROOM = 227 * 1024  # of shared memory for a block, as on a Hopper GPU
FOLDER = tempfile.TemporaryDirectory(prefix="cuda-emulated-")


class Emulated:
    """A kernel as `usfmae.model.nvrtc.Kernel` is one."""

    def __init__(self, function: ctypes._CFuncPtr, shared: int) -> None:
        self.function = function
        assert shared <= ROOM

    def __call__(self, blocks: int, threads: int, args: Sequence[Tensor | int]) -> None:
        words = [x.data_ptr() if isinstance(x, Tensor) else x for x in args]
        self.function(blocks, threads, (ctypes.c_int64 * len(words))(*words))


def compile_kernels(
    source: Path, before: str, shared: dict[str, int], device: torch.device
) -> dict[str, Emulated]:
    """The kernels of a file, `before` put in front of it."""
    name = Path(FOLDER.name) / str(len(list(Path(FOLDER.name).iterdir())))
    entries = "".join(
        f'extern "C" void run_{kernel}(int blocks, int threads, const uint64_t* words) '
        f"{{ launch({kernel}, blocks, threads, words); }}\n"
        for kernel in shared
    )
    header = Path(__file__).with_suffix(".h")
    code = f'{before}\n#include "{header}"\n#include "{source}"\n{entries}'
    command = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(name)]
    done = subprocess.run(command, input=code, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[:3000]
    library = ctypes.CDLL(str(name))
    return {kernel: Emulated(library[f"run_{kernel}"], size) for kernel, size in shared.items()}
