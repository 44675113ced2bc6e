"""Where the pictures of a run are decoded: tried on its first pictures, on these cores and on the GPU.

Which is faster depends on the GPU, the cores and the pictures. Decoding on a GPU also takes time from training there,
so it must win clearly.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from usfmae.stream.device import DeviceViews, decode_jpegs
from usfmae.stream.loader import Loader

log = logging.getLogger("usfmae.stream")

_TRIED = 256  # pictures of a trial
_MARGIN = 1.25  # by how much the GPU must be faster to be chosen


@dataclass(frozen=True)
class Choice:
    """Where pictures are decoded, and what was measured: images a second on these cores and on the GPU.

    `device` is None for the cores; `gpu` is 0 where the GPU cannot do it, and `why` says why.
    """

    device: torch.device | None
    cpu: float = 0.0
    gpu: float = 0.0
    why: str = ""

    def __str__(self) -> str:
        where = "these cores" if self.device is None else f"{self.device} (nvJPEG)"
        rates = f"{self.cpu:,.0f} images/s on these cores, {self.gpu:,.0f} on the GPU" if self.cpu else ""
        return f"pictures are decoded on {where}: {'; '.join(part for part in (rates, self.why) if part)}"


def choose(loader: Loader, device: torch.device) -> Choice:
    """Decode the first pictures of the loader's order on its cores and on the device, and take the faster.

    Nothing is taken from the loader. The device is taken only where it wins by a quarter. What was found is logged.
    """
    found = _measured(loader, device)
    log.info("%s", found)
    return found


def _measured(loader: Loader, device: torch.device) -> Choice:
    rows, seeds = loader.plan.draw(loader.cursor.epoch, np.arange(min(_TRIED, loader.plan.count)))
    records = loader.records(rows, seeds)
    views = loader.views()
    out = np.empty((len(records), loader.size, loader.size), np.uint8)
    try:
        views.fill(records, out)  # brings the bytes into memory, so that neither side waits for a disk
        part = records[: max(1, len(records) // 4)]
        began = time.perf_counter()
        views.fill(part, out)
        cpu = len(part) / (time.perf_counter() - began) * max(loader.workers, 1)
    finally:
        views.close()
    try:
        gpu = _device_rate(loader, records, device)
    except (RuntimeError, ImportError) as error:  # no nvJPEG in this build, no memory
        return Choice(None, cpu, 0.0, f"the GPU decodes no JPEG here ({str(error).splitlines()[0]})")
    return decide(cpu, gpu, device)


def decide(cpu: float, gpu: float, device: torch.device) -> Choice:
    """The rule, given both rates in images a second."""
    return Choice(device if gpu > _MARGIN * cpu else None, cpu, gpu)


def _device_rate(loader: Loader, records: NDArray[np.void], device: torch.device) -> float:
    """Images a second of whole batches on the device; the best of two, after one to warm up."""
    decode_jpegs([simplejpeg.encode_jpeg(np.zeros((8, 8, 1), np.uint8), colorspace="GRAY")], device)
    maker = DeviceViews(loader.views(), loader.size, loader.interpolation, device)
    try:
        best = 0.0
        for turn in range(3):
            began = time.perf_counter()
            maker.make(records)
            if turn:
                best = max(best, len(records) / (time.perf_counter() - began))
    finally:
        maker.close()
    return best
