"""Whose word counts on how a source is cleaned."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from openus.catalogue import Catalogue, manifests_root
from openus.manifest import Corpus, Source

KNOWN = Catalogue(manifests_root()).source("bus-bra").model_dump(by_alias=True)
CORPUS: dict[str, Any] = {"schema": 1, "name": "c", "clean": {"level": "sector", "max_altered": 0.1}}


def source(clean: Any) -> Source:
    return Source.model_validate(KNOWN | {"clean": clean})


def test_the_corpus_then_the_source_then_the_corpus_by_name() -> None:
    corpus = Corpus.model_validate(CORPUS)
    assert corpus.clean_of(source(None)) == corpus.clean
    assert corpus.clean_of(source("full")).level == "full"
    own = corpus.clean_of(source({"doppler": "drop", "max_altered": 0.5}))
    assert (own.level, own.doppler, own.max_altered, own.size) == ("sector", "drop", 0.5, corpus.clean.size)
    named = Corpus.model_validate(CORPUS | {"clean_sources": {"bus-bra": "none"}})
    assert named.clean_of(source({"level": "full", "doppler": "drop"})).level == "none"


@pytest.mark.parametrize("wrong", ["most", {"level": "most"}, {"blur": 1}, {"max_altered": 2}])
def test_settings_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        source(wrong)
