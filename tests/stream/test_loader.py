"""Batches: the same for any number of workers, continued at any other size, kept as long as the consumer likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from openus.errors import CorpusError, UsageError
from tests.helpers.corpus import make_corpus
from usfmae.stream.decode import decode_grey
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.mixture import Mixture, make_plan
from usfmae.stream.plan import Cursor


@pytest.fixture(scope="module")
def index(corpus: Path) -> Index:
    return open_index(corpus)


def load(index: Index, **options: Any) -> list[Batch]:
    return list(Loader(index, **({"batch_size": 6, "size": 32, "seed": 9, "epochs": 2} | options)))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) and torch.equal(a.seeds, b.seeds)
        and a.cursor == b.cursor and a.padded == b.padded
        for a, b in zip(first, second, strict=True)
    )  # fmt: skip


def rows(batches: list[Batch]) -> list[int]:
    return [row for b in batches for row in b.indices[: len(b.indices) - b.padded].tolist()]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_batches(index: Index, workers: int) -> None:
    assert same(load(index), load(index, workers=workers))


def test_batches_are_what_they_are_called(index: Index) -> None:
    loader = Loader(index, batch_size=6, size=32, seed=9, epochs=2)
    batches = list(loader)
    assert loader.steps_per_epoch == 7 and len(batches) == 14
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (6, 1, 32, 32)
        assert batch.indices.dtype == batch.seeds.dtype == torch.int64
    assert [batch.padded for batch in batches[:7]] == [0] * 6 + [2]
    assert [batch.cursor.step for batch in batches] == [1, 2, 3, 4, 5, 6, 0] * 2
    assert sorted(rows(batches[:7])) == sorted(rows(batches[7:])) == list(range(40))
    assert rows(batches[:7]) != rows(batches[7:])
    assert batches[6].indices[4:].tolist() == batches[0].indices[:2].tolist()
    assert batches[6].cursor == Cursor(1, 0, 0, loader.fingerprint)
    assert "first 2 samples" in loader.tail_note


def test_the_tail_can_be_dropped(index: Index) -> None:
    loader = Loader(index, batch_size=6, size=32, seed=9, epochs=1, tail="drop")
    batches = list(loader)
    assert len(batches) == loader.steps_per_epoch == 6 and len(set(rows(batches))) == 36
    assert "last 4 samples" in loader.tail_note
    left = load(index, batch_size=4, tail="drop")[8].cursor  # the four left of the epoch fill no step of six
    assert left.samples == 36
    assert rows(load(index, tail="drop", cursor=left)) == rows(load(index, tail="drop"))[36:]
    exact = Loader(index, batch_size=8, size=32, seed=9)
    assert "exactly" in exact.tail_note


def test_ranks_share_each_step_and_their_views_are_those_of_one_rank(index: Index) -> None:
    alone = {
        int(i): image for b in load(index, epochs=1) for i, image in zip(b.indices, b.images, strict=True)
    }
    parts = [load(index, epochs=1, rank=rank, world=3, batch_size=4) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(row for part in parts for row in rows(part)) == list(range(40))
    for part in parts:
        for batch in part:
            for row, image in zip(batch.indices.tolist(), batch.images, strict=True):
                assert torch.equal(image, alone[row])


@pytest.mark.parametrize("stop", [1, 3, 7, 10])
@pytest.mark.parametrize(("world", "batch_size", "workers"), [(1, 6, 2), (1, 5, 0), (2, 4, 1), (3, 7, 0)])
def test_stopping_and_going_on_at_another_size_continues_the_order(
    index: Index, stop: int, world: int, batch_size: int, workers: int
) -> None:
    whole = load(index)
    before, cursor = whole[:stop], whole[stop - 1].cursor
    options = {"cursor": Cursor.from_dict(cursor.to_dict()), "batch_size": batch_size, "workers": workers}
    parts = [load(index, rank=rank, world=world, **options) for rank in range(world)]
    after = [row for step in zip(*parts, strict=True) for row in _in_order(list(step))]
    assert rows(before) + after == rows(whole)
    if (world, batch_size) == (1, 6):
        assert same(whole[stop:], parts[0])


def _in_order(step: list[Batch]) -> list[int]:
    """The rows of a global step in the order of their positions: ranks take turns."""
    served = [rows([batch]) for batch in step]
    return [part[turn] for turn in range(max(map(len, served))) for part in served if turn < len(part)]


def test_iterating_again_goes_on(index: Index) -> None:
    whole, loader = load(index), Loader(index, batch_size=6, size=32, seed=9, epochs=2, workers=1)
    first = []
    for batch in loader:
        first.append(batch)
        if len(first) == 5:
            break
    assert loader.cursor == whole[4].cursor
    assert same(whole, first + list(loader))
    assert list(loader) == []


def test_kept_batches_are_never_overwritten(index: Index) -> None:
    expected = [batch.images.clone() for batch in Loader(index, batch_size=4, size=64, seed=1, epochs=3)]
    kept = [
        batch.images
        for batch in Loader(index, batch_size=4, size=64, seed=1, epochs=3, workers=2, prefetch=1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(expected, kept, strict=True))
    pieces = [b.images[1] for b in Loader(index, batch_size=4, size=64, seed=1, epochs=3, workers=2)]
    assert all(torch.equal(a[1], b) for a, b in zip(expected, pieces, strict=True))


def test_without_a_crop_the_whole_picture_is_shown(index: Index) -> None:
    for batch in load(index, crop=None, epochs=1):
        for row, image in zip(batch.indices.tolist(), batch.images, strict=True):
            grey = decode_grey(index.read(row), int(index.width[row]), int(index.height[row]))
            reduced = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
            assert np.abs(image[0].numpy().astype(int) - reduced).mean() < 8


@pytest.mark.parametrize("fmt", ["png", "webp"])
def test_other_formats_and_large_pictures(tmp_path: Path, fmt: str) -> None:
    index = open_index(make_corpus(tmp_path, {"pretrain": 12}, size=150, fmt=fmt))
    full, half = load(index, decode_side=0, epochs=1), load(index, epochs=1)  # 150 // 2 >= 37
    assert rows(full) == rows(half)
    assert not same(full, half)
    assert same(half, load(index, epochs=1, workers=2))
    difference = [(a.images.float() - b.images.float()).abs().mean() for a, b in zip(full, half, strict=True)]
    assert max(difference) < 12


def test_interpolations_differ_and_are_named(index: Index) -> None:
    assert not same(load(index), load(index, interpolation="cubic"))
    with pytest.raises(UsageError, match="did you mean 'cubic'"):
        Loader(index, batch_size=6, size=32, seed=9, interpolation="cubik")


def test_weights_orders_and_subsets_reach_the_batches(index: Index) -> None:
    plan = make_plan(index, 9, mixture=Mixture(factors={"covid-blues": 0}))
    drawn = {index.sources[index.source_of[row]] for row in rows(load(index, plan=plan))}
    assert drawn == {"stu-hospital", "fetal-planes"}
    blocks = make_plan(index, 9, order="blocks", lanes=2)
    assert same(load(index, plan=blocks), load(index, plan=blocks, workers=2))
    assert sorted(rows(load(index, plan=blocks, epochs=1))) == list(range(40))
    some = make_plan(index, 9, order="none", rows=np.arange(10, 30))
    assert rows(load(index, plan=some, epochs=1)) == list(range(10, 30))


def test_a_cursor_of_another_run_is_refused(index: Index, tmp_path: Path) -> None:
    cursor = load(index)[2].cursor
    with pytest.raises(CorpusError, match="other data"):
        other = open_index(make_corpus(tmp_path, seed=1))
        Loader(other, batch_size=6, size=32, seed=9, cursor=cursor)
    for options in ({"seed": 10}, {"plan": make_plan(index, 9, order="blocks")}):
        with pytest.raises(CorpusError, match="another order"):
            Loader(index, **({"batch_size": 6, "size": 32, "seed": 9} | options), cursor=cursor)
    with pytest.raises(UsageError, match="outside"):
        Loader(index, batch_size=6, size=32, seed=9, cursor=Cursor(0, 0, 40))


@pytest.mark.realdata
def test_real_pictures(shared: Path, tmp_path: Path) -> None:
    """BUS-BRA as it lies, packed by the shard writer: views of the right pictures, by any workers."""
    from openus.shards.foreign import index_shards

    folder = shared / "data" / "bus-bra" / "BUSBRA" / "Images"
    import tarfile

    with tarfile.open(tmp_path / "real.tar", "w") as tar:
        for path in sorted(folder.glob("*.png"))[:48]:
            tar.add(path, arcname=path.name)
    index_shards(str(tmp_path / "real.tar"), tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.count == 48
    assert same(load(index, size=224), load(index, size=224, workers=2))
    whole = load(index, crop=None, size=224, epochs=1)
    means = {
        row: float(image.float().mean())
        for b in whole
        for row, image in zip(b.indices.tolist(), b.images, strict=True)
    }
    for row in (0, 20, 47):
        picture = cv2.imread(str(folder / f"{index.table['member'][row]}"), cv2.IMREAD_GRAYSCALE)
        assert abs(picture.mean() - means[row]) < 1.5
