"""One process or many: who we are, how the model is shared, and how all agree. `torchrun` starts the many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from openus.errors import OpenUSError, UsageError

TIMEOUT = timedelta(seconds=int(os.environ.get("OPENUS_TIMEOUT", "600")))
"""How long a process waits for the others before it ends with an error."""


@dataclass(frozen=True)
class World:
    """Our place among the processes.

    size        processes in all
    rank        number of this one; rank 0 writes and speaks
    local_rank  number within this machine; picks the GPU
    device      where this process computes
    """

    size: int
    rank: int
    local_rank: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def most(self, number: int) -> int:
        """The largest number any process has."""
        return -self.least(-number)

    def least(self, number: int) -> int:
        """The smallest number any process has."""
        if self.size == 1:
            return number
        shared = torch.tensor([number])
        dist.all_reduce(shared, op=dist.ReduceOp.MIN, group=_control())
        return int(shared.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes, on the CPU."""
        values = values.detach().double().cpu()
        if self.size > 1:
            dist.all_reduce(values, group=_control())
            values /= self.size
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, on the CPU."""
        values = values.detach().double().cpu()
        if self.size > 1:
            dist.all_reduce(values, group=_control())
        return values

    def tell(self, text: str) -> str:
        """What rank 0 says, to all."""
        if self.size == 1:
            return text
        said = [text]
        dist.broadcast_object_list(said, src=0, group=_control())
        return said[0]

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier(group=_control())


_LOST = (
    "Connection closed by peer",
    "Connection reset",
    "gloo",
    "NCCL",
    "ProcessGroup",
    "Timed out",
    "Broken pipe",
)
_groups: dict[str, dist.ProcessGroup] = {}


def side_group(name: str) -> dist.ProcessGroup:
    """A group over the CPU: "control", where agreeing never waits for a GPU, or "checkpoint", for a thread."""
    return _groups[name]


def _control() -> dist.ProcessGroup:
    return side_group("control")


@contextmanager
def join(device: str = "auto") -> Iterator[World]:
    """Join the processes `torchrun` started (or be alone), and leave them at the end.

    device: "auto", "cpu", "cuda" or "cuda:N". Raises `UsageError` for a device that is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device, local_rank)
    if size > 1:
        gpu = chosen.type == "cuda"
        dist.init_process_group("cuda:nccl,cpu:gloo" if gpu else "gloo", timeout=TIMEOUT)
        for name in ("control", "checkpoint"):
            _groups[name] = dist.new_group(backend="gloo", timeout=TIMEOUT)  # type: ignore[assignment]
    try:
        yield World(size, rank, local_rank, chosen)
    except RuntimeError as error:
        if size > 1 and any(word in str(error) for word in _LOST):
            why = str(error).strip().split("\n")[0]
            raise OpenUSError(
                f"rank {rank} of {size}: lost another process ({why}); see the first error among the processes, then "
                "start them all again: the run goes on from its last checkpoint"
            ) from error
        raise
    finally:
        if size > 1:
            _groups.clear()
            dist.destroy_process_group()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" takes this process's GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {name}: no CUDA device is visible here; use --device cpu")
        index = local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UsageError(f"--device cuda:{index}: there are {count} GPUs here; start fewer processes")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"--device {name}: only cpu and cuda are supported")
    return device


def describe(world: World) -> str:
    """The devices, in words."""
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    threads = "" if world.device.type == "cuda" else f" ({torch.get_num_threads()} threads)"
    return f"{world.size} x {name}{threads}"


def replicate(model: nn.Module, world: World) -> nn.Module:
    """The model with gradients averaged over all processes (DDP); alone, the model itself."""
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


@contextmanager
def gradients_stay(model: nn.Module, stay: bool) -> Iterator[None]:
    """Within this, gradients are not yet sent to the other processes: all but the last part of a batch."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and stay:
        with model.no_sync():
            yield
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not stay)
        yield
    else:
        yield
