"""The gate: what is not clearly allowed stays at home."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.catalogue import Catalogue
from openus.errors import CorpusError, OpenUSError, UsageError
from openus.publish import hub, targets
from openus.publish.gate import CLASSES, LICENCES, PERMITTED, RECIPE, judge, read_permits
from openus.publish.plan import _drop_lone_masks, _with_verbatim, make_plan
from tests.helpers.corpus import make_corpus


@pytest.mark.parametrize(
    ("licence", "level", "stated", "verbatim", "to"),
    [
        ("CC-BY-4.0", "pixels", "pixels", False, "by"),
        ("CC0-1.0", "pixels", "pixels", False, "by"),
        ("CC-BY-SA-4.0", "pixels", "pixels", False, "by-sa"),
        ("CC-BY-NC-3.0", "pixels", "pixels", False, "by-nc"),
        ("CC-BY-NC-SA-4.0", "pixels", "pixels", False, "by-nc-sa"),
        # The stricter of row and manifest holds.
        ("CC-BY-4.0", "recipe-only", "pixels", True, RECIPE),
        ("CC-BY-4.0", "pixels", "recipe-only", True, RECIPE),
        ("CC-BY-4.0", "pixels", "verbatim-only", False, RECIPE),
        ("CC-BY-4.0", "pixels", "verbatim-only", True, "by"),
        # No derivatives, whatever a manifest says.
        ("CC-BY-NC-ND-4.0", "pixels", "pixels", False, RECIPE),
        ("CC-BY-NC-ND-4.0", "verbatim-only", "verbatim-only", True, "by-nc-nd"),
        # A licence that nobody knows, and a level that nobody knows.
        ("CC BY-NC-SA (version not stated)", "pixels", "pixels", True, RECIPE),
        ("unknown", "pixels", "pixels", True, RECIPE),
        ("CC-BY-4.0", "everything", "pixels", True, RECIPE),
    ],
)
def test_verdicts(licence: str, level: str, stated: str, verbatim: bool, to: str) -> None:
    verdict = judge("a", licence, level, stated, verbatim, {})  # type: ignore[arg-type]
    assert verdict.to == to and bool(verdict.reason) == (to == RECIPE)
    assert judge("a", licence, level, stated, verbatim, {"a": "words"}).to == PERMITTED  # type: ignore[arg-type]


def test_each_licence_is_of_the_class_that_its_name_says() -> None:
    """A licence in too free a class would put pictures where their terms do not hold."""
    free = {"CC0-1.0", "PDDL-1.0", "ODC-By-1.0", "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause"}
    for name, (to, _) in LICENCES.items():
        assert to == ("by" if name in free else name.lower().removeprefix("cc-").rpartition("-")[0]), name
        assert judge("a", name, "pixels", "pixels", True, {}).to == to


def test_only_the_sources_that_are_vouched_for_are_permitted() -> None:
    assert judge("b", "unknown", "recipe-only", "recipe-only", True, {"a": "words"}).to == RECIPE


def test_a_mask_is_never_the_file_as_published() -> None:
    """It was made from the source's file; only pictures are stored with its bytes."""
    table = pa.table({"flags": ["", "verbatim", "burned,verbatim", "not-verbatim"]})
    assert _with_verbatim(table, False)["verbatim"].to_pylist() == [False, True, True, False]
    assert _with_verbatim(table, True)["verbatim"].to_pylist() == [False] * 4


@given(st.text(), st.sampled_from(["pixels", "verbatim-only", "recipe-only"]), st.booleans())
def test_a_licence_that_is_not_known_never_goes_up(licence: str, level: str, verbatim: bool) -> None:
    if licence not in LICENCES:
        assert judge("a", licence, level, "pixels", verbatim, {"b": "words"}).to == RECIPE


def test_what_the_manifests_of_openus_46_allow() -> None:
    """Each source whose manifest says `pixels` has a licence of a known class; no other goes up."""
    for source in Catalogue().sources():
        licence = source.licence
        verdict = judge(source.slug, licence.name, licence.redistribution, licence.redistribution, False, {})
        assert (verdict.to == RECIPE) == (licence.redistribution != "pixels"), (source.slug, verdict)
        assert verdict.to in CLASSES


def test_permits(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("We hereby allow anyone to pass these on.\nSigned.\n")
    permits = read_permits([f"a=@{tmp_path}/terms.txt", "b=CC BY 4.0 by mail of 3 May 2026"], ["a", "b"])
    assert permits["a"].endswith("Signed.") and permits["b"].startswith("CC BY")
    for pair, words in (
        ("a", "expected SLUG=TEXT"),
        ("bb=They said that it is fine", "did you mean 'b'"),
        ("a=yes", "give the words"),
        (f"a=@{tmp_path}/none.txt", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words):
            read_permits([pair], ["a", "b"])


@pytest.mark.parametrize("sources", [{}, {"a": {"licence": "CC0-1.0"}}])
def test_without_the_manifests_of_its_sources_nothing_is_planned(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    root = make_corpus(tmp_path, {"pretrain": 2})
    facts = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps(facts | {"sources": sources}))
    with pytest.raises(CorpusError, match="does not hold the manifests of its sources"):
        make_plan(root)


def test_masks_of_pictures_that_go_up_as_published_stay_at_home() -> None:
    """They are adapted, so they may not go with the pictures, and a recipe without the pictures cannot make them."""
    masks = pa.table({"key": ["one", "two"], "source": ["nd", "closed"]})
    parts = {
        "by-nc-nd": {"bench": masks.slice(0, 1)},
        RECIPE: {"bench": masks.slice(1), "bench-mask": masks},
    }
    home: dict[tuple[str, str], int] = {}
    _drop_lone_masks(parts, home)
    assert parts[RECIPE]["bench-mask"]["key"].to_pylist() == ["two"]
    assert [(slug, count) for (slug, _), count in home.items()] == [("nd", 1)]
    alone = {"by-nc-nd": {"bench": masks}, RECIPE: {"bench-mask": masks}}
    _drop_lone_masks(alone, {})
    assert set(alone) == {"by-nc-nd"}


SECRETS = "token hf_abcdefgh, key sesame-of-aws at https://store/a.tar?X-Amz-Signature=signed&b=1 refused"


@pytest.mark.parametrize("sending", ["hub", "store"])
def test_no_secret_stands_in_an_error_nor_in_what_debug_shows_behind_it(
    sending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ValueError(SECRETS)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-of-aws")
    monkeypatch.setattr(targets, "WAIT", 0.0)
    with pytest.raises(OpenUSError) as raised:
        hub._patiently(refuse, "me/set") if sending == "hub" else targets._attempt("s3://b", refuse)
    shown = "".join(traceback.format_exception(raised.value))
    for text in (str(raised.value), shown):
        assert "refused" in text
        assert not any(word in text for word in ("hf_abcdefgh", "sesame-of-aws", "signed"))
