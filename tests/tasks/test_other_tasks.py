"""Segmentation, regression and several labels: their scores, and whole runs on a small corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.functional.segmentation import dice_score, mean_iou

from openus.errors import CorpusError, OpenUSError
from openus.shards.schema import ROW
from tests.tasks.conftest import Ended
from usfmae.stream.index import open_index
from usfmae.tasks.data.labelled import find_benchmark, load_labelled
from usfmae.tasks.data.square import square, square_mask
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.build import build
from usfmae.tasks.network.segmenter import dress
from usfmae.tasks.network.start import Start
from usfmae.tasks.predict import predict
from usfmae.tasks.recipe import load_recipe
from usfmae.tasks.scores.bootstrap import group_weights, means_with_intervals
from usfmae.tasks.scores.multilabel import multilabel_scores
from usfmae.tasks.scores.regression import regression_scores
from usfmae.tasks.scores.segmentation import (
    Structure,
    average_precision,
    match,
    over_classes,
    overlap,
    structures,
)
from usfmae.tasks.segment import SegmentationTask

Cli = Callable[..., Ended]
PROTOCOL = "protocols: {own: {kind: patient-kfold, folds: 4}}\n"


def benchmark(folder: Path, task: str, label: str, extra: str = "") -> str:
    """A benchmark file of one's own."""
    path = folder / f"{task}.yaml"
    path.write_text(
        f"schema: 1\nname: own-{task}\ntitle: own\nset: bus-bra\ntask: {task}\nlabel: '{label}'\n{extra}{PROTOCOL}"
    )
    return str(path)


def relabelled(corpus: Path, folder: Path, labels: Callable[[dict[str, Any], bytes], dict[str, str]]) -> Path:
    """A copy of a corpus with other labels, computed from each row and picture."""
    shutil.copytree(corpus, folder)
    index = open_index(corpus, "bus-bra")
    pictures = {key: index.read(i) for i, key in enumerate(index.table.column("key").to_pylist())}
    for path in (folder / "manifest").glob("bus-bra-0*.parquet"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["labels"] = labels(row, pictures[row["key"]])
        path.chmod(0o644)
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW), path)
    return folder


# Scores


