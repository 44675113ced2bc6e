"""The gate: what is not clearly allowed stays at home."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.catalogue import Catalogue
from openus.errors import UsageError
from openus.publish.gate import CLASSES, LICENCES, PERMITTED, RECIPE, judge, read_permits


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
