"""What a source gives under a frame policy, from the counts of its manifest."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.catalogue import Catalogue
from openus.estimate import Estimate, describe, estimate, estimate_all
from openus.manifest import Expected, FramePolicy, Licence, Source


def source(kind: str = "video", expected: dict[str, Any] | None = None, **policy: Any) -> Source:
    return Source.model_validate(
        {
            "schema": 1,
            "slug": "made-up",
            "name": "Made up",
            "title": "Made up",
            "anatomy": "lung",
            "kind": kind,
            "licence": Licence(name="CC0-1.0", redistribution="pixels"),
            "images": ("*.mp4",),
            "frames": FramePolicy(**policy),
            "expected": Expected(**(expected or {})),
            "confidence": "medium: guesswork",
        }
    )


def test_single_images_are_their_files() -> None:
    assert estimate(source("image", {"members": 12})) == Estimate(12, 12, "counted")


def test_all_frames_of_clips() -> None:
    assert estimate(source(expected={"members": 3, "frames": 90})) == Estimate(90, 90, "counted")


def test_a_number_of_clips_without_frames_says_nothing() -> None:
    assert estimate(source(expected={"members": 3})) == Estimate(None, None, "unknown")


def test_a_cap_bounds_clips_of_unknown_length() -> None:
    assert estimate(source(expected={"members": 3}, cap=20)) == Estimate(None, 60, "at most")


def test_stride_then_cap_of_the_mean_clip() -> None:
    assert estimate(source(expected={"members": 4, "frames": 400}, stride=3, cap=30)).samples == 4 * 30
    assert estimate(source(expected={"members": 4, "frames": 400}, stride=7, cap=30)).samples == 4 * 15


def test_a_stride_without_the_number_of_clips_takes_its_share() -> None:
    assert estimate(source(expected={"frames": 101}, stride=10)) == Estimate(101, 11, "computed")
    assert estimate(source(expected={"frames": 101}, cap=10)) == Estimate(101, None, "unknown")


def test_black_slices_make_it_an_upper_bound() -> None:
    found = estimate(source("volume", {"members": 73, "frames": 5913}, axis="x", nonempty=True))
    assert found == Estimate(5913, 5913, "at most")


def test_known_figures_of_the_default_policy_hold_for_no_other() -> None:
    exact = source(expected={"members": 10, "frames": 1000, "kept": 77}, cap=8)
    assert estimate(exact) == Estimate(1000, 77, "counted")
    assert estimate(exact, FramePolicy(cap=4)) == Estimate(1000, 40, "computed")
    rough = source(expected={"estimate": 5000}, stride=2)
    assert estimate(rough) == Estimate(None, 5000, "rough")
    assert estimate(rough, FramePolicy(stride=4)) == Estimate(None, None, "unknown")


@given(st.integers(1, 500), st.integers(1, 400), st.integers(1, 50), st.one_of(st.none(), st.integers(1, 60)))
def test_clips_of_one_length_are_exact(clips: int, length: int, stride: int, cap: int | None) -> None:
    found = estimate(
        source(expected={"members": clips, "frames": clips * length}, stride=stride, cap=cap)
    ).samples
    strided = len(range(0, length, stride))
    assert found == clips * (strided if cap is None else min(strided, cap))


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 100))
def test_more_stride_never_gives_more(more: int, clips: int, stride: int) -> None:
    frames = clips + more  # a clip has at least one frame
    made = source(expected={"members": clips, "frames": frames})
    closer, wider = (estimate(made, FramePolicy(stride=s)).samples for s in (stride, stride + 1))
    assert closer is not None and wider is not None
    assert wider <= closer <= frames + clips
    assert closer >= math.ceil(frames / stride)


@pytest.mark.parametrize(
    ("policy", "kind", "words"),
    [
        (FramePolicy(), "image", "all"),
        (FramePolicy(stride=3), "image", "1 in 3"),
        (FramePolicy(cap=9), "volume", "at most 9 of a file, along z"),
        (FramePolicy(), "video", "all"),
        (FramePolicy(stride=3, cap=30), "video", "1 in 3, at most 30 of a clip"),
        (FramePolicy(cap=2), "video", "at most 2 of a clip"),
        (FramePolicy(axis="x", nonempty=True), "volume", "all, along x, not black"),
    ],
)
def test_policies_in_words(policy: FramePolicy, kind: str, words: str) -> None:
    assert describe(policy, kind) == words


def test_every_source_of_the_corpus_has_a_row() -> None:
    catalogue = Catalogue()
    rows = estimate_all(catalogue, catalogue.slugs)
    assert [row["number"] for row in rows] == list(range(1, 47))
    by_slug = {row["slug"]: row for row in rows}
    assert by_slug["covid-blues"] == {
        "number": 5,
        "slug": "covid-blues",
        "frames": 31746,
        "policy": "all",
        "samples": 31746,
        "confidence": "counted, high",
    }
    assert by_slug["fh-ps-aop"]["samples"] == 4000
    assert by_slug["regpro"]["confidence"] == "at most, high"
    changed = estimate(catalogue.source("covid-blues"), FramePolicy(stride=10))
    assert changed.samples == 362 * math.ceil(31746 / 362 / 10)


def test_the_whole_corpus_is_of_the_size_of_the_paper() -> None:
    catalogue = Catalogue()
    rows = estimate_all(catalogue, catalogue.slugs)
    total = sum(row["samples"] or 0 for row in rows)
    assert all(row["samples"] for row in rows), "a source without any idea of its size"
    assert 0.8 * 370_000 < total < 1.2 * 370_000
