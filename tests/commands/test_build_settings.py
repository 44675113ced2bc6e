"""The settings of `openus build` on the command line, put in the place of those of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from openus.catalogue import Catalogue
from openus.commands.build import _adjusted, _with_levels, local_places
from openus.errors import ManifestError, UsageError
from openus.manifest import CleanSettings, Corpus, FramePolicy

CORPUS = Corpus(
    schema=1,
    name="mine",
    seed=5,
    sources=("bus-bra", "covid-blues", "echonet-dynamic"),
    frames={"covid-blues": FramePolicy(stride=3, nonempty=True)},
    clean=CleanSettings(level="none", look=9, size=64),
    clean_sources={"bus-bra": "full"},
)


def adjusted(size: str | None = None, frames: tuple[str, ...] = (), seed: int | None = None) -> Corpus:
    return _adjusted(CORPUS, Catalogue(), size, frames, seed)


def levels(*clean: str, corpus: Corpus = CORPUS) -> Corpus:
    return _with_levels(corpus, Catalogue(), clean)


def test_nothing_asked_changes_nothing() -> None:
    assert levels(corpus=adjusted()) == CORPUS


def test_a_seed_and_a_size() -> None:
    assert adjusted(seed=0) == CORPUS.model_copy(update={"seed": 0})
    for text, size in (("1", 1), ("native", "native")):
        clean = CORPUS.clean.model_copy(update={"size": size})
        assert adjusted(size=text) == CORPUS.model_copy(update={"clean": clean})


@pytest.mark.parametrize("text", ["0", "-1", "tiny", "", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number of pixels, or 'native'"):
        adjusted(size=text)


def test_frames_of_one_source_and_of_all() -> None:
    own = Catalogue().source("echonet-dynamic").frames
    one = adjusted(frames=("echonet-dynamic=4,32",)).frames
    assert one == CORPUS.frames | {"echonet-dynamic": own.model_copy(update={"stride": 4, "cap": 32})}
    for words in (("2,5", "covid-blues=1"), ("covid-blues=1", "2,5")):
        found = adjusted(frames=words).frames
        assert found.keys() == set(CORPUS.sources)
        assert found["covid-blues"] == FramePolicy(stride=1, nonempty=True)  # the rest of the policy stays
        assert {(p.stride, p.cap) for slug, p in found.items() if slug != "covid-blues"} == {(2, 5)}
    every = CORPUS.model_copy(update={"sources": "all"})
    assert len(_adjusted(every, Catalogue(), None, ["2"], None).frames) == 46


@pytest.mark.parametrize("text", ["0", "x", "2,0", "1,2,3", "=4", "covid-blues=", "\N{SUPERSCRIPT TWO}"])
def test_frames_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected STRIDE or STRIDE,CAP"):
        adjusted(frames=(text,))


def test_levels_of_one_source_and_of_all() -> None:
    one = levels("covid-blues=sector")
    assert one.clean == CORPUS.clean
    assert one.clean_sources == {"bus-bra": "full", "covid-blues": "sector"}
    for words in (("full", "sector", "bus-bra=none"), ("full", "bus-bra=none", "sector")):
        found = levels(*words)
        assert found.clean == CORPUS.clean.model_copy(update={"level": "sector"})
        assert found.clean_sources == dict.fromkeys(CORPUS.sources, "sector") | {"bus-bra": "none"}
    every = levels("full", corpus=CORPUS.model_copy(update={"sources": "all"}))
    assert len(every.clean_sources) == 46


@pytest.mark.parametrize("text", ["most", "=full", "bus-bra=", "bus-bra=most"])
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected none, sector or full"):
        levels(text)


def test_a_source_that_is_not_known() -> None:
    for call in (lambda: levels("bus-bar=full"), lambda: adjusted(frames=("bus-bar=2",))):
        with pytest.raises(ManifestError, match="did you mean 'bus-bra'"):
            call()


def test_places_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a=b").mkdir()
    assert local_places(["bus-bra=~/a=b"], tmp_path) == {"bus-bra": tmp_path / "a=b"}
    for pair in ("bus-bra", "=x", "bus-bra="):
        with pytest.raises(UsageError, match="expected SLUG=PATH"):
            local_places([pair], tmp_path)
    with pytest.raises(UsageError, match="there is nothing at"):
        local_places([f"bus-bra={tmp_path}/none"], tmp_path)
