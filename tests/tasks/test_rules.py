"""The rules of fine-tuning by hand: weights of classes, losses, learning rates, averages, the epoch that is kept, and
what is fitted on the validation part and never on the test part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openus.errors import UsageError
from usfmae.tasks import probe
from usfmae.tasks.classify import (
    ClassificationObjective,
    ClassificationTask,
    class_weights,
    probabilities_of,
)
from usfmae.tasks.data.labelled import LabelledSet, find_benchmark, load_labelled
from usfmae.tasks.data.splits import Split
from usfmae.tasks.multilabel import MultilabelObjective
from usfmae.tasks.network.base import Network
from usfmae.tasks.network.build import build
from usfmae.tasks.network.calibration import Calibration, fit_calibration
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import FinetuneRecipe
from usfmae.tasks.segment import SegmentationObjective, SegmentationTask
from usfmae.tasks.task import Run
from usfmae.tasks.training.augment import draw
from usfmae.tasks.training.heads import attentive, knn, linear
from usfmae.tasks.training.loop import (
    Fit,
    Samples,
    _better,
    _load_state,
    _save_state,
    _step,
    fit,
    predict_batches,
)
from usfmae.tasks.training.optim import Average, make_optimizer, rate, set_rate

PLAIN = FinetuneRecipe(precision="fp32", resamples=20)


@pytest.fixture(scope="module")
def labelled(corpus: Path) -> LabelledSet:
    return load_labelled(corpus, find_benchmark("bus-bra"), size=16)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1, 1, 1]),
        ("balanced", [5 / 8, 5 / 2, 1]),
        ("sqrt", [5 / (4 + 2), 5 * 2 / (4 + 2), 1]),
    ],
)
def test_weights_of_classes(how: str, expected: list[float]) -> None:
    """Four samples of one class, one of another, none of a third."""
    found = class_weights(np.array([0, 0, 0, 0, 1]), 3, how)
    assert found.tolist() == pytest.approx(expected)
    assert (found[0] * 4 + found[1]).item() == pytest.approx(5)


def test_focal_loss_by_hand() -> None:
    recipe = replace(PLAIN, loss="focal", focal_gamma=2.0)
    objective = ClassificationObjective(np.array([0, 0, 1]), 2, recipe, 1)
    sure = np.array([0.9, 0.6])
    outputs = torch.tensor([[math.log(0.9), math.log(0.1)], [math.log(0.4), math.log(0.6)]])
    weights = np.array([0.75, 1.5])
    expected = ((1 - sure) ** 2 * -np.log(sure) * weights).sum() / weights.sum()
    assert objective.loss(outputs, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-5)


def test_the_rarer_answer_of_a_label_weighs_more() -> None:
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    assert MultilabelObjective(targets, PLAIN).weights.tolist() == pytest.approx([3, 1 / 3])


def test_a_perfect_mask_costs_nothing() -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.uint8)
    truth[:, 2:6, 2:6] = 1
    sure = 50 * (2 * F.one_hot(truth.long(), 2).movedim(-1, 1).float() - 1)
    assert SegmentationObjective(1).loss(sure, truth).item() == pytest.approx(0, abs=1e-6)


def test_learning_rate_rises_then_falls() -> None:
    recipe = replace(PLAIN, lr=1.0, min_lr=0.1, epochs=10, warmup_epochs=2.0)
    found = [rate(recipe, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert found == pytest.approx([0, 0.5, 1, 0.55, 0.1])


def test_layers_near_the_input_learn_more_slowly(weights: Path) -> None:
    """Three blocks under a head: each layer has the rate of the one above times the decay."""
    recipe = replace(PLAIN, lr=1.0, layer_decay=0.5, weight_decay=0.05)
    body = build(Start(weights=str(weights)), outputs=2, size=48).body
    optimizer = make_optimizer(body, recipe)
    set_rate(optimizer, 0.1)
    names = {id(parameter): name for name, parameter in body.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == set(names.values())
    expected = {"head": 1.0, "blocks.2": 0.5, "blocks.1": 0.25, "blocks.0": 0.125, "patch_embed": 0.0625}
    for name, scale in expected.items():
        rates = {round(group["lr"], 9) for key, group in groups.items() if key.startswith(name)}
        assert rates == {round(0.1 * scale, 9)}, name
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays["blocks.0.attn.qkv.weight"] == 0.05
    assert {decays[name] for name in decays if name.endswith("bias") or "norm" in name} == {0.0}
    assert decays["cls_token"] == 0.0


def test_the_average_by_hand_and_given_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Average(model, 0.5)
    expected = 0.0
    for step in range(1, 12):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.state["weight"].item() == pytest.approx(expected)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 11


def test_the_better_epoch() -> None:
    best = {"auroc": 0.9, "loss": -0.5}
    assert _better({"auroc": 0.91, "loss": -0.9}, best, "auroc")
    assert not _better({"auroc": 0.89, "loss": -0.1}, best, "auroc")
    assert _better({"auroc": 0.9, "loss": -0.4}, best, "auroc")
    assert not _better({"auroc": 0.9, "loss": -0.5}, best, "auroc")


class Offset(nn.Module):
    """Adds one number to the mean of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))
        self.trained: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.trained.append(self.training)
        return images.mean((1, 2, 3))[:, None] + self.number


