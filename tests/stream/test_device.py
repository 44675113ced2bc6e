"""Views made on a device. torchvision's CPU decoder takes the GPU's way here; nvJPEG itself needs a GPU."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from openus.errors import CorpusError, UsageError
from tests.helpers.corpus import make_corpus
from usfmae.stream import trial
from usfmae.stream.device import DeviceViews
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader
from usfmae.stream.pixels import open_pixels
from usfmae.stream.trial import choose, decide
from usfmae.stream.views import Views

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def smooth(folder: Path, size: int, fmt: str = "jpg") -> Path:
    """A corpus whose pictures have neighbours alike, so that resizing can be compared to within a few levels."""
    return make_corpus(folder, {"pretrain": 21}, size=size, fmt=fmt, shard_samples=8)


@pytest.mark.parametrize("fmt", ["jpg", "png"])
@pytest.mark.parametrize(("size", "interpolation"), [(48, "linear"), (48, "cubic"), (400, "linear")])
def test_views_are_those_of_the_cpu_to_within_rounding(
    tmp_path: Path, fmt: str, size: int, interpolation: str
) -> None:
    """Enlarged and reduced pictures (400 pixels are decoded at a quarter), whatever they are stored as."""
    index = open_index(smooth(tmp_path, size, fmt))
    settings = {"batch_size": 7, "size": 64, "seed": 3, "epochs": 1, "interpolation": interpolation}
    here = list(Loader(index, **settings))
    there = list(Loader(index, device=CPU, **settings))
    assert len(here) == len(there) == 3
    for a, b in zip(here, there, strict=True):
        assert b.images.dtype == torch.uint8 and b.images.shape == (7, 1, 64, 64)
        assert torch.equal(a.indices, b.indices) and torch.equal(a.seeds, b.seeds) and a.cursor == b.cursor
        apart = (a.images.int() - b.images.int()).abs().float()
        # Reduced pictures: whole blocks averaged there, low frequencies or parts of pixels here.
        most, mean = (64, 1.5) if size == 400 else (2, 0.3)
        assert apart.max() <= most and apart.mean() <= mean, (apart.max(), apart.mean())


def test_bad_samples_are_replaced_as_elsewhere(tmp_path: Path) -> None:
    corpus = smooth(tmp_path / "corpus", 48)
    index = open_index(corpus)
    shard = corpus / "pretrain" / index.shards[0]
    data = bytearray(shard.read_bytes())
    data[int(index.offset[3]) + 300] ^= 0xFF
    shard.write_bytes(data)
    loaders = [
        Loader(index, batch_size=7, size=32, seed=1, epochs=1, device=device) for device in (None, CPU)
    ]
    batches = [list(loader) for loader in loaders]
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert (a.images.int() - b.images.int()).abs().max() <= 2
    assert [bad.reason for bad in loaders[1].bad] == ["altered"]
    assert loaders[0].bad == loaders[1].bad and loaders[0].replaced == loaders[1].replaced == 1
    with pytest.raises(CorpusError, match="data are strict"):
        list(Loader(index, batch_size=7, size=32, seed=1, epochs=1, device=CPU, strict=True))


def test_damage_that_only_decoding_meets_and_a_lying_header(tmp_path: Path) -> None:
    """Without the hash: a picture that no decoder takes is bad, and one of another size is never decoded."""
    index = open_index(smooth(tmp_path, 48))
    loader = Loader(index, batch_size=4, size=32, seed=1)
    records = loader.records(np.arange(4), np.arange(4, dtype=np.uint64))
    records["size"][1] = 200  # cut short
    records["width"][2] += 8
    maker = DeviceViews(Views(index.shard_info, 32, check=False), 32, "linear", CPU)
    out, bad = maker.make(records)
    maker.close()
    assert {item.place: item.reason for item in bad} == {1: "corrupt", 2: "size"}
    assert out[0].any() and out[3].any() and not out[1].any() and not out[2].any()


def test_a_missing_shard_ends_the_run(tmp_path: Path) -> None:
    index = open_index(smooth(tmp_path / "corpus", 48))
    shutil.rmtree(tmp_path / "corpus" / "pretrain")
    with pytest.raises(CorpusError, match="the shard was there when the run began"):
        next(iter(Loader(index, batch_size=4, size=32, seed=1, device=CPU)))


def test_the_faster_one_is_chosen_and_the_gpu_must_win_clearly() -> None:
    assert decide(1000, 2000, GPU).device == GPU
    assert decide(1000, 1200, GPU).device is None
    assert decide(1000, 900, GPU).device is None
    assert str(decide(4000, 9000.4, GPU)) == (
        "pictures are decoded on cuda:0 (nvJPEG): 4,000 images/s on these cores, 9,000 on the GPU"
    )


def test_both_are_measured_on_pictures_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once a look, a rate is the number of pictures of its trial: a quarter here, all there."""
    ticks = itertools.count()
    monkeypatch.setattr(trial.time, "perf_counter", lambda: float(next(ticks)))
    loader = Loader(open_index(smooth(tmp_path, 64)), batch_size=4, size=32, seed=1, workers=3)
    found = choose(loader, CPU)
    assert (found.cpu, found.gpu) == (3 * (21 // 4), 21)  # each of three workers does as many
    assert found == decide(found.cpu, found.gpu, CPU) and found.device == CPU
    assert loader.cursor.samples == 0 and loader.bad == []


def test_a_gpu_that_decodes_nothing_leaves_it_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: list[bytes], device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("nvjpeg is not available\nin this build")

    monkeypatch.setattr(trial, "decode_jpegs", broken)
    found = choose(Loader(open_index(smooth(tmp_path, 48)), batch_size=4, size=32, seed=1), CPU)
    assert found.device is None and found.gpu == 0
    assert "decoded on these cores" in str(found) and "(nvjpeg is not available)" in str(found)


def test_not_together_with_a_cache_of_decoded_pictures(tmp_path: Path) -> None:
    index = open_index(smooth(tmp_path, 48))
    with pytest.raises(UsageError, match="leave out the device, or the cache"):
        Loader(index, batch_size=4, size=42, seed=1, pixels=open_pixels(index, 48, "memory"), device=CPU)
