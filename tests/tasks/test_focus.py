"""A classifier behind a segmenter: where it looks, what a run leaves, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from openus.errors import UsageError
from tests.tasks.conftest import Ended
from usfmae.stream.index import open_index
from usfmae.tasks.exchange.exporting import export
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.finetuned import load_model
from usfmae.tasks.network.focus import Focus
from usfmae.tasks.network.start import Start
from usfmae.tasks.predict import predict
from usfmae.tasks.recipe import FocusSettings, load_recipe

Cli = Callable[..., Ended]


class Bright(nn.Module):
    """Segments what is brighter than half; no mean to learn."""

    def forward(self, grey: Tensor) -> Tensor:
        return torch.cat([0.5 - grey, grey - 0.5], 1) * 40


class Seen(nn.Module):
    """Gives back what it is shown."""

    def forward(self, grey: Tensor) -> Tensor:
        return grey


def looker(**changes: float) -> Focus:
    settings = FocusSettings(segmenter="there", **{"size": 32, "margin": 1.0, "least": 0.1, **changes})
    parts = [Network(body, {"family": "test"}, (0.0,), (1.0,)) for body in (Seen(), Bright())]
    return Focus(*parts, segmenter_size=48, settings=settings).eval()


def ellipse(centre: tuple[int, int], axes: tuple[int, int], side: int = 96) -> Tensor:
    """A bright ellipse, float [1, 1, S, S]."""
    image = np.zeros((side, side), np.uint8)
    cv2.ellipse(image, centre, axes, 0, 0, 360, 255, -1)
    return torch.from_numpy(image).float()[None, None] / 255


def test_the_square_is_the_structures() -> None:
    box = looker().boxes(ellipse((60, 40), (18, 9)))[0]
    assert box.tolist() == pytest.approx([60.5 / 48 - 1, 40.5 / 48 - 1, 18.5 / 48], abs=0.03)
    shown = looker()(ellipse((60, 40), (18, 9)))[0, 0]
    assert shown.shape == (32, 32)
    columns, rows = (np.flatnonzero((shown > 0.5).any(axis)) for axis in (0, 1))
    assert np.ptp(columns) >= 29 and 13 <= np.ptp(rows) <= 18  # the longer axis fills it


def test_the_square_stays_inside_and_has_a_least_size() -> None:
    corner = looker(least=0.5).boxes(ellipse((6, 90), (4, 4)))[0]
    assert corner.tolist() == pytest.approx([-0.5, 0.5, 0.5])


def test_nothing_found_is_the_whole_image() -> None:
    image = torch.full((2, 1, 96, 96), 0.2)
    assert looker().boxes(image).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_training_shakes_the_square_by_the_generator() -> None:
    image, focus = ellipse((60, 40), (18, 9)), looker(jitter=0.2).train()
    torch.manual_seed(1)
    one = focus(image)
    torch.manual_seed(1)
    assert torch.equal(one, focus(image)) and not torch.equal(one, focus(image))
    assert not focus.segmenter.training and focus.classifier.training


@pytest.fixture(scope="module")
def segmenter(corpus: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=6", "lr=2e-3", "resamples=20"])
    out = tmp_path_factory.mktemp("segmenter") / "fold1"
    start = Start(weights=str(weights))
    finetune(corpus, "bus-bra-lesion", start, recipe, out, folds=[1], device="cpu", quiet=True)
    return out


def test_a_run(
    usfmae: Cli, corpus: Path, weights: Path, segmenter: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = usfmae(
        "finetune", corpus, "--benchmark", "bus-bra", "--weights", weights, "--fold", 1, "--recipe", recipe_file,
        "--set", "size=64", "--set", "focus.size=48", "--set", f"focus.segmenter={segmenter.parent}/{{fold}}",
        "--out", out, "--device", "cpu", "--json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["metrics"]["auroc"]["value"] > 0.9
    config = json.loads((out / "config.json").read_text())
    assert config["seen"] == {"bus-bra": ["fold2", "fold3", "fold4", "fold5"]}
    state = safetensors.torch.load_file(out / "weights.safetensors")
    for key, value in safetensors.torch.load_file(segmenter / "weights.safetensors").items():
        assert torch.equal(state[f"segmenter.body.{key}"], value)  # frozen

    index = open_index(corpus, "bus-bra")
    (tmp_path / "a.jpg").write_bytes(index.read(0))
    assert sum(predict(out, [tmp_path / "a.jpg"], device="cpu", quiet=True)[0].values) == pytest.approx(1)
    boxes = load_model(out, "cpu").network.body.boxes(torch.rand(2, 1, 64, 64))
    assert boxes.shape == (2, 3) and boxes[:, 2].max() <= 1
    assert export(out, tmp_path / "onnx", "onnx")["difference"] < 1e-4
    with pytest.raises(UsageError, match="segmenter before a classifier"):
        build(Start(weights=str(out)), outputs=0, size=48)


def test_a_test_fold_that_the_segmenter_has_seen(
    corpus: Path, weights: Path, segmenter: Path, recipe_file: Path, tmp_path: Path
) -> None:
    changes = ["epochs=1", "size=64", "focus.size=48", f"focus.segmenter={segmenter}"]
    recipe = load_recipe(recipe_file, changes)
    result = finetune(
        corpus,
        "bus-bra",
        Start(weights=str(weights)),
        recipe,
        tmp_path / "two",
        folds=[2],
        device="cpu",
        quiet=True,
    )
    told = f"the weights {segmenter} were trained on fold2 of bus-bra, which is tested here"
    assert sum("trained on" in note for note in result["notes"]) == 1
    assert any(note.startswith(told) for note in result["notes"])


def test_what_is_no_segmenter(
    usfmae: Cli, corpus: Path, weights: Path, segmenter: Path, recipe_file: Path, tmp_path: Path
) -> None:
    common = (
        "--weights",
        weights,
        "--fold",
        1,
        "--recipe",
        recipe_file,
        "--out",
        tmp_path / "x",
        "--device",
        "cpu",
    )
    for benchmark, where, message in (
        ("bus-bra", "nowhere", "no such folder"),
        ("bus-bra", weights, "these weights have no classes"),
        ("bus-bra-lesion", segmenter, "focus is for tasks that give an answer for an image"),
    ):
        ended = usfmae(
            "finetune", corpus, "--benchmark", benchmark, *common, "--set", f"focus.segmenter={where}"
        )
        assert ended.returncode in (1, 2) and message in ended.stderr and "Traceback" not in ended.stderr
    with pytest.raises(UsageError, match=r"focus.margin is 0.1, expected 0.5 to 10"):
        FocusSettings(margin=0.1)