def random_masks(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((4, 40, 40), np.uint8)
    found = np.zeros((4, 40, 40), np.uint8)
    for i in range(4):
        for c in range(1, classes + 1):
            y, x = rng.integers(8, 32, 2)
            cv2.circle(truth[i], (int(x), int(y)), int(rng.integers(3, 8)), c, -1)
            cv2.circle(found[i], (int(x + rng.integers(-3, 4)), int(y)), int(rng.integers(3, 8)), c, -1)
    return truth, found


@pytest.mark.parametrize("classes", [1, 3])
def test_overlap_agrees_with_torchmetrics(classes: int) -> None:
    truth, found = random_masks(classes, classes)
    ours = np.array([overlap(t, f, classes) for t, f in zip(truth, found, strict=True)])
    kind = {"num_classes": classes + 1, "include_background": False, "input_format": "index"}
    t, f = torch.from_numpy(truth).long(), torch.from_numpy(found).long()
    per_class = dice_score(f, t, average="none", aggregation_level="samplewise", **kind)
    assert np.allclose(ours[:, 0].mean(0), per_class.reshape(-1, classes).nanmean(0), atol=1e-5)
    assert np.allclose(ours[:, 1], mean_iou(f, t, per_class=True, **kind), atol=1e-5)


def test_nothing_to_find() -> None:
    empty, some = np.zeros((20, 20), np.uint8), np.ones((20, 20), np.uint8)
    assert over_classes(overlap(empty, empty, 1)[0]) == 1 and over_classes(overlap(empty, some, 1)[0]) == 0


def test_classes_that_are_not_there_do_not_lift_the_score(corpus: Path) -> None:
    """Each image holds one of eight classes; a network that never finds anything has found nothing."""
    truth, nothing = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 3
    assert over_classes(overlap(truth, nothing, 8)[0]) == 0
    data = load_labelled(corpus, find_benchmark("bus-bra-lesion"), size=48)
    task = SegmentationTask(replace(data, classes=tuple("abcdefgh")), load_recipe("finetune-demo"))
    maps = np.zeros((9, 20, 20))
    rows = [task._scores_of(np.where(truth, number, 0).astype(np.uint8), nothing, maps) for number in (3, 4)]
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"key": ["x", "y"], "group": [0, 1]}
    scores = task.answers(columns).over(np.ones((1, 2)))
    assert scores["dice"] == scores["dice_c"] == 0 and np.isnan(scores["dice_a"])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_coco(seed: int) -> None:
    """pycocotools is the reference; it runs behind torchmetrics."""
    rng = np.random.default_rng(seed)
    counts: list[int] = []
    found: tuple[list[list[float]], list[list[int]]] = ([], [])
    coco = MeanAveragePrecision(iou_type="segm")
    for image in range(12):
        masks, scores = np.zeros((2, 64, 64), np.uint8), np.zeros((64, 64))
        for _ in range(int(rng.integers(0, 4))):
            y, x = (int(v) for v in rng.integers(8, 56, 2))
            cv2.circle(masks[0], (x, y), int(rng.integers(3, 9)), 1, -1)
            if rng.random() < 0.8:
                cv2.circle(masks[1], (x + int(rng.integers(-3, 4)), y), int(rng.integers(3, 9)), 1, -1)
        if rng.random() < 0.4:
            cv2.circle(masks[1], (int(rng.integers(8, 56)), int(rng.integers(8, 56))), 5, 1, -1)
        _, places = cv2.connectedComponents(masks[1])
        scores = rng.random(places.max() + 1)[places]
        t, f = structures(image, masks[0], 1), structures(image, masks[1], 1, scores)
        counts.append(len(t))
        for kept, one in zip(found, match(t, f), strict=True):
            kept.append(one)  # type: ignore[arg-type]

        def stack(pieces: list[Any]) -> torch.Tensor:
            return torch.from_numpy(
                np.stack([p.mask for p in pieces]) if pieces else np.zeros((0, 64, 64), bool)
            )

        predicted = {
            "masks": stack(f),
            "scores": torch.tensor([p.score for p in f]),
            "labels": torch.zeros(len(f)).int(),
        }
        coco.update([predicted], [{"masks": stack(t), "labels": torch.zeros(len(t)).int()}])
    ours = average_precision(np.ones((1, 12)), np.array(counts), *found)[0]
    theirs = coco.compute()
    assert ours.mean() == pytest.approx(float(theirs["map"]), abs=1e-6)
    assert ours[0] == pytest.approx(float(theirs["map_50"]), abs=1e-6)

    # A weight of 2 is the image twice, one of 0 is its absence.
    weights = rng.integers(0, 3, (5, 12)).astype(float)
    drawn = average_precision(weights, np.array(counts), *found)
    for row, many in zip(drawn, weights.astype(int), strict=True):
        taken = np.repeat(np.arange(12), many)
        again = [[kind[i] for i in taken] for kind in found]
        whole = average_precision(np.ones((1, len(taken))), np.array(counts)[taken], *again)[0]
        assert row == pytest.approx(whole, nan_ok=True)


def square_of(y: int, x: int, height: int, width: int, score: float = 1.0) -> Structure:
    mask = np.zeros((40, 40), bool)
    mask[y : y + height, x : x + width] = True
    return Structure(0, mask, score)


def test_structures_are_matched_as_coco_matches_them() -> None:
    """One truth, found twice: the surer one hits, whatever fits better, and the other is a false alarm."""
    truth = square_of(0, 0, 10, 10)
    whole, part = square_of(0, 0, 10, 10, 0.4), square_of(0, 0, 6, 10, 0.9)  # of the truth: all, 60 of 100
    assert match([truth], [whole, part]) == ([0.9, 0.4], [0b111, 0b1111111000])
    # An overlap of exactly a threshold counts; the one that overlaps most is taken, not the first in the list.
    assert match([truth], [square_of(0, 0, 5, 10)])[1] == [0b1]
    narrow, half = square_of(0, 0, 10, 9), square_of(0, 0, 10, 5, 0.8)
    assert match([narrow, truth], [square_of(0, 0, 10, 10, 0.9), half])[1] == [0b1111111111, 0b11]
    assert match([truth], [part, whole], most=1) == ([0.9], [0b111])
    assert match([truth], [square_of(20, 20, 5, 5, 0.5), whole], most=1)[1] == [0]


