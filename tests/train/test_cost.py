"""Counts of arithmetic and memory, the search for what fits, and `--plan`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openus.errors import OpenUSError
from openus.storage.places import Place
from tests.helpers.corpus import make_corpus
from tests.model.test_mae import small
from tests.train.conftest import TINY
from usfmae.model.mae import MAE, MAEConfig
from usfmae.stream.index import open_index
from usfmae.stream.mixture import make_plan
from usfmae.stream.plan import Share
from usfmae.train import planning
from usfmae.train.cost import cost_of, parameters
from usfmae.train.distributed import World
from usfmae.train.fit import largest_that_fits
from usfmae.train.planning import make_plan_of
from usfmae.train.recipe import load_recipe


def test_flops_of_vit_base_are_the_textbook_count() -> None:
    """Multiply-adds of the linear maps and of attention, written out."""
    c = MAEConfig.preset("base")
    n, k, d, e = 196, 49, 768, 512
    encoder = 12 * (2 * (k + 1) * d * d * 12 + 2 * 2 * (k + 1) ** 2 * d)
    whole_block = 2 * (n + 1) * e * e * 12 + 2 * 2 * (n + 1) ** 2 * e
    m = n - k
    last = (
        2 * e * e * ((n + 1) * 2 + m * 10) + 2 * 2 * m * (n + 1) * e
    )  # only the hidden ask and are answered
    ends = 2 * k * 256 * d + 2 * (k + 1) * d * e + 2 * m * e * 256
    assert cost_of(c).forward == encoder + 7 * whole_block + last + ends
    assert 2.9 < cost_of(c).training / cost_of(c).forward <= 3.0


def test_counting_touches_no_memory_and_agrees_with_a_real_step() -> None:
    mae = MAE(small())
    with FlopCounterMode(display=False) as counter:
        mae(torch.randn(1, 1, 48, 48)).loss.backward()
    real = counter.get_total_flops()
    assert cost_of(small()).training == pytest.approx(real, rel=0.15)  # fused attention recomputes a little
    assert cost_of(MAEConfig.preset("huge")).activations > 2e8
    cross = small(decoder="cross", predict_ratio=0.34)
    assert cost_of(cross).training < cost_of(small()).training


def test_parameters_are_counted_apart() -> None:
    encoder, decoder = parameters(MAEConfig.preset("base"))
    assert 85.0e6 < encoder < 86.2e6 and 25.5e6 < decoder < 26.5e6


def test_the_largest_that_fits_is_found_by_trying() -> None:
    tried: list[int] = []

    def trial(size: int) -> None:
        tried.append(size)
        if size > 10:
            raise torch.OutOfMemoryError

    assert largest_that_fits(100, trial) == 7 and tried == [100, 50, 25, 13, 7]

    def never(size: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(OpenUSError, match="not even one image fits"):
        largest_that_fits(4, never)


def test_what_does_not_fit_another_process_fits_none() -> None:
    asked: list[int] = []

    def least(number: int) -> int:  # the other process may take 12 at first, and finds room for 3
        asked.append(number)
        return min(number, 12 if len(asked) == 1 else int(sizes[-1] <= 3))

    sizes: list[int] = []
    assert largest_that_fits(16, sizes.append, least) == 3 and sizes == [12, 6, 3] and asked == [16, 1, 1, 1]


def test_plan_says_what_a_run_would_be_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    settings = [part for change in TINY for part in ("--set", change)]
    command = [sys.executable, "-m", "usfmae.cli", "pretrain", str(corpus), "--recipe", "demo", "--plan", "--json",
               "--device", "cpu", "--out", str(tmp_path / "run"), *settings]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    assert plan["steps_per_epoch"] == 6 and plan["total_steps"] == 18 and plan["images"] == 144
    assert plan["samples"] == 44 and plan["shards"] == 3 and plan["shards_read_per_rank"] == 3
    assert plan["encoder_parameters"] + plan["decoder_parameters"] == sum(
        p.numel() for p in _tiny().parameters()
    )
    assert plan["images_per_second"] > 0 and plan["seconds"] == pytest.approx(
        144 / plan["images_per_second"], rel=0.1, abs=0.1
    )
    assert not (tmp_path / "run").exists()


def test_plan_counts_the_shards_that_each_of_many_processes_reads(tmp_path: Path) -> None:
    """Against the plan itself: the shards under the positions of one rank, in the order for remote sets."""
    index = open_index(make_corpus(tmp_path, {"pretrain": 256}, size=32, shard_samples=8))
    index.place = Place("https://example.org/corpus")  # what decides the order; nothing is read from it
    recipe = load_recipe("demo", TINY)
    for ranks in (1, 2, 4, 8):
        planned = make_plan_of(index, recipe, World(ranks, 0, 0, torch.device("cpu")))
        share = Share(256, 8 // ranks, ranks, ranks - 1)
        positions = np.concatenate([share.positions(step * 8)[0] for step in range(share.steps())])
        rows, _ = make_plan(index, recipe.training.seed).draw(0, positions)
        assert planned.ranks == ranks and planned.total_steps == 96
        assert planned.shards_read_per_rank == len(set(index.shard_of[rows])) == 32 // ranks
    three = load_recipe("demo", [*TINY, "training.batch_size=9"])
    assert make_plan_of(index, three, World(3, 0, 0, torch.device("cpu"))).shards_read_per_rank == 32


def test_plan_counts_copies_of_the_weights_and_the_pace_of_all_processes(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "images_per_second", lambda *_: 10.0)
    index = open_index(corpus)

    def planned(*changes: str, ranks: int = 1) -> planning.Planned:
        world = World(ranks, 0, 0, torch.device("cpu"))
        return make_plan_of(index, load_recipe("demo", [*TINY, *changes]), world)

    one = planned("training.precision=fp32", "training.ema=0", "training.checkpointing=false")
    weights = 4 * (one.encoder_parameters + one.decoder_parameters)
    assert one.state_bytes == 4 * weights  # weights, gradients, two moments
    assert planned("training.ema=0.99").state_bytes == 5 * weights
    narrow = planned("training.precision=bf16", "training.checkpointing=false")
    assert narrow.activation_bytes_per_image < one.activation_bytes_per_image
    saving = planned("training.precision=fp32", "training.checkpointing=true")
    assert saving.activation_bytes_per_image < one.activation_bytes_per_image
    two = planned(ranks=2)
    assert (one.images_per_second, two.images_per_second) == (10, 20)
    assert one.images == two.images == one.total_steps * one.batch_size
    assert one.seconds == pytest.approx(one.images / 10) and two.seconds == pytest.approx(one.seconds / 2)


def _tiny() -> MAE:
    return MAE(load_recipe("demo", TINY).mae_config())