class Climb:
    """A loss that pushes the number up for ever, and a score that is best where it has `peak` behind it."""

    monitor = "score"

    def __init__(self, peak: float) -> None:
        self.peak, self.seen = peak, []

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.mean()

    def score(self, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        value = float(torch.cat([outputs for outputs, _ in batches]).mean())
        self.seen.append(value)
        return {"score": -abs(value - self.peak), "loss": 0.0}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_of_the_best_epoch_are_kept_whatever_comes_after(ema: float, tmp_path: Path) -> None:
    """With an average of the weights, it is the average that is scored and kept. Images are black: the mean is 0."""
    recipe = replace(
        PLAIN, epochs=12, batch_size=4, lr=0.1, warmup_epochs=0.0, weight_decay=0.0, ema=ema, patience=3,
        clip_norm=None, layer_decay=1.0,
    )  # fmt: skip
    samples = Samples(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.zeros(8))
    network = Network(Offset(), {"family": "encoder"}, [0.0], [1.0])
    objective = Climb(0.45)
    run = fit(network, samples, samples, objective, recipe, seed=0, folder=tmp_path, fingerprint="x")
    assert 0 < run.best_epoch < run.epoch and run.epoch == run.best_epoch + 3
    epochs = len(objective.seen)
    assert network.body.trained == [True, True, False] * epochs  # dropout is for training alone
    closest = min(range(len(objective.seen)), key=lambda epoch: abs(objective.seen[epoch] - 0.45))
    assert run.best_epoch == closest
    assert network.body.number.item() == pytest.approx(objective.seen[closest], abs=1e-6)


def test_mixup_shares_the_loss_as_it_shares_the_images() -> None:
    """Each image is one grey level that the network hands on; the loss is the squared distance from the target."""
    given = []

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            given.append(images[:, 0, 0, 0].tolist())
            return images[:, 0, 0, 0] + self.zero

    class Distance:
        monitor = "loss"

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs - targets) ** 2).mean()

        def score(self, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
            return {}

    network, levels = Same(), torch.tensor([0.0, 1.0, 4.0, 9.0])
    images = levels.view(4, 1, 1, 1)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        recipe = replace(PLAIN, mixup=0.4)
        loss = _step(network, images, levels, Distance(), recipe, optimizer, generator).item()
        again = torch.Generator().manual_seed(seed)
        drawn = int(torch.randint(2**62, (1,), generator=again))
        share = float(np.random.default_rng(drawn).beta(0.4, 0.4))
        partner = levels[torch.randperm(4, generator=again)]
        mixed = share * levels + (1 - share) * partner
        assert given[-1] == pytest.approx(mixed.tolist(), abs=1e-5)
        expected = share * (mixed - levels) ** 2 + (1 - share) * (mixed - partner) ** 2
        assert loss == pytest.approx(expected.mean().item(), rel=1e-4)


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides(tmp_path: Path) -> None:
    class Order(Climb):
        def __init__(self) -> None:
            super().__init__(0.0)
            self.orders: list[tuple[float, ...]] = []

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.orders.append(tuple(targets.tolist()))
            return outputs.mean()

    samples = Samples(torch.zeros(16, 1, 4, 4, dtype=torch.uint8), torch.arange(16.0))
    recipe = replace(PLAIN, epochs=3, batch_size=16, layer_decay=1.0)

    def orders(seed: int) -> list[tuple[float, ...]]:
        network, objective = Network(Offset(), {"family": "encoder"}, [0.0], [1.0]), Order()
        fit(network, samples, samples, objective, recipe, seed=seed, folder=tmp_path, fingerprint="x")
        return objective.orders

    first = orders(0)
    assert len(set(first)) == 3 and all(sorted(order) == list(range(16)) for order in first)
    assert orders(0) == first and not set(orders(1)) & set(first)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    network = Network(Offset(), {"family": "encoder"}, [0.0], [1.0])
    optimizer, path = make_optimizer(network.body, replace(PLAIN, layer_decay=1.0)), tmp_path / "state.pt"
    _save_state(path, "one", network, optimizer, None, Fit(epoch=3))
    found = _load_state(path, "one", network, optimizer, None, torch.device("cpu"))
    assert found is not None and found.epoch == 3
    with pytest.raises(UsageError, match="an interrupted run of other settings, data or code"):
        _load_state(path, "two", network, optimizer, None, torch.device("cpu"))


@pytest.mark.parametrize(("norm", "moved"), [(0.5, 0.5), (None, 1000.0)])
def test_a_step_is_no_longer_than_its_clip(norm: float | None, moved: float) -> None:
    body = Offset()
    network = Network(body, {"family": "encoder"}, [0.0], [1.0])
    optimizer = torch.optim.SGD(body.parameters(), lr=1.0)

    class Steep(Climb):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return -1000 * outputs.mean()

    recipe, black = replace(PLAIN, clip_norm=norm), torch.zeros(2, 1, 4, 4)
    _step(network, black, torch.zeros(2), Steep(0.0), recipe, optimizer, torch.Generator())
    assert body.number.item() == pytest.approx(moved, rel=1e-4)


def test_the_mirrored_map_is_mirrored_back_and_nothing_is_dropped() -> None:
    class Place(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, images: Tensor) -> Tensor:
            return self.drop(images)

    samples = Samples((torch.arange(32).view(2, 1, 4, 4) * 8).to(torch.uint8), torch.zeros(2))
    network = Network(Place(), {"family": "encoder"}, [0.0], [1.0])
    network.train()
    [(outputs, _)] = predict_batches(network, samples, 8, "fp32", flip=True)
    expected = samples.images.float() / 255
    assert torch.equal(outputs[0], expected) and torch.equal(outputs[1], expected)


# What a test part is judged by must not come from it.


def fake_run(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Run:
    return lambda part: iter([(logits[part], targets[part])])


def test_calibration_is_fitted_on_the_validation_part(labelled: LabelledSet) -> None:
    task = ClassificationTask(labelled, PLAIN)
    rows = np.arange(len(labelled))
    split = Split("fold1", rows[:40], rows[40:80], rows[80:])
    rng = torch.Generator().manual_seed(0)
    targets = {part: torch.from_numpy(labelled.targets[getattr(split, part)]) for part in ("val", "test")}
    spread = {"val": 3.0, "test": 0.1}
    logits = {
        part: spread[part] * torch.randn(len(y), len(labelled.classes), generator=rng)
        for part, y in targets.items()
    }
    outcome = task.evaluate(fake_run(logits, targets), split)
    fitted = fit_calibration(logits["val"], targets["val"], "vector")
    assert task.facts()["calibration"] == fitted.to_json()
    assert fitted.to_json() != fit_calibration(logits["test"], targets["test"], "vector").to_json()
    expected = probabilities_of(logits["test"], fitted)
    names = [f"p_{name}" for name in labelled.classes]
    assert np.stack([outcome.columns["test"][name] for name in names], 1) == pytest.approx(expected)


def test_probabilities_of_an_image_and_its_mirror_image_are_averaged() -> None:
    pair = torch.tensor([[[0.0, 0.0]], [[0.0, math.log(3)]]])
    assert probabilities_of(pair, Calibration()) == pytest.approx(np.array([[0.375, 0.625]]))
    assert probabilities_of(2 * pair, Calibration(2.0)) == pytest.approx(np.array([[0.375, 0.625]]))


def test_scores_without_leaks_leave_out_the_samples_that_leak(labelled: LabelledSet) -> None:
    """The network is right on all that leak and wrong on all others."""
    task, rows = ClassificationTask(labelled, PLAIN), np.arange(40)
    leaked = np.arange(40) < 12
    said = np.where(leaked, labelled.targets[rows], 1 - labelled.targets[rows])
    result = task.report(rows, np.eye(2)[said] * 0.8 + 0.1, leaked)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(12 / 40)
    assert result["without_leaks"]["n"] == 28
    assert result["without_leaks"]["metrics"]["accuracy"]["value"] == 0


def test_a_clip_belongs_to_its_own_patient_in_the_bootstrap(labelled: LabelledSet) -> None:
    """Clips of one patient come from both ends of the names, so that no order of clips hides a mix-up."""
    clips = tuple("adbc"[i % 4] for i in range(len(labelled)))
    patients = tuple({"a": "one", "d": "one", "b": "two", "c": "three"}[clip] for clip in clips)
    nothing = ("",) * len(clips)
    identity = replace(labelled.identity, clip=clips, patient=patients, cluster=nothing, pixels=nothing)
    task = ClassificationTask(replace(labelled, identity=identity), PLAIN)
    seen = []
    task._scored = lambda targets, found, groups: seen.append(groups.tolist()) or {}  # type: ignore[method-assign]
    rows = np.arange(len(clips))
    task.report(rows, np.full((len(clips), 2), 0.5), np.zeros(len(clips), bool))
    expected = [seen[0][clips.index(clip)] for clip in "abcd"]  # in the order of their names
    assert seen[1] == expected != expected[::-1]


def test_an_epoch_is_not_chosen_by_a_score_of_one_class(labelled: LabelledSet) -> None:
    task = ClassificationTask(labelled, PLAIN)
    rows, alone = np.arange(len(labelled)), np.flatnonzero(labelled.targets == 0)
    assert task.objective(rows, rows).monitor == "auroc" and task.objective(rows, alone).monitor == "loss"


@pytest.mark.parametrize("head", ["knn", "linear", "attentive"])
def test_a_probe_chooses_by_the_validation_part_and_never_sees_the_labels_of_the_test_part(
    head: str, labelled: LabelledSet
) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(labelled), 8)).astype(np.float32)
    tokens = torch.from_numpy(features)[:, None]
    split = Split("fold1", np.arange(60), np.arange(60, 90), np.arange(90, 120))

    def judged(data: LabelledSet) -> dict:
        return probe.run_head(probe.Frozen(data, features, tokens), head, 1.0, 0, split, 10)

    other = labelled.targets.copy()
    other[split.test] = 1 - other[split.test]
    a, b = judged(labelled), judged(replace(labelled, targets=other))
    assert a["choice"] == b["choice"] and np.array_equal(a["probabilities"], b["probabilities"])