def test_average_precision_by_hand() -> None:
    """Found of two: right (0.9), wrong (0.8), right (0.7). Precision 1 up to a recall of a half, then two thirds:
    51 of the 101 points of recall (0, 0.01 … 0.5) have the first."""
    found = average_precision(np.ones((1, 1)), np.array([2]), [[0.9, 0.8, 0.7]], [[1, 0, 1]])[0]
    assert found[0] == pytest.approx((51 + 50 * 2 / 3) / 101) and found[1] == 0


def test_structures_are_pieces_of_sixteen_pixels_that_touch_at_a_corner_at_least() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[0:4, 0:4] = mask[4:8, 4:8] = mask[12:16, 0:4] = 1
    mask[12:15, 8:13] = 1  # fifteen
    scores = np.full((20, 20), 0.5)
    scores[12, 0] = 0.9
    found = structures(0, mask, 1, scores)
    assert [int(one.mask.sum()) for one in found] == [32, 16]
    assert [one.score for one in found] == pytest.approx([0.5, 0.525])


def test_map_is_over_all_thresholds_and_map_50_is_the_first(corpus: Path) -> None:
    data = load_labelled(corpus, find_benchmark("bus-bra-lesion"), size=48)
    task = SegmentationTask(replace(data, classes=("a", "b")), load_recipe("finetune-demo"))
    truth, decision = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[:10, :10], decision[:6, :10] = 1, 1  # an overlap of 0.6: three thresholds of ten
    maps = np.stack([np.zeros((40, 40)), np.full((40, 40), 0.7), np.full((40, 40), 0.1)])
    one = task._scores_of(truth, decision, maps)
    assert one["scores_a"] == pytest.approx([0.7])
    columns = {name: [value] for name, value in one.items()} | {"key": ["x"], "group": [0]}
    scores = task.answers(columns).over(np.ones((1, 1)))
    assert scores["map_50"] == pytest.approx(1) and scores["map"] == pytest.approx(0.3)
    assert scores["dice"] == pytest.approx(120 / 160) and scores["iou"] == pytest.approx(0.6)


def test_intervals_draw_patients() -> None:
    """Of what each sample got, of values, of labels: four samples of a patient are one; the 95 in 100 in the middle."""
    rng, groups = np.random.default_rng(0), np.arange(80) // 4
    each = rng.normal(size=20).repeat(4)
    drawn = (lambda w: (w @ each) / w.sum(1))(group_weights(groups, 80, 500, 0).astype(float))
    found = means_with_intervals({"mae": np.r_[each, np.nan]}, np.r_[groups, 0], 500)["mae"]
    assert found["value"] == pytest.approx(each.mean())
    found = means_with_intervals({"mae": each}, groups, 500)["mae"]
    assert (found["low"], found["high"]) == pytest.approx(np.percentile(drawn, (2.5, 97.5)))
    scores = regression_scores([(np.zeros(80), each, groups)], 500)["mae"]
    drawn = (lambda w: (w @ np.abs(each)) / w.sum(1))(group_weights(groups, 80, 500, 0).astype(float))
    assert (scores["low"], scores["high"]) == pytest.approx(np.percentile(drawn, (2.5, 97.5)))


