"""Scores agree with scikit-learn and torchmetrics; intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from usfmae.tasks.scores.bootstrap import group_weights
from usfmae.tasks.scores.classification import (
    bootstrap,
    by_group,
    classification,
    expected_calibration_error,
    over_weights,
    point_estimates,
)
from usfmae.tasks.scores.compare import summary


def sample(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    targets[:classes] = np.arange(classes)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[targets]
    scores = np.exp(logits.round(1))  # rounded, so that ties occur
    return targets, scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_point_estimates_agree_with_torchmetrics(classes: int) -> None:
    targets, probabilities = sample(400, classes, classes)
    ours = point_estimates(targets, probabilities, classes - 1)
    p, t = torch.tensor(probabilities), torch.tensor(targets)
    kind = {"num_classes": classes}
    theirs = {
        "accuracy": tm.multiclass_accuracy(p, t, average="micro", **kind),
        "balanced_accuracy": tm.multiclass_recall(p, t, average="macro", **kind),
        "ece": tm.multiclass_calibration_error(p, t, n_bins=15, norm="l1", **kind),
    }
    for average in ("macro", "weighted"):
        theirs[f"f1_{average}"] = tm.multiclass_f1_score(p, t, average=average, **kind)
        theirs[f"precision_{average}"] = tm.multiclass_precision(p, t, average=average, **kind)
        theirs[f"recall_{average}"] = tm.multiclass_recall(p, t, average=average, **kind)
    if classes == 2:
        theirs["auroc"] = tm.binary_auroc(p[:, 1], t)
        for level in (90, 95):
            value, _ = tm.binary_sensitivity_at_specificity(p[:, 1], t, level / 100)
            theirs[f"sensitivity_at_{level}_specificity"] = value
    else:
        theirs["auroc"] = tm.multiclass_auroc(p, t, average="macro", **kind)
    assert set(theirs) == set(ours)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=2e-6), name


def test_scores_of_a_class_agree_with_torchmetrics() -> None:
    """One class against the rest, in a task of several."""
    targets, probabilities = sample(300, 4, 5)
    each = classification(targets, probabilities, ["a", "b", "c", "d"], resamples=0)["per_class"]
    for c, name in enumerate("abcd"):
        p, t = torch.tensor(probabilities[:, c]), torch.tensor(targets == c).long()
        for level in (90, 95):
            value, _ = tm.binary_sensitivity_at_specificity(p, t, level / 100)
            assert each[name][f"sensitivity_at_{level}_specificity"] == pytest.approx(float(value), abs=1e-6)
        edges = np.digitize(probabilities[:, c], np.linspace(0, 1, 16)[1:-1], right=True)
        gaps = [np.abs((t.numpy() - p.numpy())[edges == k].sum()) for k in range(15)]
        assert each[name]["ece"] == pytest.approx(sum(gaps) / 300)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(20, 120), st.integers(0, 10_000))
def test_scores_under_unit_weights_are_the_point_estimates(classes: int, n: int, seed: int) -> None:
    targets, probabilities = sample(n, classes, seed)
    point = point_estimates(targets, probabilities, 1)
    weighted = over_weights(targets, probabilities, np.ones((1, n)), 1)
    assert set(point) == set(weighted)
    for name, value in point.items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("classes", [2, 4])
def test_weighted_scores_are_those_of_the_repeated_sample(classes: int) -> None:
    targets, probabilities = sample(90, classes, 3)
    groups = np.arange(90) // 3
    weights = group_weights(groups, 90, 20, 7)
    drawn = over_weights(targets, probabilities, weights, 1)
    for b in range(20):
        rows = np.repeat(np.arange(90), weights[b])
        expected = point_estimates(targets[rows], probabilities[rows], 1)
        for name, value in expected.items():
            assert drawn[name][b] == pytest.approx(value, abs=1e-9), (name, b)


def test_bootstrap_draws_whole_groups_reproducibly() -> None:
    groups = np.array([5, 5, 9, 9, 9, 2])
    weights = group_weights(groups, 6, 200, 1)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all()
    assert np.array_equal(weights, group_weights(groups, 6, 200, 1))
    assert not np.array_equal(weights, group_weights(groups, 6, 200, 2))


def test_interval_is_wider_when_images_of_a_patient_agree() -> None:
    """Four copies of each patient's image carry no more information than one."""
    targets, probabilities = sample(60, 2, 11)
    targets, probabilities = np.repeat(targets, 4), np.repeat(probabilities, 4, axis=0)
    by_patient = classification(targets, probabilities, ["a", "b"], groups=np.arange(240) // 4)
    by_image = classification(targets, probabilities, ["a", "b"])

    def width(result: dict) -> float:
        return result["metrics"]["accuracy"]["high"] - result["metrics"]["accuracy"]["low"]

    assert width(by_patient) > 1.5 * width(by_image)
    assert by_patient["groups"] == 60 and by_image["groups"] == 240


def test_interval_covers_the_truth_at_its_rate() -> None:
    """Accuracy of a decision that is right with chance 0.8: about 95 of 100 intervals hold 0.8."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(120):
        right = rng.random(300) < 0.8
        targets = rng.integers(0, 2, 300)
        decided = np.where(right, targets, 1 - targets)
        drawn = bootstrap(targets, np.eye(2)[decided] * 0.8 + 0.1, None, 1, resamples=300, seed=trial)
        low, high = np.percentile(drawn["accuracy"], (2.5, 97.5))
        held += low <= 0.8 <= high
    assert 104 <= held <= 120


def test_absent_class_is_named_and_left_out() -> None:
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])
    result = classification(targets, probabilities, ["a", "b", "c"])
    assert result["notes"] == ["class 'c' does not occur here; averages leave it out"]
    absent = result["per_class"]["c"]
    assert absent.pop("support") == 0 and set(absent.values()) == {None}
    assert result["metrics"]["recall_macro"]["value"] == pytest.approx(0.5)
    assert result["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_one_class_has_no_auroc() -> None:
    result = classification(np.zeros(5, np.int64), np.tile([0.7, 0.3], (5, 1)), ["a", "b"])
    assert result["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert result["metrics"]["sensitivity_at_90_specificity"]["value"] is None
    assert result["metrics"]["accuracy"]["value"] == 1.0


def test_the_positive_class_is_the_one_that_is_named() -> None:
    """Three of four of class a, with one of class b above them: another number for each class."""
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    p = np.array([0.9, 0.8, 0.7, 0.2, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1])
    both = np.stack([p, 1 - p], 1)
    name = "sensitivity_at_90_specificity"
    assert classification(targets, both, ["a", "b"], positive="a")["metrics"][name]["value"] == 0.75
    assert classification(targets, both, ["a", "b"], positive="b")["metrics"][name]["value"] == 0.5
    assert classification(targets, both, ["a", "b"])["metrics"][name]["value"] == 0.5


def test_the_interval_holds_95_of_100_draws() -> None:
    targets, probabilities = sample(80, 2, 5)
    result = classification(targets, probabilities, ["a", "b"], seed=3)["metrics"]
    for name, values in bootstrap(targets, probabilities, None, 1, seed=3).items():
        assert (result[name]["low"], result[name]["high"]) == pytest.approx(
            np.percentile(values, (2.5, 97.5))
        )


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one() -> None:
    """0.6 is the upper edge of the ninth bin of fifteen (Guo et al. 2017): it must not meet 0.65 in the tenth."""
    found = np.array([[0.6, 0.4], [0.65, 0.35]])
    assert expected_calibration_error(np.array([0, 1]), found) == pytest.approx((0.4 + 0.65) / 2)


def test_refuses_nan_probabilities() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        classification(np.empty(0, np.int64), np.empty((0, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        classification(np.array([0, 1]), np.array([[np.nan, 0.5], [0.5, 0.5]]), ["a", "b"])


def test_clip_scores_average_frames() -> None:
    targets, probabilities, ids = by_group(
        np.array([0, 0, 1, 1]),
        np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.2, 0.8]]),
        np.array([4, 4, 8, 8]),
    )
    assert targets.tolist() == [0, 1] and ids.tolist() == [4, 8]
    assert probabilities == pytest.approx(np.array([[0.6, 0.4], [0.3, 0.7]]))
    odd, _, _ = by_group(np.array([1, 0, 0]), np.full((3, 2), 0.5), np.array([7, 7, 7]))
    assert odd.tolist() == [0]  # what most of its frames are


def test_summary_over_folds() -> None:
    runs = [{"metrics": {"auroc": {"value": v}}} for v in (0.8, 0.9, None)]
    assert summary(runs)["auroc"] == {"mean": pytest.approx(0.85), "sd": pytest.approx(0.0707107), "runs": 2}


def test_large_sample_stays_within_memory_and_agrees() -> None:
    targets, probabilities = sample(20_000, 3, 0)
    drawn = bootstrap(targets, probabilities, np.arange(20_000) // 10, 2, resamples=30, seed=0)
    assert drawn["f1_macro"].shape == (30,)
    f1 = sk.f1_score(targets, probabilities.argmax(1), average="macro")
    assert abs(drawn["f1_macro"].mean() - f1) < 0.01