@pytest.mark.parametrize(("head", "blank"), [(knn, 0), (linear, 90)])
def test_the_choice_of_a_probe_is_the_one_with_the_lowest_validation_loss(
    head: Callable[..., tuple[np.ndarray, dict]], blank: int
) -> None:
    """Labels of which a third are wrong, features (`blank` of them) that tell nothing, and honest labels to choose
    by: one neighbour is worst, and so is no restraint."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 240)
    features = (rng.normal(size=(240, 6 + blank)) + 1.2 * truth[:, None] * (np.arange(6 + blank) < 6)).astype(
        np.float32
    )
    noisy = np.where(rng.random(240) < 0.35, 1 - truth, truth)
    train, val = slice(0, 160), slice(160, 240)
    found, choice = head(features[train], noisy[train], features[val], truth[val], features[val], 2)
    loss = -np.log(found[np.arange(80), truth[val]]).mean()
    assert loss < 0.69 and choice.get("k", 5) > 1 and choice.get("C", 0) < 0.1


def test_what_a_probe_says_of_an_image_does_not_depend_on_the_other_test_images() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    features = (rng.normal(size=(60, 4)) + y[:, None]).astype(np.float32)
    train, val, test = slice(0, 30), slice(30, 45), slice(45, 60)
    for head in (knn, linear):
        whole, alone = (
            head(features[train], y[train], features[val], y[val], part, 2)[0]
            for part in (features[test], features[test][:1])
        )
        assert whole[:1] == pytest.approx(alone)


def test_a_share_of_the_labels_is_of_whole_patients(
    labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the images of every patient would know all patients: no curve of fewer labels."""
    taken: list[np.ndarray] = []

    def see(x: np.ndarray, *rest: Any) -> tuple[np.ndarray, dict]:
        taken.append(x[:, 0].astype(int))
        return np.full((len(rest[3]), 2), 0.5), {}

    monkeypatch.setattr(probe, "knn", see)
    rows = np.arange(len(labelled))
    frozen = probe.Frozen(labelled, rows[:, None].astype(np.float32), None)
    probe.run_head(frozen, "knn", 0.5, 0, Split("fold1", rows[:80], rows[80:100], rows[100:]), 10)
    groups = labelled.groups()
    out = set(range(80)) - set(taken[0].tolist())
    assert 20 < len(out) < 60 and set(groups[taken[0]].tolist()).isdisjoint(groups[list(out)].tolist())


