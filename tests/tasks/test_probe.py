"""Frozen features, the heads on them, retrieval, label shares, and embedding to Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pydicom.data
import pytest
import timm
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_precision

from openus.errors import UsageError
from tests.tasks.conftest import Ended
from usfmae.model.weights import build_mae, load_weights, save_weights
from usfmae.tasks.data.labelled import find_benchmark, load_labelled
from usfmae.tasks.embed import embed
from usfmae.tasks.network.build import build
from usfmae.tasks.network.features import extract, extract_tokens, pooled
from usfmae.tasks.network.start import Start
from usfmae.tasks.probe import freeze
from usfmae.tasks.training.heads import attentive, knn, linear, log_loss, retrieval

Cli = Callable[..., Ended]


def clouds(n: int, seed: int, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping Gaussian clouds in eight dimensions, the second class rarer."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(n) < 0.3).astype(np.int64)
    x = rng.normal(size=(n, 8)).astype(np.float32) + np.float32(5)
    x[:, 0] += apart * targets
    return x, targets


def test_features_are_the_tokens_of_the_autoencoder(weights: Path) -> None:
    """Nothing is hidden: mean and class token agree with the masked autoencoder's own `features`."""
    network = build(Start(weights=str(weights)), outputs=0, size=48, pool="token").eval()
    mae = build_mae(load_weights(weights)).eval()
    images = np.random.default_rng(0).integers(0, 255, (5, 1, 48, 48)).astype(np.uint8)
    with torch.inference_mode():
        expected = mae.features(network.normalise(torch.from_numpy(images).float() / 255))
    assert np.allclose(extract(network, images, batch=2), expected[:, 1:].mean(1), atol=1e-5)
    assert np.allclose(extract(network, images, pool="class"), expected[:, 0], atol=1e-5)
    assert extract(network, images, pool="both").shape == (5, 96)
    assert np.allclose(extract_tokens(network, images, batch=3).float(), expected[:, 1:], atol=2e-3)


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_features_of_other_families(name: str) -> None:
    network = build(Start(timm=name), outputs=0, size=224 if "swin" in name else 64, pool="token").eval()
    pixels = torch.rand(2, 1, *([224] * 2 if "swin" in name else [64] * 2))
    with torch.inference_mode():
        ours = pooled(network, pixels)
        theirs = network.body.forward_features(network.normalise(pixels))
    assert ours.shape == (2, network.body.num_features)
    if name == "resnet10t":
        assert torch.allclose(ours, theirs.mean((2, 3)), atol=1e-5)
    if name.startswith("swin"):
        assert torch.allclose(ours, theirs.mean((1, 2)), atol=1e-5)
    if not name.startswith("vit"):
        with pytest.raises(UsageError, match="no class token; use --pool mean"):
            pooled(network, pixels, "class")


@pytest.mark.parametrize("head", [knn, linear])
def test_heads_recover_what_is_there_and_nothing_else(head: Callable[..., tuple[np.ndarray, dict]]) -> None:
    (x, y), (v, vy), (t, ty) = clouds(400, 0), clouds(150, 1), clouds(300, 2)
    found, choice = head(x, y, v, vy, t, 2)
    assert np.allclose(found.sum(1), 1) and choice
    assert (found.argmax(1) == ty).mean() > 0.72
    noise, _ = head(x, np.random.default_rng(0).permutation(y), v, vy, t, 2)
    assert log_loss(ty, found) < log_loss(ty, noise)


def test_knn_votes_by_hand() -> None:
    x = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    y = np.array([0, 0, 1, 1])
    found, choice = knn(x, y, x, y, np.array([[1, 0.05], [0.05, 1]], np.float32), 2)
    assert found.argmax(1).tolist() == [0, 1] and choice["k"] in (1, 5, 10) and found.min() > 0


def test_linear_leaves_out_a_class_it_never_saw() -> None:
    x, y = clouds(60, 0)
    found, _ = linear(x, y, x, y, x, 3)
    assert found.shape == (60, 3) and (found[:, 2] == 0).all()


