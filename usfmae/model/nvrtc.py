"""CUDA C++ compiled where it runs: NVRTC and the driver, through NVIDIA's own bindings, which PyTorch brings along."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Kernel:
    """A function on the device that it was compiled for. Call it with tensors and integers (64 bits)."""

    def __init__(self, function: Any, shared: int, device: torch.device) -> None:
        self.function, self.shared, self.device = function, shared, device

    def __call__(self, blocks: int, threads: int, args: Sequence[Tensor | int]) -> None:
        """Launch on the current stream of the current device."""
        from cuda.bindings import driver

        values = tuple(x.data_ptr() if isinstance(x, Tensor) else x for x in args)
        kinds = tuple(ctypes.c_void_p if isinstance(x, Tensor) else ctypes.c_longlong for x in args)
        stream = torch.cuda.current_stream().cuda_stream
        launch = (self.function, blocks, 1, 1, threads, 1, 1, self.shared, stream, (values, kinds), 0)
        (error,) = driver.cuLaunchKernel(*launch)
        if error == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread that has not used the device yet
            _bind(self.device)
            (error,) = driver.cuLaunchKernel(*launch)
        _check((error,))


@cache
def compiles_for(device: torch.device) -> bool:
    """Whether the bindings are there, and their compiler knows this GPU."""
    if device.type != "cuda" or find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return False
    from cuda.bindings import nvrtc

    (known,) = _check(nvrtc.nvrtcGetSupportedArchs())
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor in known


def compile_kernels(
    source: Path, before: str, shared: dict[str, int], device: torch.device
) -> dict[str, Kernel]:
    """The kernels of a file, `before` put in front of it, that use so many bytes of shared memory.

    `#include "x.h"` finds files beside it. Raises RuntimeError with the compiler's words.
    """
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    major, minor = torch.cuda.get_device_capability(device)
    code = binary(source, before, f"sm_{major}{minor}")
    _bind(device)
    (module,) = _check(driver.cuModuleLoadData(code))
    kernels = {}
    for name, size in shared.items():
        (function,) = _check(driver.cuModuleGetFunction(module, name.encode()))
        _check(driver.cuFuncSetAttribute(function, attribute, size))
        kernels[name] = Kernel(function, size, device)
    return kernels


def binary(source: Path, before: str, arch: str) -> bytes:
    """Machine code for an architecture (`sm_90`); needs no GPU."""
    from cuda.bindings import nvrtc

    headers = sorted(source.parent.glob("*.h"))
    (program,) = _check(
        nvrtc.nvrtcCreateProgram(
            (before + source.read_text()).encode(), source.name.encode(),
            len(headers), [path.read_bytes() for path in headers], [path.name.encode() for path in headers],
        )
    )  # fmt: skip
    options = [f"--gpu-architecture={arch}".encode(), b"-std=c++17"]
    try:
        _check(nvrtc.nvrtcCompileProgram(program, len(options), options))
    except RuntimeError as error:
        (size,) = _check(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        _check(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"{source.name} does not compile for {arch}: {log.decode().strip()}") from error
    (size,) = _check(nvrtc.nvrtcGetCUBINSize(program))
    code: bytes = b" " * size
    _check(nvrtc.nvrtcGetCUBIN(program, code))
    return code


def _bind(device: torch.device) -> None:
    """Make the context that PyTorch uses on a device that of this thread."""
    from cuda.bindings import driver

    index = torch.cuda.current_device() if device.index is None else device.index
    (found,) = _check(driver.cuDeviceGet(index))
    (context,) = _check(driver.cuDevicePrimaryCtxRetain(found))
    _check(driver.cuCtxSetCurrent(context))


def _check(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What follows the error code of an answer. Raises RuntimeError where it is not zero."""
    error, *rest = answer
    if int(error) != 0:
        raise RuntimeError(f"CUDA: {error!r}")
    return tuple(rest)