def test_regression_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(55, 10, 200)
    found = truth + rng.normal(0, 6, 200)
    scores = {
        name: score["value"]
        for name, score in regression_scores([(truth, found, np.arange(200) // 2)]).items()
    }
    assert scores["mae"] == pytest.approx(sk.mean_absolute_error(truth, found))
    assert scores["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, found))
    assert scores["r2"] == pytest.approx(sk.r2_score(truth, found))
    assert scores["pearson"] == pytest.approx(np.corrcoef(truth, found)[0, 1])


def test_multilabel_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((150, 3)) < (0.2, 0.5, 0.7)).astype(float)
    found = np.round(1 / (1 + np.exp(-(rng.normal(size=(150, 3)) + 1.5 * truth - 0.7))), 2)
    overall, each = multilabel_scores([(truth, found, np.arange(150) // 3)], ["a", "b", "c"])
    assert overall["auroc_macro"]["value"] == pytest.approx(sk.roc_auc_score(truth, found))
    assert overall["average_precision_macro"]["value"] == pytest.approx(
        sk.average_precision_score(truth, found)
    )
    assert overall["f1_macro"]["value"] == pytest.approx(sk.f1_score(truth, found >= 0.5, average="macro"))
    assert overall["exact_match"]["value"] == pytest.approx(sk.accuracy_score(truth, found >= 0.5))
    assert overall["hamming_accuracy"]["value"] == pytest.approx(1 - sk.hamming_loss(truth, found >= 0.5))
    assert each["b"]["auroc"]["value"] == pytest.approx(sk.roc_auc_score(truth[:, 1], found[:, 1]))
    assert overall["auroc_macro"]["low"] < overall["auroc_macro"]["value"] < overall["auroc_macro"]["high"]


# Whole runs


@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
def test_masks_lie_on_their_images(corpus: Path, tmp_path: Path, aspect: str) -> None:
    """In the simulated pictures a lesion is darker than what is around it, so a shifted mask would show."""
    data = load_labelled(
        corpus,
        find_benchmark(benchmark(tmp_path, "segmentation", "mask", "classes: [lesion]\n")),
        size=48,
        aspect=aspect,
    )
    inside = np.array(
        [image[0][mask == 1].mean() for image, mask in zip(data.images, data.targets, strict=True)]
    )
    ring = [cv2.dilate(mask, np.ones((7, 7), np.uint8)) - mask for mask in data.targets]
    around = np.array([image[0][r == 1].mean() for image, r in zip(data.images, ring, strict=True)])
    assert (inside < around - 10).mean() > 0.95
    assert set(np.unique(data.targets)) == {0, 1}


def test_squares_keep_mask_values() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (37, 61)).astype(np.uint8)
    for aspect in ("stretch", "pad", "crop"):
        assert set(np.unique(square_mask(mask, 50, aspect))) <= {0, 1, 2, 3}
        assert square(mask, 50, aspect).shape == (50, 50)
    assert (square(np.full((40, 80), 9, np.uint8), 40, "pad")[0] == 0).all()


def test_segmentation_run(corpus: Path, weights: Path, tmp_path: Path) -> None:
    name = benchmark(tmp_path, "segmentation", "mask", "classes: [lesion]\n")
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=8", "lr=2e-3", "resamples=100"])
    out = tmp_path / "seg"
    result = finetune(
        corpus, name, Start(weights=str(weights)), recipe, out, folds=[1], device="cpu", quiet=True
    )
    assert result["metrics"]["dice"]["value"] > 0.75 and result["metrics"]["map_50"]["value"] > 0.7
    assert result["metrics"]["iou"]["value"] < result["metrics"]["dice"]["value"]
    assert (out / "masks.png").read_bytes()[:4] == b"\x89PNG"
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    test = [row["dice"] for row in rows if row["part"] == "test"]
    assert np.mean(test) == pytest.approx(result["metrics"]["dice"]["value"])

    index = open_index(corpus, "bus-bra")
    (tmp_path / "a.jpg").write_bytes(index.read(0))
    answer = predict(out, [tmp_path / "a.jpg"], device="cpu", quiet=True, picture=tmp_path / "p.png")[0]
    masks = open_index(corpus, "bus-bra-mask")
    row = masks.table.column("key").to_pylist().index(index.table.column("key")[0].as_py())
    truth = cv2.imdecode(np.frombuffer(masks.read(row), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert answer.values[0] == pytest.approx((truth > 0).mean(), rel=0.35)
    assert overlap(square_mask(truth, 48) // 255, answer.mask, 1)[0] > 0.6
    assert set(answer.to_json()) == {"file", "format", "decision", "covered", "frames", "refused"}


def test_masks_of_the_class_that_their_image_has(corpus: Path, tmp_path: Path) -> None:
    """Instance scores by class, where the masks themselves do not tell the classes apart."""
    name = benchmark(tmp_path, "segmentation", "pathology", "classes: [benign, malignant]\n")
    data = load_labelled(corpus, find_benchmark(name), size=48)
    labels = load_labelled(corpus, find_benchmark("bus-bra"), size=48).targets
    assert data.classes == ("benign", "malignant")
    for mask, label in zip(data.targets, labels, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}


def test_table_of_segmentations(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    extra = "classes: [lesion]\npublished: {map: 51.0, map_50: 77.9}\n"
    name = benchmark(tmp_path, "segmentation", "mask", extra)
    words = ["-m", f"ours={weights}", "-m", "timm:resnet10t", "-b", name, "--fold", 1, "-o", tmp_path / "t"]
    words += [
        "-r",
        "finetune-demo",
        "--scratch-recipe",
        "finetune-demo",
        "--set",
        "size=48",
        "--set",
        "epochs=1",
    ]
    end = usfmae("benchmark", corpus, *words, "--device", "cpu")
    assert end.returncode == 0, end.stderr
    head = next(line for line in end.stdout.splitlines() if line.startswith("| model"))
    assert "| Dice (%) | IoU (%) | mAP (%) | mAP@50 (%) |" in head
    assert "USF-MAE paper, mAP (%), published | USF-MAE paper, mAP@50 (%), published" in head
    cell = json.loads((tmp_path / "t" / "results.json").read_text())["cells"]["ours"]["own-segmentation"]
    one = cell["scores"]["map_50"]
    assert one["low"] <= one["value"] <= one["high"]
    assert cell["over_runs"]["map_50"]["mean"] == pytest.approx(one["value"])


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_dense_head_on_other_backbones(name: str) -> None:
    network = dress(build(Start(timm=name), outputs=0, size=64), 2, 64).eval()
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 3, 64, 64)


def test_segmentation_without_masks(corpus: Path, tmp_path: Path) -> None:
    name = benchmark(tmp_path, "segmentation", "mask")
    path = Path(name)
    path.write_text(path.read_text().replace("set: bus-bra", "set: pretrain"))
    with pytest.raises(CorpusError, match=r"no set 'pretrain-mask'.*segmentation needs masks"):
        load_labelled(corpus, find_benchmark(name), size=32)


def test_regression_run(corpus: Path, weights: Path, tmp_path: Path) -> None:
    """The value is the mean grey level of the picture: easy to see, and known exactly."""

    def brightness(row: dict[str, Any], data: bytes) -> dict[str, str]:
        return {"ef": f"{cv2.imdecode(np.frombuffer(data, np.uint8), 0).mean():.3f}"}

    data = relabelled(corpus, tmp_path / "c", brightness)
    name = benchmark(tmp_path, "regression", "ef")
    changes = ["size=48", "epochs=12", "lr=2e-3", "resamples=100", "augment.zoom=[1, 1]"]
    changes += [f"augment.{name}=0" for name in ("gain", "gamma", "rotate", "stretch", "shift")]
    out = tmp_path / "reg"
    start = Start(weights=str(weights))
    result = finetune(data, name, start, load_recipe("finetune-demo", changes), out, device="cpu", quiet=True)
    assert result["pooled"]["metrics"]["pearson"]["value"] > 0.8 and result["pooled"]["n"] == 120
    assert (out / "agreement.png").exists() and result["mean"]["mae"]["runs"] == 4
    index = open_index(corpus, "bus-bra")
    (tmp_path / "a.jpg").write_bytes(index.read(3))
    answer = predict(out / "fold1", [tmp_path / "a.jpg"], device="cpu", quiet=True)[0]
    truth = cv2.imdecode(np.frombuffer(index.read(3), np.uint8), 0).mean()
    assert answer.values[0] == pytest.approx(truth, abs=4 * result["pooled"]["metrics"]["mae"]["value"])
    same = relabelled(corpus, tmp_path / "same", lambda row, data: {"ef": "55"})
    with pytest.raises(OpenUSError, match="all values of the training part are 55"):
        finetune(
            same, name, start, load_recipe("finetune-demo", changes), tmp_path / "s", device="cpu", quiet=True
        )


def test_multilabel_run(corpus: Path, weights: Path, tmp_path: Path) -> None:
    def signs(row: dict[str, Any], data: bytes) -> dict[str, str]:
        bright = cv2.imdecode(np.frombuffer(data, np.uint8), 0).mean() > 95
        malignant = dict(row["labels"])["pathology"] == "malignant"
        return {
            "dark-lesion": "present" if malignant else "absent",
            "bright": "present" if bright else "absent",
        }

    data = relabelled(corpus, tmp_path / "c", signs)
    name = benchmark(tmp_path, "multilabel", "dark-lesion, bright", "positive: present\n")
    out = tmp_path / "ml"
    recipe = load_recipe("finetune-demo", ["size=48", "epochs=10", "lr=2e-3", "resamples=100"])
    result = finetune(
        data, name, Start(weights=str(weights)), recipe, out, folds=[1], device="cpu", quiet=True
    )
    assert result["classes"] == ["dark-lesion", "bright"]
    assert result["per_class"]["dark-lesion"]["auroc"]["value"] > 0.8
    index = open_index(corpus, "bus-bra")
    (tmp_path / "a.jpg").write_bytes(index.read(0))
    answer = predict(out, [tmp_path / "a.jpg"], device="cpu", quiet=True)[0].to_json()
    assert all(0 <= p <= 1 for p in answer["probabilities"].values())
    wrong = benchmark(tmp_path, "multilabel", "dark-lesion, bright", "positive: yes it is\n")
    with pytest.raises(CorpusError, match="label 'dark-lesion' is never 'yes it is'"):
        load_labelled(data, find_benchmark(wrong), size=32)


def test_command_prints_each_kind(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    name = benchmark(tmp_path, "segmentation", "mask", "classes: [lesion]\n")
    words = ["-r", "finetune-demo", "--set", "size=48", "--set", "epochs=1", "--device", "cpu"]
    end = usfmae("finetune", corpus, "-b", name, "-w", weights, "--fold", 1, "-o", tmp_path / "o", *words)
    assert end.returncode == 0 and "Dice" in end.stdout and "mAP@50" in end.stdout
    index = open_index(corpus, "bus-bra")
    (tmp_path / "a.jpg").write_bytes(index.read(0))
    end = usfmae("predict", tmp_path / "o", tmp_path / "a.jpg", "--json")
    assert end.returncode == 0 and "lesion" in json.loads(end.stdout)[0]["covered"]


def test_only_the_named_sources_of_a_set(corpus: Path, tmp_path: Path) -> None:
    """Several sources may share a label's name in one set, and number their patients alike."""

    def kind(row: dict[str, Any], data: bytes) -> dict[str, str]:
        return {"score": "1" if int(row["key"][-1]) % 2 else "0"}

    data = relabelled(corpus, tmp_path / "c", kind)
    for path in (data / "manifest").glob("bus-bra-0*.parquet"):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["source"] = "other" if int(row["key"][-2]) % 2 else "bus-bra"
            row["patient"] = "7"
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW), path)
    both = load_labelled(data, find_benchmark(benchmark(tmp_path, "classification", "score")), size=16)
    assert len(both) == 120 and len(set(both.groups().tolist())) == 2
    one = load_labelled(
        data, find_benchmark(benchmark(tmp_path, "classification", "score", "sources: [other]\n")), size=16
    )
    assert len(one) == 60 and set(one.identity.patient) == {"other/7"}
