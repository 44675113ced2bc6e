"""SIGKILL at seeded moments of every long command: run again, it comes to the very end it would have come to."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.helpers import licensed, toys
from tests.helpers.corpus import make_corpus
from tests.helpers.killed import moments, run
from tests.tasks.conftest import RECIPE
from tests.train.conftest import TINY
from usfmae.model.mae import MAE, MAEConfig
from usfmae.model.weights import save_weights
from usfmae.train.log import read_log

SEED = 4711


@dataclass(frozen=True)
class Command:
    """A command, where it writes, the stages it goes through, and what its end state is."""

    module: str
    words: Callable[[Path], list[object]]
    stages: dict[str, str]
    state: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda out: None


def end_of_build(out: Path) -> object:
    return toys.digests(out)


def end_of_pretraining(out: Path) -> object:
    losses = [(line["step"], line["loss"]) for line in read_log(out)]
    return losses, _digest(out / "latest" / "weights.safetensors")


def end_of_finetuning(out: Path) -> object:
    metrics = json.loads((out / "metrics.json").read_text())
    files = ("weights.safetensors", "history.jsonl", "predictions.parquet")
    return metrics["metrics"], {name: _digest(out / name) for name in files}


def end_of_publishing(out: Path) -> object:
    return toys.digests(out / "target")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of all commands."""
    place = tmp_path_factory.mktemp("killed")
    corpus = toys.write_manifests(place / "manifests") / "corpora" / "toys.yaml"
    corpus.write_text(corpus.read_text() + "dedup: {near: drop}\n")
    toys.write_inputs(place / "inputs", images=12, clips=2)
    make_corpus(place / "corpus", {"pretrain": 24, "bus-bra": 40}, size=48)
    config = MAEConfig(
        img_size=48, embed_dim=24, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )  # fmt: skip
    torch.manual_seed(0)
    save_weights(place / "weights", MAE(config).state_dict(), {"model": config.to_dict()})
    (place / "recipe.yaml").write_text(RECIPE.replace("epochs: 12", "epochs: 4"))
    return place


def commands(place: Path) -> dict[str, Command]:
    names = {"toy-images": "images", "toy-clips": "clips", "toy-bench": "bench"}
    inputs = {slug: place / "inputs" / name for slug, name in names.items()}
    settings = [part for change in [*TINY, "training.epochs=4"] for part in ("--set", change)]
    return {
        "build": Command(
            "openus.cli",
            lambda out: list(toys.command(out, place / "manifests", inputs, "--workers", "0")[3:]),
            {"build": r"/sources/.*(bin|parquet|reading)", "dedup": r"\.prints|/dedup", "pack": r"/pack|\.tar",
             "close": r"^\S+ /(\.?[a-zA-Z]+\.|manifest|report|\.work/kept)"},
            end_of_build,
        ),
        "publish": Command(
            "openus.cli",
            lambda out: ["publish", out / "corpus", "--to", out / "target", "--workers", "0", "--quiet"],
            {"publish": "/target|/corpus"},
            end_of_publishing,
            lambda out: shutil.copytree(licensed_corpus(place), out / "corpus"),
        ),
        "pretrain": Command(
            "usfmae.cli",
            lambda out: ["pretrain", place / "corpus", "--recipe", "demo", "--out", out, "--quiet", "--device", "cpu",
                         "--workers", "0", *settings],
            {"pretrain": ""},
            end_of_pretraining,
        ),
        "finetune": Command(
            "usfmae.cli",
            lambda out: ["finetune", place / "corpus", "-b", "bus-bra", "-w", place / "weights", "-r",
                         place / "recipe.yaml", "--fold", "1", "--device", "cpu", "-q", "-o", out],
            {"finetune": ""},
            end_of_finetuning,
        ),
    }  # fmt: skip


def licensed_corpus(place: Path) -> Path:
    """A corpus of sources under every licence, verified and audited, which is what publishing asks for."""
    out = place / "licensed" / "corpus"
    if not out.exists():
        inputs = licensed.write_inputs(place / "licensed" / "in")
        manifests = licensed.write_manifests(place / "licensed" / "manifests")
        local = [word for slug, path in inputs.items() for word in ("--local", f"{slug}={path}")]
        for words in (
            ["build", out, "--corpus", "licensed", "--manifests", manifests, "--workers", "0", *local],
            ["verify", out, "--workers", "0"],
            ["audit", out, "--sample", "6"],
        ):
            done = licensed.openus(*words)
            assert done.returncode == 0, done.stderr
    return out


def whole(place: Path, command: Command, out: Path) -> object:
    """The end state of a run that nobody disturbs; its journal lies beside it."""
    command.prepare(out)
    assert run(out, 0, out.with_suffix(".journal"), command.module, command.words(out)) == 0
    return command.state(out)


@pytest.mark.parametrize("name", ["build", "pretrain", "finetune"])
def test_killed_again_and_again_and_resumed(place: Path, tmp_path: Path, name: str) -> None:
    """One moment of each stage, one after the other on the same folder."""
    command = commands(place)[name]
    state = whole(place, command, tmp_path / "whole")
    out = tmp_path / "killed"
    for stage, moment in moments(tmp_path / "whole.journal", command.stages, 1, SEED):
        code = run(out, moment, tmp_path / "j", command.module, command.words(out))
        if stage in ("build", "pretrain", "finetune"):  # later ones have less to do after the first
            assert code == -9
    assert run(out, 0, tmp_path / "j", command.module, command.words(out)) == 0
    assert command.state(out) == state


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("name", "each"), [("build", 4), ("publish", 3), ("pretrain", 6), ("finetune", 5)])
def test_killed_at_each_of_thirty_moments(place: Path, tmp_path: Path, name: str, each: int) -> None:
    command = commands(place)[name]
    state = whole(place, command, tmp_path / "whole")
    for stage, moment in moments(tmp_path / "whole.journal", command.stages, each, SEED):
        out = tmp_path / "killed"
        command.prepare(out)
        assert run(out, moment, tmp_path / "j", command.module, command.words(out)) == -9, (stage, moment)
        last = (tmp_path / "j").read_text().splitlines()[-1]
        assert run(out, 0, tmp_path / "j", command.module, command.words(out)) == 0, (stage, moment, last)
        assert command.state(out) == state, (stage, moment, last)
        print(f"{stage}: killed before change {moment} ({last}); the same end", file=sys.stderr)
        shutil.rmtree(out)
