"""A small labelled corpus, and small pretrained weights, made once for all tests of the tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.helpers.corpus import make_corpus
from usfmae.cli import main
from usfmae.model.mae import MAE, MAEConfig
from usfmae.model.weights import save_weights

torch.set_num_threads(1)  # these networks are so small that threads only wait for each other

RECIPE = """
size: 48
epochs: 12
batch_size: 16
lr: 2.0e-3
warmup_epochs: 1
layer_decay: 0.9
drop_path: 0.1
ema: 0.9
precision: fp32
resamples: 100
augment: {rotate: 5, shift: 0.02}
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 labelled pictures of 60 patients in the set bus-bra, and 24 unlabelled ones."""
    return make_corpus(tmp_path_factory.mktemp("tasks") / "corpus", {"pretrain": 24, "bus-bra": 120}, size=64)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a very small masked autoencoder with random weights."""
    config = MAEConfig(
        img_size=48,
        embed_dim=48,
        depth=3,
        num_heads=3,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "checkpoint"
    save_weights(folder, MAE(config).state_dict(), {"model": config.to_dict()})
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a second or two."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@dataclass
class Ended:
    """What a command left: exit code, standard output, standard error."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def usfmae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command in this process (importing torch anew takes seconds), through its real entry point."""

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["usfmae", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return call
