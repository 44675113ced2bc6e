"""Comparing models: intervals and the paired test by what they must do, and the whole table on a small corpus."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from openus import console
from openus.errors import UsageError
from tests.tasks.conftest import Ended
from usfmae.tasks.benchmark import own_recipes, parse_model
from usfmae.tasks.classify import ClassificationTask, answers_of
from usfmae.tasks.recipe import load_recipe
from usfmae.tasks.report.table import write_tables
from usfmae.tasks.report.terminal import show_markdown
from usfmae.tasks.scores.bootstrap import group_weights
from usfmae.tasks.scores.classification import point_estimates
from usfmae.tasks.scores.compare import Answers, mean_scores, paired

Cli = Callable[..., Ended]
BASE = load_recipe("finetune-base")
SCRATCH = load_recipe("finetune-scratch")


def fold(seed: int, skill: float, n: int = 120, subject: int = 0) -> Answers:
    """Answers of a two-class model whose log-odds carry `skill`; subject draws the truth, seed the noise."""
    truth = np.random.default_rng([subject, 1]).integers(0, 2, n // 2).repeat(2)
    noise = np.random.default_rng([seed, subject, 2]).normal(size=n)
    odds = skill * (2 * truth - 1) + noise
    p = 1 / (1 + np.exp(-odds))
    keys = [f"{subject}-{i}" for i in range(n)]
    return answers_of(keys, truth, np.stack([1 - p, p], 1), np.arange(n) // 2, 1)


def test_mean_is_over_folds_and_not_of_folds_put_together() -> None:
    """Two folds on different scales: each ranks its own samples, together they would not."""
    a = fold(0, 2.0, subject=1)
    targets, p = a.columns["targets"], 0.05 * a.columns["probabilities"][:, 1]
    low = np.stack([1 - p, p], 1)
    b = answers_of([f"b{k}" for k in a.key], targets, low, a.groups, 1)
    scores = mean_scores([[a, b]], 200)
    expected = [point_estimates(f.columns["targets"], f.columns["probabilities"], 1)["auroc"] for f in (a, b)]
    assert scores["auroc"]["value"] == pytest.approx(np.mean(expected))
    both = [np.concatenate([f.columns[name] for f in (a, b)]) for name in ("targets", "probabilities")]
    assert point_estimates(*both, 1)["auroc"] < scores["auroc"]["value"] - 0.1


def test_more_patients_narrow_the_interval_and_more_runs_of_them_do_not() -> None:
    def width(runs: list[list[Answers]]) -> float:
        score = mean_scores(runs, 400)["accuracy"]
        return score["high"] - score["low"]

    one = width([[fold(0, 1.0)]])
    assert width([[fold(0, 1.0, n=1200)]]) < 0.5 * one
    assert width([[fold(0, 1.0)], [fold(0, 1.0)], [fold(0, 1.0)]]) == pytest.approx(one)


def test_a_model_against_itself() -> None:
    runs = [[fold(0, 1.0), fold(1, 1.0, subject=1)]]
    for score in paired(runs, runs, 200).values():
        assert (score.value, score.low, score.high, score.p) == (0, 0, 0, 1)


def test_order_of_samples_does_not_matter() -> None:
    a, b = fold(0, 1.5), fold(1, 0.5)
    order = np.random.default_rng(0).permutation(len(b.key))
    mixed = b.ordered([b.key[i] for i in order])
    assert paired([[a]], [[b]], 100) == paired([[a]], [[mixed]], 100)
    with pytest.raises(ValueError, match="same test samples"):
        paired([[a]], [[fold(1, 0.5, subject=3)]], 10)


def test_runs_of_a_model_may_list_their_samples_in_any_order() -> None:
    """The draws of patients are those of the first run: another order would weigh other samples."""
    a, b = fold(0, 1.5), fold(1, 0.5)
    mixed = b.ordered([b.key[i] for i in np.random.default_rng(0).permutation(len(b.key))])
    straight, turned = mean_scores([[a], [b]], 100), mean_scores([[a], [mixed]], 100)
    assert all(turned[name] == pytest.approx(score) for name, score in straight.items())
    part = b.take(np.arange(60))
    for one, two in ((a, part), (part, a)):
        with pytest.raises(ValueError, match="same test samples"):
            paired([[one]], [[two]], 10)


def test_the_p_value_is_that_of_exchanging_whole_patients() -> None:
    """Three patients of forty images each, all alike: of the eight ways to exchange them, one leaves the models as
    they are and one turns them round; only these two differ by as much. Image by image it would be a certainty."""
    truth, groups = np.arange(120) % 2, np.arange(120) // 40
    right, wrong = np.eye(2)[truth], np.eye(2)[1 - truth]
    keys = [str(i) for i in range(120)]
    good, bad = (answers_of(keys, truth, found, groups, 1) for found in (right, wrong))
    found = paired([[good]], [[bad]], 2000)["accuracy"]
    assert (found.value, found.low, found.high) == (1, 1, 1) and found.p == pytest.approx(0.25, abs=0.04)
    assert paired([[bad]], [[good]], 2000)["accuracy"].p == found.p  # on either side
    few = paired([[good.take(np.arange(40))]], [[bad.take(np.arange(40))]], 1)["accuracy"].p
    assert few == 1  # never 0, however few the exchanges
    assert min(paired([[fold(0, 3.0)]], [[fold(1, 0.0)]], 9)[name].p for name in ("accuracy", "auroc")) == 0.1


def test_the_interval_draws_patients_and_each_fold_its_own() -> None:
    """Against the bootstrap by hand, the 95 in 100 in the middle."""
    a, b = fold(0, 1.0), fold(1, 0.4)
    c, d = fold(2, 1.0, subject=1), fold(3, 0.4, subject=1)

    def drawn(one: Answers, number: int) -> np.ndarray:
        return one.over(group_weights(one.groups, len(one.key), 300, number))["accuracy"]

    edges = np.percentile((drawn(a, 0) + drawn(c, 1)) / 2, (2.5, 97.5))
    scores = mean_scores([[a, c]], 300)["accuracy"]
    assert (scores["low"], scores["high"]) == pytest.approx(edges)
    edges = np.percentile((drawn(a, 0) - drawn(b, 0) + drawn(c, 1) - drawn(d, 1)) / 2, (2.5, 97.5))
    found = paired([[a, c]], [[b, d]], 300)["accuracy"]
    assert (found.low, found.high) == pytest.approx(edges)


def test_each_fold_is_exchanged_on_its_own() -> None:
    """Two folds of one patient each, exchanged together, would leave or turn both: half of all draws reach as far."""
    truth = np.arange(40) % 2
    runs = [
        [answers_of([f"{k}-{i}" for i in range(40)], truth, found, np.zeros(40, np.int64), 1) for k in "ab"]
        for found in (np.eye(2)[truth], np.eye(2)[1 - truth])
    ]
    assert paired([runs[0]], [runs[1]], 1000)["accuracy"].p == pytest.approx(0.5, abs=0.05)


def test_a_better_model_is_found_and_luck_is_not() -> None:
    """Under the null hypothesis the p-value is spread evenly: about one in ten lies below 0.1."""
    clear = paired([[fold(0, 2.0)]], [[fold(1, 0.3)]], 400)
    for name in ClassificationTask.shown:
        assert clear[name].value > 0.1 and clear[name].low > 0 and clear[name].p < 0.02
    luck = [
        paired([[fold(2 * i, 0.8, subject=i)]], [[fold(2 * i + 1, 0.8, subject=i)]], 99) for i in range(60)
    ]
    below = np.mean([one["auroc"].p <= 0.1 for one in luck])
    assert 0.01 <= below <= 0.25
    held = np.mean([one["auroc"].low <= 0 <= one["auroc"].high for one in luck])
    assert held >= 0.85


def test_a_fold_of_one_class_has_no_auroc_and_the_table_says_so(tmp_path: Path) -> None:
    """Means leave such a fold out; where all are such, a dash stands there."""
    whole, other = fold(0, 1.0), fold(1, 0.5)
    rows = np.flatnonzero(whole.columns["targets"] == 1)
    alone, another = whole.take(rows), other.take(rows)
    scores = mean_scores([[whole, alone]], 50)
    assert scores["auroc"]["value"] == pytest.approx(mean_scores([[whole]], 0)["auroc"]["value"])
    found = paired([[alone]], [[another]], 50)
    assert found["auroc"].value is None and found["accuracy"].value is not None
    over = {
        name: {"mean": score["value"], "sd": None, "runs": 1}
        for name, score in mean_scores([[alone]], 0).items()
    }
    cell = {
        "scores": mean_scores([[alone]], 50), "over_runs": over, "folds": 1, "seeds": 1, "runs": 1,
        "runs_with_leaks": 1, "without_leaks": over,
    }  # fmt: skip
    difference = {name: vars(value) for name, value in found.items()}
    facts = {"title": "t", "published": {}, "protocol": "p", "shown": list(ClassificationTask.shown)}
    result = {
        "models": ["a", "b_1"], "benchmarks": {"x": facts}, "failed": [],
        "cells": {"a": {"x": cell}, "b_1": {"x": cell | {"reference_minus_this": difference}}},
    }  # fmt: skip
    write_tables(tmp_path, result)
    text = (tmp_path / "table.md").read_text()
    assert (
        "| – |" in text and "without leaked test samples" in text and "Some test samples also stand" in text
    )
    assert r"b\_1 & " in (tmp_path / "table.tex").read_text() and json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("word", "name", "scratch"),
    [
        ("timm:resnet50", "resnet50-scratch", True),
        ("timm:resnet50+pretrained", "resnet50", False),
        ("r=timm:resnet50", "r", True),
        ("scratch:small", "vit-small-scratch", True),
        ("scratch:small/8", "vit-small-p8-scratch", True),
    ],
)
def test_models_by_word(word: str, name: str, scratch: bool) -> None:
    entry = parse_model(word, BASE, SCRATCH)
    assert entry.name == name and entry.recipe is (SCRATCH if scratch else BASE)


def test_a_recipe_for_one_model(recipe_file: Path) -> None:
    entries = [parse_model(word, BASE, SCRATCH) for word in ("a=timm:resnet18", "b=timm:resnet50")]
    one, other = own_recipes(entries, [f"b={recipe_file}"], ["epochs=3"])
    assert one.recipe is SCRATCH and (other.recipe.size, other.recipe.epochs) == (48, 3)
    with pytest.raises(UsageError, match=r"--recipe-of c: no such model.*known: a, b"):
        own_recipes(entries, ["c=finetune-base"], [])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("timm:resnet50+pretraned", "did you mean 'pretrained'"),
        ("nowhere/run", "no such file or folder 'nowhere/run'"),
        ("a b=timm:resnet50", "letters, digits"),
    ],
)
def test_models_by_wrong_word(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_model(word, BASE, SCRATCH)


@pytest.fixture(scope="module")
def words(corpus: Path, weights: Path, recipe_file: Path) -> list[str]:
    """The arguments of a small comparison, but for where it goes."""
    recipes = [
        "-r",
        recipe_file,
        "--scratch-recipe",
        recipe_file,
        "--set",
        "epochs=3",
        "--set",
        "drop_path=0",
    ]
    models = ["-m", f"ours={weights}", "-m", "timm:test_resnet"]
    rest = ["-b", "bus-bra", "--seeds", 2, "--fold", 1, "--fold", 2, "--device", "cpu"]
    return [str(word) for word in ("benchmark", corpus, *models, *recipes, *rest)]


@pytest.fixture(scope="module")
def table(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole comparison."""
    out = tmp_path_factory.mktemp("table") / "out"
    command = [sys.executable, "-m", "usfmae.cli", *words, "-o", str(out)]
    end = subprocess.run(command, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr
    assert "8 runs, 8 to do" in end.stderr and "[8/8]" in end.stderr and " left)" in end.stderr
    return out


def test_the_table(usfmae: Cli, words: list[str], table: Path, tmp_path: Path) -> None:
    end = usfmae(*words, "-o", tmp_path / "plan", "--plan")
    assert end.returncode == 0 and end.stdout.startswith("8 runs, ") and not (tmp_path / "plan").exists()
    assert [line.split(":")[0] for line in end.stdout.splitlines()[1:]] == ["  ours", "  test_resnet-scratch"]
    shutil.copytree(table, tmp_path, dirs_exist_ok=True)
    result = json.loads((tmp_path / "results.json").read_text())
    cell = result["cells"]["ours"]["bus-bra"]
    assert cell["runs"] == 4 and cell["folds"] == 2 and cell["seeds"] == 2
    values = [
        json.loads((tmp_path / f"runs/bus-bra/ours/seed{s}/fold{f}/metrics.json").read_text())["metrics"][
            "auroc"
        ]["value"]
        for s in (0, 1)
        for f in (1, 2)
    ]
    assert cell["over_runs"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert cell["scores"]["auroc"]["value"] == pytest.approx(np.mean(values))
    other = result["cells"]["test_resnet-scratch"]["bus-bra"]
    difference = other["reference_minus_this"]["f1_weighted"]
    assert difference["value"] == pytest.approx(
        cell["over_runs"]["f1_weighted"]["mean"] - other["over_runs"]["f1_weighted"]["mean"]
    )
    text = (tmp_path / "table.md").read_text()
    assert text.count("| 81.6 |") == 2 and "published" in text and "reference" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["model"] for row in rows} == {"ours", "test_resnet-scratch"} and len(rows) == 24
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"

    # The same again runs nothing; a lost run is made up.
    again = usfmae(*words, "-o", tmp_path)
    assert "8 runs, all of them done" in again.stderr
    shutil.rmtree(tmp_path / "runs/bus-bra/ours/seed1/fold2")
    assert "8 runs, 1 to do" in usfmae(*words, "-o", tmp_path).stderr
    assert (
        json.loads((tmp_path / "results.json").read_text())["cells"]["ours"]["bus-bra"]["scores"]
        == cell["scores"]
    )


def test_runs_side_by_side_give_the_same(usfmae: Cli, words: list[str], table: Path, tmp_path: Path) -> None:
    """Each in a process of its own, and not one digit differs."""
    end = usfmae(*words, "-o", tmp_path, "--jobs", 2)
    assert end.returncode == 0, end.stderr
    assert "[8/8]" in end.stderr
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (table, tmp_path))
    for model in one["models"]:
        cells = [result["cells"][model]["bus-bra"] for result in (one, two)]
        assert cells[0]["over_runs"] == cells[1]["over_runs"] and cells[0]["scores"] == cells[1]["scores"]


