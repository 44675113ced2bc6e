"""Fine-tuning: learns, resumes exactly, writes what it promises, and says clearly what it cannot do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from openus.errors import CorpusError, OpenUSError, UsageError
from openus.manifest import Benchmark
from openus.shards.schema import ROW
from tests.helpers.corpus import make_corpus
from tests.tasks.conftest import Ended
from usfmae.model.weights import WeightsError, load_weights
from usfmae.tasks.classify import ClassificationTask
from usfmae.tasks.data.labelled import find_benchmark, load_labelled
from usfmae.tasks.data.labels import encode_labels
from usfmae.tasks.data.pixels import spread_frames
from usfmae.tasks.data.splits import Split
from usfmae.tasks.finetune import choose_folds, finetune
from usfmae.tasks.network.build import build
from usfmae.tasks.network.device import choose_attention
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import load_recipe
from usfmae.tasks.report.terminal import show_result

Cli = Callable[..., Ended]


@pytest.fixture(scope="module")
def done(corpus: Path, weights: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    out = tmp_path_factory.mktemp("ft") / "run"
    finetune(
        corpus, "bus-bra", Start(weights=str(weights)), load_recipe(recipe_file), out, folds=[1], device="cpu"
    )
    return out


def test_a_run_learns_and_leaves_what_it_promises(done: Path) -> None:
    result = json.loads((done / "metrics.json").read_text())
    assert result["metrics"]["auroc"]["value"] > 0.85  # the two simulated kinds of lesion differ plainly
    assert result["parts"] == {"train": 82, "val": 14, "test": 24} and result["groups"] == 12
    assert result["leaks"] == [] and "without_leaks" not in result
    low, high = (result["metrics"]["accuracy"][edge] for edge in ("low", "high"))
    assert low <= result["metrics"]["accuracy"]["value"] <= high
    rows = pq.read_table(done / "predictions.parquet").to_pylist()
    test = [row for row in rows if row["part"] == "test"]
    assert len(test) == 24 and len(rows) == 38
    assert sum(row["truth"] == row["decision"] for row in test) / 24 == pytest.approx(
        result["metrics"]["accuracy"]["value"]
    )
    assert all(abs(row["p_benign"] + row["p_malignant"] - 1) < 1e-9 for row in rows)
    for name in ("confusion.png", "curves.png"):
        assert (done / name).read_bytes()[:4] == b"\x89PNG"
    history = [json.loads(line) for line in (done / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == list(range(12))
    assert not (done / "state.pt").exists()


def test_the_kept_weights_are_those_of_the_best_epoch(done: Path) -> None:
    result = json.loads((done / "metrics.json").read_text())
    history = [json.loads(line) for line in (done / "history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda row: (row["val_auroc"], row["val_loss"]))
    assert result["best_epoch"] == best["epoch"] + 1
    config = json.loads((done / "config.json").read_text())
    assert config["classes"] == ["benign", "malignant"]
    assert config["input"]["size"] == 48 and len(config["input"]["mean"]) == 1
    # The folder is also a checkpoint: an encoder to begin another run with.
    assert "blocks.2.attn.qkv.weight" in load_weights(done).state


def test_a_finished_run_is_not_repeated_and_another_is_not_overwritten(
    done: Path, corpus: Path, weights: Path, recipe_file: Path
) -> None:
    before = (done / "metrics.json").stat().st_mtime_ns
    start, recipe = Start(weights=str(weights)), load_recipe(recipe_file)
    again = finetune(corpus, "bus-bra", start, recipe, done, folds=[1], device="cpu", quiet=True)
    assert again == json.loads((done / "metrics.json").read_text())
    assert (done / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="result of other settings"):
        finetune(corpus, "bus-bra", start, recipe, done, folds=[1], seed=1, device="cpu", quiet=True)


def test_a_killed_run_goes_on_to_the_same_result(
    usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "long.yaml"
    recipe.write_text("size: 64\nepochs: 24\nbatch_size: 8\ndrop_path: 0.2\nema: 0.9\nresamples: 20\n")
    words = [
        "finetune",
        corpus,
        "-b",
        "bus-bra",
        "-w",
        weights,
        "-r",
        recipe,
        "--fold",
        1,
        "--device",
        "cpu",
        "-q",
    ]
    assert usfmae(*words, "-o", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "usfmae.cli", *map(str, words), "-o", str(tmp_path / "killed")]
    process = subprocess.Popen(command)
    state = tmp_path / "killed" / "state.pt"
    deadline = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state.exists(), "the run ended before it saved its state"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 <= torch.load(state, weights_only=True)["run"]["epoch"] < 23
    assert usfmae(*words, "-o", tmp_path / "killed").returncode == 0
    whole, resumed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "killed")]
    assert histories[0] == histories[1]


def test_all_folds_are_summed_up(
    corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(recipe_file, ["epochs=2"])
    result = finetune(
        corpus, "bus-bra", Start(weights=str(weights)), recipe, tmp_path, device="cpu", quiet=True
    )
    assert result["folds"] == [f"fold{k}" for k in range(1, 6)]
    assert result["pooled"]["n"] == 120 and result["pooled"]["groups"] == 60
    values = [
        json.loads((tmp_path / fold / "metrics.json").read_text())["metrics"]["accuracy"]["value"]
        for fold in result["folds"]
    ]
    assert result["mean"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert result["mean"]["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    show_result(result, tmp_path)
    said = capsys.readouterr().out
    assert "mean ± sd" in said and "pooled" not in said  # what is shown is a mean over folds


def test_several_folds_never_overwrite_the_result_of_one(
    usfmae: Cli, done: Path, corpus: Path, weights: Path, recipe_file: Path
) -> None:
    before = (done / "metrics.json").read_bytes()
    words = ["-b", "bus-bra", "-w", weights, "-r", recipe_file, "-o", done, "--set", "epochs=1", "-q"]
    end = usfmae("finetune", corpus, *words, "--fold", 1, "--fold", 2)
    assert (done / "metrics.json").read_bytes() == before
    assert end.returncode == 2 and "holds the model of a single fold" in end.stderr


def test_a_fold_named_twice_counts_once() -> None:
    splits = [Split(f"fold{k}", *(np.arange(1),) * 3) for k in (1, 2)]
    assert [split.name for split in choose_folds(splits, [2, 1, 2])] == ["fold2", "fold1"]


@pytest.mark.parametrize("how", [{"timm": "test_resnet"}, {"timm": "vit_tiny_patch16_224"}, {"size": "tiny"}])
def test_baselines_run_under_the_same_protocol(
    how: dict[str, str], corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file, ["epochs=1", "drop_path=0.0"])
    result = finetune(corpus, "bus-bra", Start(**how), recipe, tmp_path, folds=[2], device="cpu", quiet=True)
    assert result["fold"] == "fold2" and result["model"].endswith("-scratch")


@pytest.mark.parametrize(
    "change", ["loss=focal", "mixup=0.4", "class_weights=none", "label_smoothing=0.1", "pool=token"]
)
def test_the_choices_of_a_recipe_train(
    change: str, corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file, ["epochs=2", change])
    start = Start(weights=str(weights))
    result = finetune(corpus, "bus-bra", start, recipe, tmp_path, folds=[1], device="cpu", quiet=True)
    losses = [
        json.loads(line)["train_loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()
    ]
    assert np.isfinite(losses).all() and result["epochs"] == 2


def test_early_stop(corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["epochs=60", "patience=2", "lr=1e-8", "ema=0"])
    start = Start(weights=str(weights))
    result = finetune(corpus, "bus-bra", start, recipe, tmp_path, folds=[1], device="cpu", quiet=True)
    assert result["epochs"] < 60 and result["epochs"] == result["best_epoch"] + 2


# What cannot be done is said in one line, with the right exit code.


def test_set_absent_from_the_corpus(usfmae: Cli, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", {"pretrain": 8})
    end = usfmae("finetune", corpus, "-b", "bus-bra", "--scratch", "tiny", "-o", tmp_path / "o")
    assert end.returncode == 1
    assert f"openus build {corpus} --source bus-bra" in end.stderr and "it has: pretrain" in end.stderr
    assert len(end.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-b", "busbra", "--scratch", "tiny"], "did you mean 'bus-bra'"),
        (["-b", "bus-bra"], "give one of --weights"),
        (["-b", "bus-bra", "--model", "resnt50"], "did you mean 'resnet50'"),
        (["-b", "bus-bra", "--scratch", "tinny"], "did you mean 'tiny'"),
        (["-b", "bus-bra", "--scratch", "tiny", "--fold", "6"], "there is no fold 6"),
        (["-b", "bus-bra", "--scratch", "tiny", "--protocol", "official"], "did you mean 'official-kfold'"),
        (["-b", "bus-bra", "--scratch", "tiny", "-r", "finetune-bse"], "did you mean 'finetune-base'"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "aspect=strech"], "did you mean 'stretch'"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "epochs=many"], "'epochs' is 'many', expected int"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "lr=-1"], "lr is -1.0, expected 0 to 10"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "lr=[1"], "--set lr=[1: not a value"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "betas=[0.9, 1.5]"], "expected two below 1"),
        (["-b", "bus-bra", "--scratch", "tiny", "--set", "augment.rotat=3"], "did you mean 'rotate'"),
        (["-b", "bus-bra", "--scratch", "tiny", "--device", "cuda:7"], "no device 'cuda:7'"),
        (
            ["-b", "bus-bra", "--scratch", "tiny", "--set", "augment.rotate=-5"],
            "rotate is -5.0, expected 0 to 180",
        ),
        (
            ["-b", "bus-bra", "--scratch", "tiny", "--set", "augment.zoom=[0, 1]"],
            "magnifications of 0.1 to 10",
        ),
        (
            [
                "-b",
                "bus-bra",
                "--model",
                "test_resnet",
                "--set",
                "size=32",
                "--set",
                "epochs=1",
                "--set",
                "monitor=aurc",
            ],
            "no validation score 'aurc' to choose the epoch by; did you mean 'auroc'",
        ),
    ],
)
def test_wrong_use(usfmae: Cli, words: list[str], message: str, corpus: Path, tmp_path: Path) -> None:
    end = usfmae("finetune", corpus, "-o", tmp_path / "o", "-q", *words)
    assert end.returncode == 2, end.stderr
    assert message in end.stderr and len(end.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o" / "metrics.json").exists()


def test_missing_and_altered_shards(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    shard = copy / "bus-bra" / "bus-bra-000002.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1  # inside the first picture
    shard.chmod(0o644)
    shard.write_bytes(data)
    task = find_benchmark("bus-bra")
    with pytest.raises(CorpusError, match=r"bus-bra-000002.tar: the bytes of sample .*'openus verify'"):
        load_labelled(copy, task, size=32)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"bus-bra-000002.tar: the shard is missing"):
        load_labelled(copy, task, size=32)


def test_nan_weights_and_another_architecture(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "nan")
    state = load_file(weights / "weights.safetensors")
    state["blocks.0.norm1.weight"] = state["blocks.0.norm1.weight"].clone().fill_(float("nan"))
    save_file(state, tmp_path / "nan" / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"'blocks.0.norm1.weight' holds NaN"):
        build(Start(weights=str(tmp_path / "nan")), outputs=2, size=48)
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(2)}, tmp_path / "cnn.pt")
    with pytest.raises(OpenUSError, match=r"cnn.pt: not the weights of a ViT or MAE"):
        build(Start(weights=str(tmp_path / "cnn.pt")), outputs=2, size=48)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_weights_of_another_timm_model_never_leave_it_random(model: str, tmp_path: Path) -> None:
    """timm itself only logs the keys it cannot use, and goes on with random ones."""
    own = timm.create_model(model, num_classes=7)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    network = build(Start(timm=model, weights=str(tmp_path / "own.safetensors")), outputs=2, size=160)
    key = "blocks.0.attn.qkv.weight" if model == "test_vit" else "layer1.0.conv1.weight"
    assert torch.equal(network.body.state_dict()[key], own.state_dict()[key])
    other = "test_vit" if model == "test_resnet" else "test_resnet"
    message = (
        rf"own.safetensors: not the weights of timm's '{other}': \d+ missing \(first: .*\d+ left over \(first"
    )
    with pytest.raises(WeightsError, match=message):
        build(Start(timm=other, weights=str(tmp_path / "own.safetensors")), outputs=2, size=160)
    wide = {k: torch.cat([v, v]) if v.ndim else v for k, v in own.state_dict().items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        WeightsError, match=rf"wide.safetensors: not the weights of timm's '{model}'.*size mismatch"
    ):
        build(Start(timm=model, weights=str(tmp_path / "wide.safetensors")), outputs=2, size=160)


def test_samples_without_a_label_are_told(usfmae: Cli, corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    shutil.copytree(corpus, copy)
    for path in (copy / "manifest").glob("bus-bra-0*.parquet"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            if row["key"].endswith("1"):
                row["labels"] = {}
        path.chmod(0o644)
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW), path)
    words = [
        "-b",
        "bus-bra",
        "--model",
        "test_resnet",
        "-r",
        "finetune-demo",
        "--set",
        "epochs=1",
        "--set",
        "size=32",
    ]
    end = usfmae("finetune", copy, *words, "--fold", 1, "-o", tmp_path / "o", "--device", "cpu")
    assert end.returncode == 0 and "note: 12 samples of the set carry no label" in end.stdout
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["unlabelled"] == 12


def test_labels_missing_or_unknown(corpus: Path) -> None:
    values = find_benchmark("bus-bra").model_dump(by_alias=True)
    with pytest.raises(CorpusError, match=r"no sample .* has a label 'patholgy'.*did you mean 'pathology'"):
        load_labelled(corpus, Benchmark.model_validate(values | {"label": "patholgy"}), size=32)
    with pytest.raises(
        CorpusError, match=r"'malignant' in 40 samples .* not one of the classes benign, normal"
    ):
        load_labelled(
            corpus,
            Benchmark.model_validate(values | {"classes": ("benign", "normal"), "positive": None}),
            size=32,
        )
    words = ["61.5", "sixty"]
    task = Benchmark.model_validate(values | {"task": "regression", "label": "ef"})
    with pytest.raises(CorpusError, match=r"label 'ef' of a regression: could not convert .*sixty"):
        encode_labels({"ef": words}, task, "corpus")


def test_one_class_in_the_training_part(corpus: Path) -> None:
    data = load_labelled(corpus, find_benchmark("bus-bra"), size=32)
    benign, malignant = np.flatnonzero(data.targets == 0), np.flatnonzero(data.targets == 1)
    task = ClassificationTask(data, load_recipe("finetune-demo"))
    split = Split("fold1", benign[:40], malignant[:10], benign[40:])
    with pytest.raises(OpenUSError, match="fold1: the training part holds only class 'benign'"):
        task.check(split, split.train)
    split = Split("fold1", np.concatenate([benign[:40], malignant[:20]]), malignant[20:30], benign[40:])
    assert task.check(split, split.train) == ["class 'benign' does not occur in the val part"]
    assert task.objective(split.train, split.val).monitor == "loss"


def test_a_diverging_run_says_what_to_change(
    corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(
        recipe_file, ["lr=10", "clip_norm=null", "ema=0", "weight_decay=10", "layer_decay=1"]
    )
    with pytest.raises(OpenUSError, match=r"became (nan|inf|NaN).*lower lr"):
        finetune(
            corpus,
            "bus-bra",
            Start(timm="test_resnet"),
            recipe,
            tmp_path,
            folds=[1],
            device="cpu",
            quiet=True,
        )


def test_frames_of_a_clip_are_spread() -> None:
    clips = ["a"] * 10 + [""] * 3 + ["b"] * 2
    kept = spread_frames(np.arange(15), clips, 4)
    assert kept.tolist() == [0, 2, 5, 7, 10, 11, 12, 13, 14]
    assert spread_frames(np.arange(15), clips, None).tolist() == list(range(15))


def test_attention_is_multiplied_out_in_bf16_on_a_cpu_and_gives_the_same() -> None:
    network = build(Start(size="tiny"), outputs=2, size=64).eval()
    images, cpu = torch.rand(2, 1, 64, 64), torch.device("cpu")
    fused = [module for module in network.modules() if hasattr(module, "fused_attn")]
    assert len(fused) == 12
    choose_attention(network, cpu, "fp32")
    assert all(module.fused_attn for module in fused)
    before = network(images)
    choose_attention(network, cpu, "bf16")
    assert not any(module.fused_attn for module in fused)
    assert torch.allclose(network(images), before, atol=1e-5)