def test_masks_without_leaks_leave_out_the_samples_that_leak(corpus: Path) -> None:
    """The last test image is of a patient of the training part; its mask alone is found."""
    data = load_labelled(corpus, find_benchmark("bus-bra-lesion"), size=16)
    n = len(data)
    patients = tuple("known" if i in (0, n - 1) else f"p{i}" for i in range(n))
    nothing = ("",) * n
    identity = replace(data.identity, patient=patients, clip=nothing, cluster=nothing, pixels=nothing)
    targets = data.targets.copy()
    targets[:, 4:9, 4:9] = 1
    task = SegmentationTask(replace(data, identity=identity, targets=targets), PLAIN)
    split = Split("fold1", np.arange(n - 6), np.arange(n - 6, n - 3), np.arange(n - 3, n))
    rows = {"val": split.val, "test": split.test}

    def run(part: str) -> Iterator[tuple[Tensor, Tensor]]:
        truth = torch.from_numpy(targets[rows[part]])
        said = torch.where((torch.from_numpy(rows[part]) == n - 1)[:, None, None], truth, 0)
        right = F.one_hot(said.long(), 2).movedim(-1, 1).float()
        yield (
            torch.stack([0.1 * (1 - right), 50 * right]),
            truth,
        )  # the mirror image is sure, the image hardly wrong

    result = task.evaluate(run, split).result
    assert result["metrics"]["dice"]["value"] == pytest.approx(1 / 3)
    assert result["without_leaks"]["n"] == 2 and result["without_leaks"]["metrics"]["dice"]["value"] == 0