def test_attentive_finds_the_token_that_matters() -> None:
    """The class shows in one token of sixteen, at a place that differs: the mean drowns it, attention finds it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    tokens = rng.normal(size=(400, 16, 16)).astype(np.float32)
    place = rng.integers(0, 16, 400)
    tokens[np.arange(400), place, 0] = 6.0  # the marked token …
    tokens[np.arange(400), place, 1] = np.where(y == 1, 3.0, -3.0)  # … says the class
    rows = np.arange(400)
    train, val, test = rows[:240], rows[240:300], rows[300:]
    found, choice = attentive(
        torch.from_numpy(tokens).half(), train, y[train], val, y[val], test, 2, epochs=40, lr=3e-3, batch=16
    )
    mean = tokens.mean(1)
    plain, _ = linear(mean[train], y[train], mean[val], y[val], mean[test], 2)
    accuracy, of_mean = ((p.argmax(1) == y[test]).mean() for p in (found, plain))
    assert accuracy > 0.9 and accuracy > of_mean and 1 <= choice["epoch"] <= 40


def test_retrieval_agrees_with_torchmetrics() -> None:
    (g, gy), (q, qy) = clouds(80, 0), clouds(20, 1)
    ours = retrieval(g, gy, q, qy)
    unit = [torch.nn.functional.normalize(torch.from_numpy(part).double()) for part in (g, q)]
    for i, similar in enumerate(unit[1] @ unit[0].T):
        relevant = torch.from_numpy(gy == qy[i])
        assert ours["average_precision"][i] == pytest.approx(
            float(retrieval_average_precision(similar, relevant)), abs=1e-5
        )
        assert ours["precision_at_5"][i] == pytest.approx(
            float(retrieval_precision(similar, relevant, top_k=5))
        )
    alone = retrieval(g, np.zeros(80, np.int64), q, np.ones(20, np.int64))
    assert np.isnan(alone["average_precision"]).all()


def test_probe_command_writes_scores_curve_and_predictions(
    usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    words = [
        "probe",
        corpus,
        "-b",
        "bus-bra",
        "-w",
        weights,
        "-o",
        tmp_path / "p",
        "--size",
        48,
        "--device",
        "cpu",
    ]
    heads = ["--head", "knn", "--head", "linear", "--head", "attentive", "--head", "retrieval"]
    end = usfmae(*words, *heads, "--fraction", 0.2, "--fraction", 1, "--seeds", 2, "--fold", 1, "--fold", 3)
    assert end.returncode == 0, end.stderr
    assert end.stdout.count("retrieval among 20 % (") == end.stdout.count("retrieval among 100 % (") == 1
    lines = [line for line in end.stdout.splitlines() if line.startswith(("attentive", "knn", "linear"))]
    assert len(lines) == 6 and all(line.count("±") == 4 for line in lines)  # none of them is broken
    result = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert len(result["runs"]) == 4 * (2 * 2 + 2)
    assert (tmp_path / "p" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    whole = next(row for row in result["table"] if row["head"] == "linear" and row["fraction"] == 1)
    assert whole["mean"]["auroc"]["runs"] == 2 and 0 < whole["mean"]["auroc"]["mean"] <= 1
    few = next(row for row in result["table"] if row["head"] == "linear" and row["fraction"] == 0.2)
    assert few["labels"] < 0.35 * whole["labels"]
    rows = pq.read_table(tmp_path / "p" / "predictions.parquet").to_pylist()
    assert len(rows) == 3 * 24 * (2 * 2 + 2)  # three heads that give probabilities, 24 test images a fold


def test_each_fold_can_have_an_encoder_of_its_own(
    usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    own = load_weights(weights)
    for fold in (1, 3):
        state = {key: value * (1 + 0.1 * fold) for key, value in own.state.items()}
        save_weights(tmp_path / f"w-fold{fold}", state, own.config)
    alone = []
    for fold, spec in ((1, "w-fold1"), (3, "w-fold3"), (None, "w-{fold}")):
        folds = ["--fold", fold] if fold else ["--fold", 1, "--fold", 3]
        end = usfmae(
            "probe", corpus, "-b", "bus-bra", "-w", tmp_path / spec, "-o", tmp_path / "p", "--size", 48, "--device",
            "cpu", "--head", "linear", "--json", *folds,
        )  # fmt: skip
        assert end.returncode == 0, end.stderr
        alone += json.loads(end.stdout)["runs"]
    first, third, *both = alone
    assert both == [first, third] and first["metrics"] != third["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head", "liner"], "did you mean 'linear'"),
        (["--fraction", "1.5"], "must lie above 0 and at most 1"),
        (["--pool", "cls"], "did you mean 'class'"),
        (["--aspect", "padd"], "did you mean 'pad'"),
    ],
)
def test_probe_wrong_use(
    usfmae: Cli, words: list[str], message: str, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    end = usfmae("probe", corpus, "-b", "bus-bra", "-w", weights, "-o", tmp_path, *words)
    assert end.returncode == 2 and message in end.stderr


def test_embed_a_set_and_files(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "set.parquet"
    end = usfmae(
        "embed", corpus, "-w", weights, "--set", "bus-bra", "-o", out, "--size", 48, "--device", "cpu"
    )
    assert end.returncode == 0 and "120 rows of 48 features" in end.stdout
    table = pq.read_table(out)
    assert table.num_rows == 120 and table.schema.field("feature").type.list_size == 48
    assert json.loads(table.column("labels")[0].as_py())["pathology"] in ("benign", "malignant")
    assert json.loads(table.schema.metadata[b"usfmae.embed"])["pool"] == "mean"

    cine = pydicom.data.get_testdata_file("examples_ybr_color.dcm")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((80, 90), 120, np.uint8))
    (tmp_path / "b.png").write_text("no picture")
    out = tmp_path / "files.parquet"
    words = ["-w", weights, "-o", out, "--size", 48, "--stride", 10, "--device", "cpu"]
    end = usfmae("embed", cine, tmp_path / "a.png", tmp_path / "b.png", *words)
    assert end.returncode == 1 and str(tmp_path / "b.png") in end.stderr and len(end.stderr.splitlines()) == 1
    rows = pq.read_table(out).to_pylist()
    assert [(Path(row["file"]).name, row["frame"]) for row in rows] == [
        ("examples_ybr_color.dcm", 0), ("examples_ybr_color.dcm", 10), ("examples_ybr_color.dcm", 20), ("a.png", 0),
    ]  # fmt: skip


def test_embed_agrees_with_extraction(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    from usfmae.stream.index import open_index
    from usfmae.tasks.data.pixels import decode_rows

    out = tmp_path / "set.parquet"
    words = [
        "--set",
        "bus-bra",
        "-o",
        out,
        "--size",
        48,
        "--pool",
        "both",
        "--batch-size",
        7,
        "--device",
        "cpu",
    ]
    assert usfmae("embed", corpus, "-w", weights, *words).returncode == 0
    index = open_index(corpus, "bus-bra")
    images = decode_rows(index, np.arange(index.count), size=48, aspect="stretch")
    network = build(Start(weights=str(weights)), outputs=0, size=48, pool="token")
    expected = extract(network, images, pool="both")
    found = np.array(pq.read_table(out).column("feature").to_pylist(), np.float32)
    assert np.allclose(found, expected, atol=1e-5)


def test_embed_refuses_a_folder_that_is_no_corpus(usfmae: Cli, weights: Path, tmp_path: Path) -> None:
    end = usfmae("embed", tmp_path, "-w", weights, "-o", tmp_path / "x.parquet")
    assert end.returncode == 2 and "a folder without corpus.json" in end.stderr


def test_published_vit_gives_its_own_features() -> None:
    """A timm ViT by name: our pooled features are those of timm's own pre-logits average."""
    torch.manual_seed(0)
    network = build(Start(timm="vit_tiny_patch16_224"), outputs=0, size=64, pool="token").eval()
    twin = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=64, global_pool="avg", fc_norm=False
    )
    twin.load_state_dict(network.body.state_dict())
    pixels = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(pooled(network, pixels), twin.eval()(network.normalise(pixels)), atol=1e-5)


@pytest.mark.parametrize(
    ("data", "out", "say"),
    [("nowhere", "x.parquet", "there is no such corpus or file"), (".", "x.csv", "ends in .parquet")],
)
def test_embedding_of_nothing_or_into_no_table(usfmae: Cli, data: str, out: str, say: str) -> None:
    end = usfmae("embed", data, "-m", "test_vit", "-o", out)
    assert end.returncode == 2 and say in end.stderr


def test_weights_that_nobody_gave_are_the_same_each_time(corpus: Path, tmp_path: Path) -> None:
    """Also after something else has drawn from the global generator."""
    labelled = load_labelled(str(corpus), find_benchmark("bus-bra"), size=48)
    how: dict[str, Any] = {"size": 48, "device": "cpu", "quiet": True}
    start, tables = Start(size="tiny"), []
    frozen = []
    for name in ("a", "b"):
        torch.rand(3)
        frozen.append(freeze(labelled, start, pool="mean", tokens=False, **how).features)
        embed([str(corpus)], start, tmp_path / name, set_name="bus-bra", **how)
        tables.append(pq.read_table(tmp_path / name))
    assert np.array_equal(*frozen) and tables[0].equals(tables[1])
