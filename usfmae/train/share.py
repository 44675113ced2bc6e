"""How a network is spread over the processes, and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from openus.errors import OpenUSError
from usfmae.model.mae import MAE
from usfmae.train.distributed import World, replicate
from usfmae.train.recipe import TrainingRecipe


@contextmanager
def compiler_told() -> Iterator[None]:
    """Turn what `torch.compile` says where it finds no compiler (of C++, or of C for Triton) into one line."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("No working C++ compiler", "Failed to find C compiler")):
            raise
        raise OpenUSError(
            "the recipe compiles its steps, and no C++ compiler works here; install one (g++, clang), or give "
            "--set training.compile=false (of fine-tuning: compile=false), which is slower"
        ) from error


def is_sharded(recipe: TrainingRecipe, world: World) -> bool:
    """Whether parameters are sharded: asked for, and more than one process to shard over."""
    return recipe.shard and world.size > 1


def share(mae: MAE, recipe: TrainingRecipe, world: World) -> tuple[nn.Module, nn.Module]:
    """The network as the processes share it, and as it is called: the same unless it is compiled.

    Copies are compiled whole, with their exchange of gradients; sharded networks block by block, so that the
    gathering of one block goes on while another computes.
    """
    if is_sharded(recipe, world):
        from usfmae.train.sharded import shard

        _compile_blocks(mae, recipe)
        mae = shard(mae, world, recipe.precision != "fp32")
        return mae, mae
    shared = replicate(mae, world)
    return shared, cast(nn.Module, torch.compile(shared)) if recipe.compile else shared


def stand_in(mae: MAE, recipe: TrainingRecipe, world: World, mesh: DeviceMesh) -> MAE:
    """A network that takes the memory of the sharded `mae` in a forward and backward pass, with nothing in it.

    mesh: silent, so that it gathers and reduces at no other process's pace. Throw it away after one trial: running
    full in the midst of a pass leaves a sharded network in no state to go on from.
    """
    from usfmae.train.sharded import shard

    with torch.device("meta"):
        twin = MAE(mae.config)
    twin.checkpointing, twin.narrow = mae.checkpointing, mae.narrow
    _compile_blocks(twin, recipe)
    return shard(twin, world, recipe.precision != "fp32", mesh).to_empty(device=world.device).train()


def _compile_blocks(mae: MAE, recipe: TrainingRecipe) -> None:
    if recipe.compile:
        for block in [*mae.blocks, *mae.decoder_blocks]:
            cast(nn.Module, block).compile()