def test_the_attentive_head_keeps_its_best_epoch() -> None:
    """Validation labels that are the opposite of the training's: every epoch makes it worse, so the first is kept."""
    tokens = torch.randn(64, 2, 8, generator=torch.Generator().manual_seed(0))
    labels = (tokens[:, 0, 0] > 0).long().numpy()
    rows = np.arange(64)
    _, choice = attentive(tokens, rows, labels, rows, 1 - labels, rows, 2, epochs=4, batch=16, lr=1e-2)
    assert choice == {"epoch": 1}


def test_masks_move_with_their_images_in_training(tmp_path: Path) -> None:
    """The picture is its mask: wherever a change puts the picture, the target must lie there too."""
    targets = torch.zeros(8, 24, 24, dtype=torch.uint8)
    for i in range(8):
        targets[i, 4 + i : 12 + i, 3:10] = 1
    samples = Samples(targets[:, None] * 255, targets)
    apart = []

    class Compare(Climb):
        def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
            apart.append(((outputs[:, 0].detach() > 0.5) != (wanted > 0)).float().mean().item())
            return outputs.mean()

    class Show(Offset):
        def forward(self, images: Tensor) -> Tensor:
            return images + 0 * self.number

    recipe = replace(PLAIN, epochs=1, batch_size=8, warmup_epochs=0.0, layer_decay=1.0)
    assert draw(8, recipe.augment, torch.Generator()).place is not None
    network = Network(Show(), {"family": "encoder"}, [0.0], [1.0])
    fit(network, samples, samples, Compare(0.0), recipe, seed=0, folder=tmp_path, fingerprint="x")
    assert apart and max(apart) < 0.03
