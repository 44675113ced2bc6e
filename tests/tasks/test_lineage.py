"""From pretraining on the training folds of a benchmark over its outlines to its classes, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openus.errors import CorpusError
from tests.tasks.conftest import Ended
from usfmae.stream.index import open_index
from usfmae.stream.mixture import make_plan
from usfmae.tasks.finetune import finetune
from usfmae.tasks.lineage import seen_by
from usfmae.tasks.models import Start
from usfmae.tasks.probe import probe
from usfmae.tasks.recipe import load_recipe

Cli = Callable[..., Ended]
TRAINING = ["fold2", "fold3", "fold4", "fold5"]


def test_further_sets_give_only_the_splits_that_are_named(corpus: Path) -> None:
    index = open_index(corpus, "pretrain", also={"bus-bra": TRAINING})
    rows = index.table.take(index.rows).to_pylist()
    assert {row["split"] for row in rows if row["set"] == "bus-bra"} == set(TRAINING)
    assert sum(row["set"] == "pretrain" for row in rows) == 24 and len(rows) == 24 + 96
    plan = make_plan(index, seed=1)
    drawn, _ = plan.draw(0, np.arange(plan.count))
    assert sorted(drawn) == index.rows.tolist()
    assert index.read(int(index.rows[-1]))
    with pytest.raises(CorpusError, match="no sample has the split 'fold9'; its splits: fold1, fold2"):
        open_index(corpus, also={"bus-bra": ["fold9"]})
    with pytest.raises(CorpusError, match="no set 'bus-bar'"):
        open_index(corpus, also={"bus-bar": ["fold1"]})


def test_pretrained_on_training_folds_then_outlines_then_classes(
    usfmae: Cli, corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    also = f"data.also={{bus-bra: [{', '.join(TRAINING)}]}}"
    small = ["model.img_size=48", "model.patch_size=16", "training.epochs=1", "report.pictures=2"]
    sets = [word for change in (also, *small) for word in ("--set", change)]
    done = usfmae("pretrain", corpus, "--recipe", "demo", "--out", tmp_path / "pre-fold1", "--quiet", *sets)
    assert done.returncode == 0, done.stderr

    changes = ["epochs=1", "precision=fp32"]
    lesion = finetune(
        corpus, "bus-bra-lesion", Start(weights=str(tmp_path / "pre-{fold}")), load_recipe(recipe_file, changes),
        tmp_path / "lesion-fold1", folds=[1], quiet=True,
    )  # fmt: skip
    assert not any("trained on" in note for note in lesion["notes"])
    start = Start(weights=str(tmp_path / "lesion-{fold}"))
    classes = finetune(
        corpus, "bus-bra", start, load_recipe(recipe_file, changes), tmp_path / "fold1", folds=[1], quiet=True
    )
    assert not any("trained on" in note for note in classes["notes"])
    assert seen_by(start.of_fold("fold1")) == {"bus-bra": TRAINING}
    config = json.loads((tmp_path / "fold1" / "config.json").read_text())
    assert config["seen"] == {"bus-bra": TRAINING}

    known = finetune(
        corpus, "bus-bra", start.of_fold("fold1"), load_recipe(recipe_file, changes), tmp_path / "fold2", folds=[2],
        quiet=True,
    )  # fmt: skip
    assert any("trained on fold2 of bus-bra, which is tested here" in note for note in known["notes"])

    # A probe learns nothing of the encoder's, and is told the same.
    for fold, weights in ((1, "pre-{fold}"), (2, "pre-fold1")):
        result = probe(
            corpus, "bus-bra", Start(weights=str(tmp_path / weights)), tmp_path / f"probe{fold}", folds=[fold],
            heads=["knn"], size=48, quiet=True,
        )  # fmt: skip
        assert any("trained on fold2 of bus-bra" in note for note in result["notes"]) == (fold == 2)


def test_without_a_recipe_images_have_the_size_of_the_weights(
    usfmae: Cli, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    words = [
        "finetune",
        corpus,
        "-b",
        "bus-bra",
        "--weights",
        weights,
        "--fold",
        1,
        "--set",
        "epochs=1",
        "--quiet",
    ]
    assert usfmae(*words, "--out", tmp_path / "own").returncode == 0
    assert json.loads((tmp_path / "own" / "metrics.json").read_text())["recipe"]["size"] == 48
    assert usfmae(*words, "--out", tmp_path / "set", "--set", "size=32").returncode == 0
    assert json.loads((tmp_path / "set" / "metrics.json").read_text())["recipe"]["size"] == 32
