"""`usfmae reconstruct`: what is drawn is what the network paints, in grey values of the input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openus.errors import UsageError
from tests.helpers.corpus import make_corpus
from tests.train.conftest import TINY
from usfmae.model.layouts import WeightsError, encoder_state
from usfmae.model.mae import MAE, MAEConfig
from usfmae.model.masking import MASKINGS
from usfmae.model.painting import TILE, Painted, paint, shares_hidden
from usfmae.model.weights import Weights, save_weights
from usfmae.stream.index import open_index
from usfmae.tasks.reconstruct import find_rows, reconstruct
from usfmae.train.loop import pretrain
from usfmae.train.pictures import square
from usfmae.train.recipe import load_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("reconstruct") / "corpus", {"pretrain": 20}, size=48)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reconstruct") / "run"
    pretrain(corpus, load_recipe("demo", TINY), out, device="cpu", quiet=True, max_steps=2)
    return out


def test_a_share_stands_above_a_grid_only_where_it_is_that_of_all_rows() -> None:
    grey = np.zeros((32, 32), np.uint8)
    few, many = (Painted("", grey, grey, np.arange(16).reshape(4, 4) < n, grey, 0.0) for n in (4, 12))
    assert shares_hidden([many, many]) == "masked, 75% hidden" and shares_hidden([few, many]) == "masked"


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_painted_pixels_are_the_prediction_in_grey_values(normalised: bool, decoder: str) -> None:
    torch.manual_seed(0)
    config = MAEConfig.preset(
        "tiny", depth=2, img_size=32, patch_size=8, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2,
        norm_pix_loss=normalised, decoder=decoder, predict_ratio=0.5 if decoder == "cross" else 1.0,
    )  # fmt: skip
    mae = MAE(config)
    images = np.random.default_rng(0).integers(20, 120, (3, 32, 32), dtype=np.uint8)
    seeds = [5, 6, 7]
    painted = paint(mae, images, seeds, ["a", "b", "c"], MASKINGS["random"])
    for number, item in enumerate(painted):
        where = np.kron(item.hidden, np.ones((8, 8), bool))
        assert item.hidden.sum() == 12 and np.array_equal(item.painted[~where], images[number][~where])
        assert (
            np.abs(item.painted[where].astype(int) - images[number][where]).mean() > 1
        )  # untrained: not the input
        if normalised:  # a patch has, before rounding, about the mean of the true patch
            assert abs(item.painted[where].mean() - images[number][where].mean()) < 15
    # By hand for one patch: normalise, predict, undo.
    x = (torch.from_numpy(images)[:, None] / 255.0 - 0.2) / 0.2
    hiding = MASKINGS["random"](x, config, torch.tensor(seeds), 0)
    with torch.no_grad():
        result = mae.eval()(x, hiding.noise, num_keep=hiding.num_keep)
    place = int(result.hidden[1, 0])
    row, column = divmod(place, 4)
    values = result.pred[1, 0]
    if normalised:
        patch = mae.patchify(x)[1, place]
        values = values * (patch.var() + 1e-6).sqrt() + patch.mean()
    expected = ((values * 0.2 + 0.2) * 255).round().clamp(0, 255).view(8, 8).numpy()
    drawn = painted[1].painted[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_the_command_writes_a_grid_and_says_where(run: Path) -> None:
    command = [sys.executable, "-m", "usfmae.cli", "reconstruct", str(run), "--count", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["picture"] == str(run / "reconstruction.png") and len(result["samples"]) == 3
    with Image.open(result["picture"]) as picture:
        assert picture.width > 4 * TILE and picture.height > 3 * TILE


def test_named_samples_a_seeded_choice_and_another_ratio(corpus: Path, run: Path, tmp_path: Path) -> None:
    from usfmae.model.weights import load_weights

    index, weights = open_index(corpus), load_weights(run)
    key = index.row(7)["key"]
    (named,) = reconstruct(weights, index, tmp_path / "a.png", keys=[key])
    assert key in named.title and np.array_equal(named.original, square(index, 7, 32))
    a = reconstruct(weights, index, tmp_path / "b.png", count=4, seed=3)
    b = reconstruct(weights, index, tmp_path / "b.png", count=4, seed=3)
    c = reconstruct(weights, index, tmp_path / "c.png", count=4, seed=4)
    assert [p.title for p in a] == [p.title for p in b] != [p.title for p in c]
    assert all(np.array_equal(x.hidden, y.hidden) for x, y in zip(a, b, strict=True))
    (half,) = reconstruct(weights, index, tmp_path / "d.png", keys=[key], mask_ratio=0.5)
    assert half.hidden.mean() == 0.5 and named.hidden.mean() == 0.75


def test_unknown_key_and_weights_that_cannot_paint(corpus: Path, run: Path, tmp_path: Path) -> None:
    index = open_index(corpus)
    with pytest.raises(UsageError, match="did you mean"):
        find_rows(index, [index.row(0)["key"] + "x"])
    mae = MAE(MAEConfig.preset("tiny", img_size=32, decoder_depth=1))
    state = encoder_state(mae.state_dict())
    with pytest.raises(WeightsError, match="only an encoder"):
        reconstruct(Weights(state, {"model": mae.config.to_dict()}, tmp_path), index, tmp_path / "x.png")
    save_weights(tmp_path / "w", state, {"model": mae.config.to_dict()})
    command = [sys.executable, "-m", "usfmae.cli", "reconstruct", str(tmp_path / "w")]
    done = subprocess.run([*command, "--data", str(corpus)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "only an encoder" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--data" in done.stderr


def test_the_square_is_the_middle_of_the_image(corpus: Path) -> None:
    index = open_index(corpus)
    row = int(np.argmax(index.width))
    assert index.width[row] > index.height[row]
    from usfmae.stream.decode import decode_grey

    grey = decode_grey(index.read(row), int(index.width[row]), int(index.height[row]))
    left = (grey.shape[1] - grey.shape[0]) // 2
    middle = grey[:, left : left + grey.shape[0]]
    assert np.array_equal(square(index, row, grey.shape[0]), middle)
