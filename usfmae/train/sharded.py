"""Parameters and optimiser in shards (FSDP2), and checkpoints written by all processes at once, in the background."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from usfmae.model.layouts import WeightsError
from usfmae.model.mae import MAE
from usfmae.train.distributed import World, side_group

SHARDS = "sharded"  # the folder of a checkpoint that holds them

# What a checkpoint's metadata may be made of. It is a pickle, and this list is what keeps it data.
_PERMITTED = {
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"), ("pathlib", "Path"), ("collections", "OrderedDict"),
}  # fmt: skip
_PERMITTED_MODULES = (
    "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem",
    "torch.distributed.tensor.placement_types",
)  # fmt: skip


def shard(mae: MAE, world: World, bf16: bool, mesh: DeviceMesh | None = None) -> MAE:
    """Shard every block, and the rest, over all processes; the same object, changed in place.

    With `bf16` on GPUs the gathered copies are bfloat16, gradients are reduced in float32. mesh: the processes, where
    they are not to exchange over their default group.
    """
    mesh = mesh or init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy()
    if bf16 and world.device.type == "cuda":
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    warnings.filterwarnings(
        "ignore", message=r"FSDP2-wrapped module \(\w+\) returned a view"
    )  # left as it is
    for block in [*mae.blocks, *mae.decoder_blocks]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(mae, mesh=mesh, mp_policy=policy)
    return mae


def silent_mesh(world: World) -> DeviceMesh:
    """The processes, over a group in which nothing is exchanged: each takes what it finds in its own buffers.

    All processes call this.
    """
    import torch.testing._internal.distributed.fake_pg  # registers the group's kind

    dist.all_reduce(torch.zeros(1, device=world.device))  # NCCL takes memory of its own when it is first used
    group = dist.new_group(backend="fake")
    return DeviceMesh.from_group(group, world.device.type)  # type: ignore[arg-type]


def save_shards(folder: Path, live: Mapping[str, Tensor]) -> Future[Any]:
    """Begin to write tensors into `folder`; they are copied before this returns, training may go on."""
    return async_save(dict(live), checkpoint_id=folder, process_group=side_group("checkpoint"))  # type: ignore[return-value]


def load_shards(folder: Path, live: Mapping[str, Tensor]) -> None:
    """Read tensors in place, whatever number of processes wrote them. Raises `WeightsError`."""
    try:
        alone = not dist.is_initialized()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # alone is meant
        load(dict(live), storage_reader=_Reader(folder), no_dist=alone)
    except (
        CheckpointException,
        RuntimeError,
        OSError,
        pickle.UnpicklingError,
        ValueError,
        KeyError,
    ) as error:
        why = str(error).strip().split("\n")[-1]
        raise WeightsError(f"{folder}: a sharded state that does not fit or is damaged ({why})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (
            (module, name) in _PERMITTED
            or module in _PERMITTED_MODULES
            or (module == "torch" and _is_dtype(name))
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"refused: the metadata names {module}.{name}, which is no part of a checkpoint"
        )


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype | torch.layout | torch.memory_format)


class _Reader(FileSystemReader):
    """PyTorch's reader, but metadata is unpickled with a list of what may be in it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        data = (Path(self.path) / ".metadata").read_bytes()
        metadata: Metadata = _Unpickler(io.BytesIO(data)).load()
        if metadata.storage_meta is None:
            raise pickle.UnpicklingError("the metadata does not say how the shards are stored")
        metadata.storage_meta.load_id = self.load_id
        return metadata
