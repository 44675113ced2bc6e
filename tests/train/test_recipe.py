"""Recipes: what is read, what is refused, what may change on resume."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
import yaml

from openus.errors import UsageError
from usfmae.train import recipe as recipes
from usfmae.train.recipe import RECIPES, Recipe, TrainingRecipe, changed_fields, load_recipe, recipe_from

NAMES = sorted(p.stem for p in RECIPES.glob("*.yaml") if not p.stem.startswith("finetune"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from(yaml.safe_load(recipe.to_yaml()), "again") == recipe


def test_every_field_is_explained_where_it_stands() -> None:
    """A field of a recipe is followed by what it means, in a sentence."""
    bare = []
    for part in ast.parse(Path(recipes.__file__).read_text()).body:
        if isinstance(part, ast.ClassDef):
            for one, after in itertools.pairwise([*part.body, None]):
                if isinstance(one, ast.AnnAssign):
                    said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    bare += [] if said else [f"{part.name}.{ast.unparse(one.target)}"]
    assert bare == []


def test_the_recipes_of_this_package() -> None:
    assert {"demo", "paper", "base", "fast"} <= set(NAMES)


def test_paper_is_what_the_notebook_establishes() -> None:
    """Science notes, section 1.1: batch 64, 100 epochs, AdamW (0.9, 0.999), decay on everything, clip 1."""
    r = load_recipe("paper")
    assert (r.training.batch_size, r.training.epochs, r.training.seed) == (64, 100, 42)
    assert r.optim.betas == (0.9, 0.999) and r.optim.decay_all and r.optim.clip == 1.0
    assert r.optim.min_lr == 1e-5 and r.optim.warmup == 0.1
    assert r.peak_lr in (1.5e-4, 5e-4) and r.optim.weight_decay in (0.01, 0.05)
    assert r.model.in_chans == 3 and r.mae_config().mean == (0.485, 0.456, 0.406)
    assert r.objective.mask_ratio == 0.75 and not r.mae_config().norm_pix_loss
    assert r.mae_config().decoder_embed_dim == 512 and r.mae_config().decoder_depth == 8


def test_overrides_convert_and_are_checked() -> None:
    r = load_recipe(
        "demo", ["training.epochs=3", "optim.lr=2e-4", "data.scale=[0.5, 1]", "training.compile=true"]
    )
    assert r.training.epochs == 3 and r.optim.lr == 2e-4 and r.data.scale == (0.5, 1.0) and r.training.compile
    for wrong, message in (
        ("training.epoch=3", "unknown field 'training.epoch'; did you mean 'epochs'"),
        ("trainin.epochs=3", "unknown field 'trainin'; did you mean 'training'"),
        ("training.epochs=three", "training.epochs must be int, found 'three'"),
        ("training.epochs=2.5", "training.epochs must be int, found '2.5'"),
        ("training.compile=1", "training.compile must be bool"),
        ("data.scale=[1]", "data.scale must be"),
        ("training.epochs", "--set wants FIELD=VALUE"),
        ("name.x=1", "has no fields of its own"),
        ("objective.masking=secto", "did you mean 'sector'"),
        ("objective.target=pixel", "did you mean 'pixels'"),
        ("training.precision=fp16", "must be one of bf16, bf16-residual, fp32"),
        ("training.batch_size=0", "must be at least 1"),
        ("optim.warmup=2", r"optim.warmup must be within 0..1"),
        ("optim.lr=.nan", "optim.lr must not be negative, found nan"),
        ("objective.mask_ratio=0", "leaves 64 visible; keep it between 0 and 1"),
        ("objective.mask_ratio=0.999", "leaves 0 visible"),
        ("model.depth=-1", "depth and decoder_depth must be at least 1, found -1 and"),
        ("model.decoder_depth=0", "decoder_depth must be at least 1, found 4 and 0"),
        ("model.img_size=100", "img_size 100 is not a multiple of patch_size"),
        ("model=base", "model must be a group of fields"),
        ("training.epochs=[1", "--set training.epochs=[1: not a value"),
        ("training.micro_batch=-1", "training.micro_batch must not be negative, found -1"),
        ("data.flip=7", "data.flip must be within 0..1, found 7"),
        ("data.scale=[0.9, 0.2]", "data.scale must be two shares in order"),
        ("optim.betas=[0.9, 1.0]", "optim.betas must be below 1"),
        ("optim.weight_decay=.nan", "optim.weight_decay must not be negative"),
    ):
        with pytest.raises(UsageError) as error:
            load_recipe("demo", [wrong])
        assert message in str(error.value)


def test_unknown_recipe_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        load_recipe("demoo")
    with pytest.raises(UsageError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("training: [1")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match="found list"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "mine.yaml").write_text("training: {epochs: 7}\n")
    assert load_recipe(tmp_path / "mine.yaml").training.epochs == 7
    assert load_recipe(tmp_path / "mine.yaml").name == "mine"


def test_learning_rate_scales_with_the_batch_unless_given() -> None:
    assert (
        load_recipe("base", ["training.batch_size=512", "optim.base_lr=1e-4", "optim.lr=0"]).peak_lr == 2e-4
    )
    assert load_recipe("base", ["training.batch_size=512", "optim.lr=3e-4"]).peak_lr == 3e-4


def test_only_fields_that_do_not_touch_the_result_may_change() -> None:
    a = Recipe()
    same = recipe_from(
        {
            "name": "x",
            "report": {"log_every": 3},
            "training": {"micro_batch": 4, "checkpointing": True, "shard": True},
        },
        "b",
    )
    assert changed_fields(a, same) == []
    other = recipe_from({"training": {"seed": 1}, "model": {"depth": 3}}, "c")
    assert changed_fields(a, other) == ["model.depth: 0 -> 3", "training.seed: 0 -> 1"]


def test_a_run_ends_with_its_epochs_or_its_images_whichever_comes_first() -> None:
    assert TrainingRecipe(epochs=3, batch_size=32).steps(100) == 300
    assert TrainingRecipe(epochs=3, batch_size=32, most_images=3200).steps(100) == 100
    assert TrainingRecipe(epochs=1, batch_size=32, most_images=10**9).steps(100) == 100
    assert TrainingRecipe(epochs=1, batch_size=32, most_images=1).steps(100) == 1