def test_a_killed_comparison_goes_on(usfmae: Cli, words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "usfmae.cli", *words, "-o", str(tmp_path), "-q"]
    process = subprocess.Popen(command)
    first = tmp_path / "runs/bus-bra/ours/seed0/fold1/metrics.json"
    deadline = time.monotonic() + 90
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists() and not (tmp_path / "results.json").exists()
    before = first.stat().st_mtime_ns
    end = usfmae(*words, "-o", tmp_path)
    assert end.returncode == 0 and (tmp_path / "table.md").exists() and first.stat().st_mtime_ns == before


def test_runs_side_by_side_end_with_a_command_that_is_killed(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "usfmae.cli", *words, "--set", "epochs=10000", "-o", str(tmp_path), "-q"]
    process = subprocess.Popen([*command, "--jobs", "2"], start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("state.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
    left = True
    while left and time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        except ProcessLookupError:
            left = False
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    assert not left


@pytest.mark.long
def test_ctrl_c_stops_runs_side_by_side_at_once(words: list[str], tmp_path: Path) -> None:
    """Also those that wait; one line says how to go on."""
    command = [sys.executable, "-m", "usfmae.cli", *words, "--set", "epochs=10000", "-o", str(tmp_path), "-q"]
    process = subprocess.Popen(
        [*command, "--jobs", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("state.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.strip().endswith(
        "interrupted; run the same command again to go on"
    )


def test_weights_that_know_the_test_images_are_named_below_the_table(
    usfmae: Cli, corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path
) -> None:
    knowing = tmp_path / "knowing"
    shutil.copytree(weights, knowing)
    config = json.loads((knowing / "config.json").read_text()) | {"seen": {"bus-bra": ["fold1"]}}
    (knowing / "config.json").write_text(json.dumps(config))
    words = ["-m", knowing, "-m", f"other={weights}", "-b", "bus-bra", "--fold", 1, "-r", recipe_file, "-q"]
    end = usfmae("benchmark", corpus, *words, "--set", "epochs=1", "-o", tmp_path / "t")
    assert end.returncode == 0, end.stderr
    text = (tmp_path / "t" / "table.md").read_text()
    assert "- **knowing**: the weights" in text and "trained on fold1 of bus-bra" in text
    assert "**other**" not in text and "trained on fold1" in end.stdout


def test_a_failed_run_is_named_and_the_rest_is_told(
    usfmae: Cli, corpus: Path, weights: Path, recipe_file: Path, tmp_path: Path
) -> None:
    """A network that cannot be built for this size; the others make the table all the same."""
    words = [
        "-m",
        f"ours={weights}",
        "-m",
        "timm:test_resnet",
        "-b",
        "bus-bra",
        "--fold",
        1,
        "-r",
        recipe_file,
    ]
    words += ["--scratch-recipe", "finetune-demo", "--set", "epochs=1", "--set", "size=48", "--device", "cpu"]
    place = tmp_path / "runs/bus-bra/test_resnet-scratch/seed0/fold1"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps({"fingerprint": "of another run"}))
    end = usfmae("benchmark", corpus, *words, "-o", tmp_path)
    assert end.returncode == 1 and "holds the result of other settings" in end.stderr
    assert "| test_resnet-scratch | failed |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["cells"]["ours"]["bus-bra"]["runs"] == 1


def test_wrong_use(usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path) -> None:
    end = usfmae("benchmark", corpus, "-m", weights, "-m", weights, "-b", "bus-bra", "-o", tmp_path)
    assert end.returncode == 2 and "two models are called 'checkpoint'; give them names" in end.stderr


def test_a_wide_table_is_folded_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr(console, "out", narrow)
    name = "vit-tiny-p8-scratch"
    rows = [["model", *["F1 weighted (%)"] * 4], ["---", *["---:"] * 4], [name, *["52.1 [22.6, 77.9]"] * 4]]
    show_markdown("## A set\n\n" + "\n".join(f"|{' | '.join(row)}|" for row in rows) + "\n\nWhat it means.")
    lines = narrow.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "A set" and lines[-1] == "What it means." and "|" not in "".join(lines)
    assert max(map(len, lines)) <= 60 and any(line.startswith(f"{name} ") for line in lines)
