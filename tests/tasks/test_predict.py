"""Prediction: the same pixels as in training, any format, clips as a whole, clear words for what cannot be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pydicom.data
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tasks.conftest import Ended
from usfmae.model.weights import WeightsError
from usfmae.stream.index import open_index
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.build import build, rebuild
from usfmae.tasks.network.finetuned import load_model
from usfmae.tasks.network.start import Start
from usfmae.tasks.predict import predict
from usfmae.tasks.recipe import load_recipe

Cli = Callable[..., Ended]


@pytest.fixture(scope="module")
def model(corpus: Path, weights: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "ft"
    recipe = load_recipe(recipe_file, ["epochs=4"])
    finetune(corpus, "bus-bra", Start(weights=str(weights)), recipe, out, folds=[1], device="cpu", quiet=True)
    return out


@pytest.fixture(scope="module")
def cine() -> Path:
    """A real ultrasound cine of 30 frames, JPEG in YBR_FULL_422, that travels with pydicom."""
    return Path(str(pydicom.data.get_testdata_file("examples_ybr_color.dcm")))


def test_files_get_the_probabilities_of_the_evaluation(model: Path, corpus: Path, tmp_path: Path) -> None:
    """The stored pictures of the test part, given as files, get what predictions.parquet says of them."""
    index = open_index(corpus, "bus-bra")
    row_of = {key: i for i, key in enumerate(index.table.column("key").to_pylist())}
    test = [row for row in pq.read_table(model / "predictions.parquet").to_pylist() if row["part"] == "test"]
    files = []
    for row in test:
        files.append(tmp_path / f"{row['key']}.jpg")
        files[-1].write_bytes(index.read(row_of[row["key"]]))
    results = predict(model, files, device="cpu", quiet=True)
    for row, result in zip(test, results, strict=True):
        assert result.error == "" and result.decision == row["decision"]
        assert result.values == pytest.approx([row["p_benign"], row["p_malignant"]], abs=2e-3)


def test_a_clip_gets_one_answer_whatever_the_batch(model: Path, cine: Path) -> None:
    whole = predict(model, [cine], device="cpu", quiet=True)[0]
    pieces = predict(model, [cine], batch_size=7, device="cpu", quiet=True)[0]
    assert whole.frames == list(range(30)) and whole.format == "dicom" and whole.kind == "frame"
    assert whole.values == pytest.approx(np.mean(whole.frame_values, 0).tolist())
    assert np.allclose(whole.frame_values, pieces.frame_values, atol=1e-6)
    some = predict(model, [cine], stride=10, device="cpu", quiet=True)[0]
    assert some.frames == [0, 10, 20]
    assert some.frame_values[1] == pytest.approx(whole.frame_values[10], abs=1e-6)


def test_colour_and_grey_of_one_picture_agree(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 255, (300, 400)).astype(np.uint8), (0, 0), 3)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "rgb.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    cv2.imwrite(str(tmp_path / "rgba.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGRA))
    results = predict(model, sorted(tmp_path.glob("*.png")), device="cpu", quiet=True)
    assert len({tuple(np.round(result.values, 6)) for result in results}) == 1


def test_command_names_what_it_cannot_read(usfmae: Cli, model: Path, cine: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((200, 200), np.uint8))
    (tmp_path / "cut.dcm").write_bytes(cine.read_bytes()[:9000])
    (tmp_path / "folder.png").mkdir()
    names = ("text.png", "empty.png", "dark.png", "cut.dcm", "absent.png", "folder.png")
    files = [tmp_path / name for name in names]
    sheet = tmp_path / "new" / "p.png"
    end = usfmae("predict", model, *files, cine, "--json", "--device", "cpu", "--picture", sheet)
    assert end.returncode == 1
    lines = end.stderr.strip().splitlines()
    assert len(lines) == 6 and all(line.startswith("usfmae: error: ") for line in lines)
    for file, line in zip(files, lines, strict=True):
        assert str(file) in line
    assert "dark" in lines[2] and "is a folder; name the files in it" in lines[5]
    answers = json.loads(end.stdout)
    assert [("error" in answer) for answer in answers] == [True] * 6 + [False]
    assert answers[6]["decision"] in ("benign", "malignant") and len(answers[6]["frames"]) == 30
    assert sum(answers[6]["probabilities"].values()) == pytest.approx(1)
    assert sheet.read_bytes()[:4] == b"\x89PNG"


def test_all_well_is_exit_0_and_a_table(usfmae: Cli, model: Path, cine: Path, tmp_path: Path) -> None:
    end = usfmae("predict", model, cine, "--device", "cpu", "--frames", "--stride", 15)
    assert end.returncode == 0 and end.stderr == ""
    assert "malignant" in end.stdout and "#15" in end.stdout
    shutil.copy(cine, tmp_path / "cine [red].dcm")  # no markup of ours
    assert "[red]" in usfmae("predict", model, tmp_path / "cine [red].dcm", "--stride", 15).stdout


def test_models_that_cannot_be_used(
    usfmae: Cli, model: Path, weights: Path, cine: Path, tmp_path: Path
) -> None:
    end = usfmae("predict", weights, cine)
    assert end.returncode == 1 and "usfmae finetune DATA --benchmark NAME --weights" in end.stderr
    end = usfmae("predict", tmp_path / "nothing", cine)
    assert end.returncode == 1 and "no such folder" in end.stderr
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    state = load_file(copy / "weights.safetensors")
    save_file(
        {key: value for key, value in state.items() if "blocks.2" not in key}, copy / "weights.safetensors"
    )
    with pytest.raises(WeightsError, match=r"12 missing \(first: blocks.2"):
        load_model(copy, "cpu")
    (copy / "weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"damaged"):
        load_model(copy, "cpu")
    folds = tmp_path / "folds"
    shutil.copytree(model, folds / "fold1")
    with pytest.raises(WeightsError, match=r"several folds; give one of them, such as .*fold1"):
        load_model(folds, "cpu")
    run = tmp_path / "run"
    shutil.copytree(weights, run / "checkpoints" / "step-00000001")
    (run / "latest").symlink_to("checkpoints/step-00000001")
    with pytest.raises(WeightsError, match=r"no classes; fine-tune them first .* --weights .*run "):
        load_model(run, "cpu")


def test_nothing_heavy_is_imported_for_help(repo: Path) -> None:
    code = (
        "import sys; from usfmae import cli; import typer.main; typer.main.get_command(cli.app);"
        "print([m for m in ('torch', 'timm', 'cv2', 'sklearn', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo, check=True)
    assert end.stdout.strip() == "[]"


def test_prediction_leaves_statistics_libraries_alone(model: Path, cine: Path, repo: Path) -> None:
    """One picture costs little more than importing torch and timm: nothing else heavy comes along."""
    code = (
        "import sys; from pathlib import Path; from usfmae.tasks.predict import predict;"
        f"predict({str(model)!r}, [Path({str(cine)!r})], max_frames=1, device='cpu', quiet=True);"
        "print([m for m in ('sklearn', 'pandas', 'pyarrow', 'matplotlib', 'SimpleITK', 'av') if m in sys.modules])"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo, check=True)
    assert end.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "start",
    [
        Start(size="tiny"),
        Start(timm="test_resnet"),
        Start(timm="swin_s3_tiny_224"),
        Start(timm="test_convnext"),
    ],
)
def test_a_network_built_without_drawing_weights_is_whole(start: Start) -> None:
    """What is not a weight, such as the positions inside a window, is computed all the same."""
    size = 224 if str(start.timm).startswith("swin") else 64
    network = build(start, outputs=2, size=size).eval()
    again = rebuild(network.architecture, network.input, size).eval()
    again.body.load_state_dict(network.body.state_dict())
    grey = torch.rand(1, 1, size, size)
    assert torch.equal(network(grey), again(grey))
