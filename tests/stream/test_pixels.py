"""The cache of decoded pictures: same batches, no decoding after the first epoch, refused where it does not fit."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from openus.errors import CorpusError, UsageError
from usfmae.stream.decode import decode_grey, decode_side_of
from usfmae.stream.index import Index, open_index
from usfmae.stream.loader import Batch, Loader
from usfmae.stream.pixels import PixelCache, open_pixels

SIDE = decode_side_of(32)


@pytest.fixture
def index(corpus: Path, tmp_path: Path) -> Index:
    shutil.copytree(corpus, tmp_path / "corpus")
    return open_index(tmp_path / "corpus")


def load(index: Index, pixels: PixelCache | None, workers: int, epochs: int = 1) -> list[Batch]:
    return list(Loader(index, batch_size=8, size=32, seed=2, epochs=epochs, workers=workers, pixels=pixels))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_cached_batches_are_the_same_and_need_no_shard_any_more(
    index: Index, tmp_path: Path, kind: str, workers: int
) -> None:
    expected = load(index, None, 0, epochs=2)
    pixels = open_pixels(index, SIDE, "memory" if kind == "memory" else tmp_path / "pixels")
    assert pixels.filled == 0
    assert same(load(index, pixels, workers), expected[:5])
    assert pixels.filled == 40
    shutil.rmtree(tmp_path / "corpus" / "pretrain")  # nothing is left that could be decoded
    assert same(load(index, pixels, workers, epochs=2), expected)
    pixels.close()


def test_its_size_is_said_before_it_starts(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "usfmae.stream"):
        pixels = open_pixels(index, 0, "memory")
    assert pixels.bytes >= int((index.width * index.height).sum())
    assert "40 decoded pictures of 'pretrain' take 0.00 GB" in caplog.text
    pixels.close()


def test_the_next_run_finds_it_on_disk_and_other_data_do_not(
    index: Index, tmp_path: Path, corpus: Path
) -> None:
    first = open_pixels(index, SIDE, tmp_path / "pixels")
    load(index, first, 0)
    first.close()
    again = open_pixels(index, SIDE, tmp_path / "pixels")
    assert again.filled == 40
    grey = decode_grey(index.read(7), int(index.width[7]), int(index.height[7]))
    found = again.get(7)
    assert found is not None and np.array_equal(found, grey)
    again.close()
    other = open_pixels(open_index(corpus, "bus-bra"), SIDE, tmp_path / "pixels")
    assert other.filled == 0
    other.close()


def test_two_ranks_fill_one_cache(index: Index, tmp_path: Path) -> None:
    caches = [open_pixels(index, SIDE, tmp_path / "pixels") for _ in range(2)]
    for rank, pixels in enumerate(caches):
        list(Loader(index, batch_size=4, size=32, seed=2, epochs=1, rank=rank, world=2, pixels=pixels))
    assert caches[0].filled == caches[1].filled == 40
    assert len(list((tmp_path / "pixels").glob("*.u8"))) == 1
    for pixels in caches:
        pixels.close()


def test_after_a_crash_of_the_machine_it_begins_anew(index: Index, tmp_path: Path) -> None:
    pixels = open_pixels(index, SIDE, tmp_path / "pixels")
    load(index, pixels, 0)
    path = pixels.path
    assert path is not None

    def head() -> dict[str, str]:
        with path.open("rb") as file:
            found: dict[str, str] = json.loads(file.read(4096))
            return found

    assert head()["boot"]  # in use: not yet sound
    with path.open("r+b") as file:
        file.write(json.dumps(head() | {"boot": "another start of the machine"}).encode().ljust(4096))
    again = open_pixels(index, SIDE, tmp_path / "pixels")
    assert again.filled == 0
    load(index, again, 0)
    for cache in (pixels, again):
        cache.close()
    assert head()["boot"] == ""
    sound = open_pixels(index, SIDE, tmp_path / "pixels")
    assert sound.filled == 40
    sound.close()


def test_a_cache_of_another_size_is_refused(index: Index) -> None:
    pixels = open_pixels(index, 0, "memory")
    with pytest.raises(UsageError, match="side 0, the loader wants 37"):
        load(index, pixels, 0)
    pixels.close()


def test_more_than_the_memory_is_refused(index: Index) -> None:
    index.width = np.full(index.count, 1 << 20, np.int32)
    index.height = np.full(index.count, 1 << 20, np.int32)
    with pytest.raises(CorpusError, match=r"take .* GB of memory are available"):
        open_pixels(index, 0, "memory")
    with pytest.raises(CorpusError, match=r"take .* GB are free; make room"):
        open_pixels(index, 0, index.place.folder / "pixels")  # type: ignore[operator]


def test_a_full_disk_is_said_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    """The disk ends at 64 KiB for this process, which the system enforces as it would a full disk."""
    script = (
        "import sys; from usfmae.stream.index import open_index; from usfmae.stream.pixels import open_pixels\n"
        "open_pixels(open_index(sys.argv[1]), 37, sys.argv[2])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(corpus), str(tmp_path / "pixels")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert "CorpusError: 40 decoded pictures" in run.stderr and "make room there" in run.stderr
    assert not list((tmp_path / "pixels").glob("*.u8"))
