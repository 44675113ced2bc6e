"""Parameter groups, schedule, clipping."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.model.test_mae import small
from usfmae.model.mae import MAE
from usfmae.train.optim import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from usfmae.train.recipe import OptimRecipe


def test_only_matrices_are_decayed_unless_all_are() -> None:
    mae = MAE(small(positions="learned"))
    names = {id(p): n for n, p in mae.named_parameters()}
    decayed, free = parameter_groups(mae, 0.05, False)
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0.0
    spared = {names[id(p)] for p in free["params"]}  # type: ignore[attr-defined]
    assert {"cls_token", "mask_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} <= spared
    assert all(n.endswith((".bias", "token", "pos_embed")) or "norm" in n for n in spared)
    assert len(spared) + len(decayed["params"]) == len(names)  # type: ignore[arg-type]
    (everything,) = parameter_groups(mae, 0.05, True)
    assert len(everything["params"]) == len(names)  # type: ignore[arg-type]


def test_fixed_positions_are_not_given_to_the_optimiser() -> None:
    mae = MAE(small())
    given = {id(p) for g in parameter_groups(mae, 0.05, True) for p in g["params"]}  # type: ignore[attr-defined]
    assert id(mae.pos_embed) not in given and id(mae.decoder_pos_embed) not in given


def test_schedule_rises_on_a_line_and_falls_on_half_a_cosine() -> None:
    rate = [learning_rate(s, 100, 1.0, 0.1, 0.01) for s in range(100)]
    assert rate[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert rate[10] == pytest.approx(1.0) and rate[55] == pytest.approx(0.505)
    assert all(a > b for a, b in itertools.pairwise(rate[10:])) and 0.01 < rate[-1] < 0.012
    assert learning_rate(0, 100, 1.0, 0.0, 0.0) == 1.0
    assert learning_rate(99, 100, 1.0, 1.0, 0.0) == 1.0
    assert learning_rate(500, 100, 1.0, 0.1, 0.01) == pytest.approx(0.01)


def test_clip_returns_the_norm_before_and_limits_it_after() -> None:
    layer = torch.nn.Linear(4, 4)
    for p in layer.parameters():
        p.grad = torch.full_like(p, 3.0)
    assert clip_gradients(layer, 0.0).item() == pytest.approx(3 * math.sqrt(20), rel=1e-5)
    assert clip_gradients(layer, 1.0).item() == pytest.approx(3 * math.sqrt(20), rel=1e-5)
    assert clip_gradients(layer, 0.0).item() == pytest.approx(1.0, rel=1e-4)


def test_the_optimiser_is_fused_adamw_and_takes_the_rate_of_the_step() -> None:
    mae = MAE(small())
    optimizer = build_optimizer(mae, OptimRecipe(betas=(0.9, 0.999)), torch.device("cpu"))
    assert all(g["fused"] and g["betas"] == (0.9, 0.999) for g in optimizer.param_groups)
    set_learning_rate(optimizer, 0.5)
    before = mae.cls_token.detach().clone()
    mae(torch.randn(2, 1, 48, 48)).loss.backward()
    optimizer.step()
    assert (mae.cls_token - before).abs().max().item() == pytest.approx(
        0.5, rel=0.01
    )  # Adam's first step: the rate
