"""From pretraining on the training folds of a benchmark over its outlines to its classes, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from openus.errors import CorpusError
from tests.tasks.conftest import Ended
from usfmae.stream.index import open_index
from usfmae.stream.mixture import make_plan
from usfmae.tasks.data.splits import Split
from usfmae.tasks.finetune import finetune
from usfmae.tasks.network.build import build
from usfmae.tasks.network.lineage import learned, seen_by, seen_notes
from usfmae.tasks.network.start import Start
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
    usfmae: Cli, corpus: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    also = f"data.also={{bus-bra: [{', '.join(TRAINING)}]}}"
    small = ["model.img_size=48", "model.patch_size=16", "training.epochs=1", "report.pictures=2"]
    sets = [word for change in (also, *small) for word in ("--set", change)]
    done = usfmae("pretrain", corpus, "--recipe", "demo", "--out", tmp_path / "pre-fold1", "--quiet", *sets)
    assert done.returncode == 0, done.stderr

    # Without --size images have the size of the run's.
    done = usfmae(
        "embed", corpus, "-w", tmp_path / "pre-fold1", "-o", tmp_path / "f.parquet", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    said = pq.read_schema(tmp_path / "f.parquet").metadata[b"usfmae.embed"]
    assert json.loads(said)["size"] == 48
    sizes = []
    monkeypatch.setattr("usfmae.tasks.show.build", lambda *a, **k: sizes.append(k["size"]) or build(*a, **k))
    done = usfmae("show", tmp_path / "pre-fold1", corpus, "-o", tmp_path / "page", "--count", 2, "-q")
    assert done.returncode == 0 and sizes == [48]

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
    assert seen_by(start.of_fold("fold1")) == {"bus-bra": TRAINING, "pretrain": ["*"]}
    config = json.loads((tmp_path / "fold1" / "config.json").read_text())
    assert config["seen"] == {"bus-bra": TRAINING, "pretrain": ["*"]}

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


def with_config(folder: Path, config: dict[str, Any]) -> Start:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return Start(weights=str(folder))


def test_weights_pretrained_on_the_whole_benchmark_are_told_of(tmp_path: Path) -> None:
    """`--set data.set=bus-bra` takes the test folds in as well."""
    data: Any = SimpleNamespace(benchmark=SimpleNamespace(set="bus-bra"), published=("fold1", "fold2"))
    split = Split("fold1", np.array([1]), np.array([1]), np.array([0]))
    start = with_config(tmp_path / "all", {"recipe": {"data": {"set": "bus-bra", "also": {}}}})
    (note,) = seen_notes(start, data, split)
    assert "trained on all of bus-bra" in note and "known images" in note
    start = with_config(
        tmp_path / "rest", {"recipe": {"data": {"set": "pretrain", "also": {"bus-bra": ["fold2"]}}}}
    )
    assert seen_notes(start, data, split) == []


def test_splits_that_nobody_published_cannot_be_told_apart(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(benchmark=SimpleNamespace(set="lung"), published=("", ""))
    split = Split("fold1", np.array([1]), np.array([1]), np.array([0]))
    start = with_config(tmp_path / "tuned", {"seen": learned(data, split.train)})
    (note,) = seen_notes(start, data, split)
    assert "some of those tested here may be known" in note
