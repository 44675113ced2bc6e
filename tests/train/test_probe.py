"""The probe finds structure where there is some, and splits by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.corpus import make_corpus
from tests.train.conftest import TINY
from usfmae.model.mae import MAE
from usfmae.stream.index import open_index
from usfmae.train.probe import Probe, balanced_accuracy, in_train, linear, nearest, pooled
from usfmae.train.recipe import load_recipe


def test_knn_and_linear_probe_separate_clouds_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 60, 40])
    centres = rng.normal(size=(3, 16)) * 3
    x = (centres[y] + rng.normal(size=(300, 16))).astype(np.float32)
    order = rng.permutation(300)
    a, b = order[:150], order[150:]
    for decide in (lambda f: nearest(f[a], y[a], f[b], 3), lambda f: linear(f[a], y[a], f[b])):
        assert balanced_accuracy(y[b], decide(x)) > 0.95
        assert balanced_accuracy(y[b], decide(rng.normal(size=(300, 16)).astype(np.float32))) < 0.55


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    assert balanced_accuracy(truth, np.zeros(6, int)) == 0.5
    assert balanced_accuracy(truth, [0, 0, 0, 1, 1, 0]) == pytest.approx((0.75 + 0.5) / 2)


def test_no_patient_is_on_both_sides(tmp_path: Path) -> None:
    index = open_index(make_corpus(tmp_path / "c", {"bus-bra": 60}, size=48), "bus-bra")
    recipe = load_recipe("demo", [*TINY, "report.probe_set=bus-bra", "report.probe_label=pathology"])
    probe = Probe(index, recipe)
    assert (
        len(probe.images) == 60
        and 0.2 < probe.train.mean() < 0.8
        and probe.classes == ["benign", "malignant"]
    )
    patients = index.table.column("patient").to_pylist()
    sides: dict[str, set[bool]] = {}
    for patient in patients:
        sides.setdefault(patient, set()).add(in_train(patient))
    assert len(sides) == 30 and all(len(side) == 1 for side in sides.values())
    scores = probe.scores(MAE(recipe.mae_config()))
    assert set(scores) == {"knn", "linear", "chance"} and all(0 <= v <= 1 for v in scores.values())


def test_features_are_the_mean_of_the_patch_tokens() -> None:
    mae = MAE(load_recipe("demo", TINY).mae_config())
    images = np.random.default_rng(0).integers(0, 255, (70, 32, 32), dtype=np.uint8)
    x = (torch.from_numpy(images)[:, None] / 255 - 0.2) / 0.2
    with torch.no_grad():
        expected = mae.features(x)[:, 1:].mean(1)
    np.testing.assert_allclose(pooled(mae, images), expected.numpy(), atol=1e-5)
    assert mae.training


def test_a_rare_class_has_as_much_say_as_a_common_one() -> None:
    """Five neighbours of a class of five outvote fifteen of a class of thirty."""
    angle = np.concatenate([np.linspace(0.5, 1.5, 30), np.linspace(0.1, 0.3, 5)])
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    y = np.array([0] * 30 + [1] * 5)
    assert nearest(x, y, np.array([[1, 0]], np.float32), 2).tolist() == [1]
