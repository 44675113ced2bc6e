"""Rebuilding from a recipe: the same shards where the data are the same, and a clear word where they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from openus.errors import CorpusError
from openus.publish.recipe import ROWS, read_recipe, repository
from tests.helpers import licensed, toys
from tests.helpers.hub_state import Hub
from tests.publish.conftest import Licensed, Run


def tars(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.glob("*/*.tar"))}


def test_rows_of_a_recipe_hold_no_labels_and_no_patients(published: Path) -> None:
    rows = pq.read_table(published / "licensed-recipe" / "rows" / "pretrain-000000.parquet")
    assert rows.schema.names == ROWS.names and not {"labels", "patient", "clip"} & set(ROWS.names)
    assert set(rows["route"].to_pylist()) == {"local"} and len(set(rows["cluster"].to_pylist())) == len(rows)


def test_each_class_is_rebuilt_alone(made: Licensed, published: Path, run: Run, tmp_path: Path) -> None:
    """What the whole corpus decided about copies holds, though the other sources are not there."""
    for to, slugs in (("recipe", ("nd-set", "closed-set", "own-terms")), ("by", ("open-set", "bench-set"))):
        out = tmp_path / to
        words = [*made.local(*slugs), "--cache", tmp_path / "cache", "--json"]
        done = run("build", out, "--from-recipe", published / f"licensed-{to}", *words)
        assert done.code == 0, done.err
        proof = json.loads(done.out)["proof"]
        assert proof["holds"] and proof["identical"] == proof["shards"] == len(tars(out))
        assert run("verify", out).code == 0
        if to == "by":
            assert tars(out) == tars(published / "licensed-by")
    dropped = pq.read_table(tmp_path / "recipe" / "manifest" / "rejected.parquet").to_pylist()
    assert ("copy.png", "recipe") in {(row["member"], row["reason"]) for row in dropped}


def test_other_data_are_named(made: Licensed, published: Path, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "closed"
    shutil.copytree(made.inputs["closed-set"], other)
    cv2.imwrite(str(other / "c03.png"), toys.speckle(9999))
    (other / "c04.png").unlink()
    words = [*made.local("nd-set"), "--local", f"closed-set={other}", "--cache", tmp_path / "cache"]
    done = run("build", tmp_path / "out", "--from-recipe", published / "licensed-recipe", *words)
    assert done.code == 1
    for said in (
        "of 3 shards are the recipe's", "sources that could not be had: own-terms", "samples lacking: 1 of closed-set",
        "samples that differ: 1 of closed-set",
    ):  # fmt: skip
        assert said in done.err, done.err
    assert "Ask for own-terms" in done.out


def test_from_the_hub(made: Licensed, published: Path, hub: Hub, tmp_path: Path) -> None:
    hub.put_folder("ORG/lic-by-nc", published / "licensed-by-nc")
    words = [
        "build",
        tmp_path / "out",
        "--from-recipe",
        "ORG/lic-by-nc",
        *made.local("nc-set"),
        "--workers",
        "0",
    ]
    done = licensed.openus(*words, "--cache", tmp_path / "cache", **hub.environment(tmp_path / "home"))
    assert done.returncode == 0 and "they are the same" in done.stdout, done.stderr


def test_damaged_and_hostile_recipes(published: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    shutil.copytree(published / "licensed-recipe", folder)
    facts = json.loads((folder / "recipe.json").read_text())

    def refused(words: str) -> None:
        with pytest.raises(CorpusError, match=words):
            read_recipe(str(folder))

    (folder / "rows" / "pretrain-000000.parquet").write_bytes(b"PAR1")
    refused("its bytes are not the ones the recipe names")
    for change, words in (
        ({"recipe": 99}, "recipe format 99"),
        (
            {"sets": {"pretrain": [{"rows": "../../etc/passwd", "rows_sha256": ""}]}},
            "leads out of the recipe",
        ),
        ({"sets": {"pretrain": [{}]}}, "damaged"),
        ({"sources": 3}, "damaged"),
    ):
        (folder / "recipe.json").write_text(json.dumps(facts | change))
        refused(words)
    (folder / "recipe.json").write_text("not json")
    refused("not a recipe")
    done = run("build", tmp_path / "out", "--from-recipe", folder, "--size", "32")
    assert done.code == 2 and "leave out --size" in done.err


def test_a_secret_salt_is_asked_for(
    made: Licensed, published: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipe"
    shutil.copytree(published / "licensed-recipe", folder)
    facts = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(facts | {"salted": True}))
    done = run("build", tmp_path / "out", "--from-recipe", folder)
    assert done.code == 2 and "$OPENUS_SALT" in done.err
    monkeypatch.setenv("OPENUS_SALT", "pepper")
    assert read_recipe(str(folder)).corpus.salt == "pepper"


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert repository("ORG/name") == repository("hf://ORG/name") == "hf://datasets/ORG/name"
    assert repository("hf://datasets/ORG/name") == "hf://datasets/ORG/name"
    assert repository("a/b") == "a/b" and repository("./x/y") == "x/y"
    assert repository("s3://bucket/x") == "s3://bucket/x" and repository("https://h/x") == "https://h/x"
