"""What all manifests of the sources must keep to, whatever the dataset."""

from __future__ import annotations

import re
import string

import pytest

from openus.catalogue import Catalogue
from openus.hosts import MODULES
from openus.manifest import Rule, Source
from tests.sources.miniature import MINIATURES

SOURCES = list(Catalogue().sources())
by_slug = pytest.mark.parametrize("source", SOURCES, ids=[source.slug for source in SOURCES])


def rules(source: Source) -> dict[str, Rule]:
    named = {**source.labels, "patient": source.patient, "clip": source.clip, "split": source.split}
    return {name: rule for name, rule in named.items() if rule is not None}


def test_the_46_are_there_and_each_has_a_miniature() -> None:
    assert sorted(source.number or 0 for source in SOURCES) == list(range(1, 47))
    # Clips stacked in one array have tests of their own, see tests/decode/test_stack.py.
    assert {source.slug for source in SOURCES if source.stack is None} <= set(MINIATURES)


@by_slug
def test_what_is_not_clearly_allowed_is_not_passed_on(source: Source) -> None:
    name = source.licence.name.upper()
    free = re.match(r"(CC-BY(-NC)?(-SA)?-\d|CC0|MIT|APACHE|BSD|ODC|PDDL)", name)
    if not free or "-ND" in name or "ACCORDING" in name:
        assert source.licence.redistribution != "pixels", (
            f"{source.licence.name} does not clearly allow derivatives"
        )


@by_slug
def test_every_route_can_be_walked(source: Source) -> None:
    assert source.routes
    for route in source.routes:
        assert route.host in MODULES
        if route.host == "manual":
            assert len(route.steps) >= 2 and route.url, "a person needs the page and the steps"
        elif route.host == "http":
            assert route.files and all(spec.url for spec in route.files), "an http route is its addresses"
        else:
            assert route.id, f"a {route.host} route needs an id"
        for spec in route.files:
            for digest, length in ((spec.md5, 32), (spec.sha1, 40), (spec.sha256, 64)):
                assert digest is None or re.fullmatch(rf"[0-9a-f]{{{length}}}", digest), spec.name


@by_slug
def test_the_expected_counts_agree_with_themselves(source: Source) -> None:
    expected = source.expected
    assert expected.members is None or expected.frames is None or expected.frames >= expected.members
    for label, counts in expected.labels.items():
        assert label in source.labels or source.code is not None, f"no rule gives the label {label}"
        assert expected.members is None or sum(counts.values()) <= expected.members
        rule = source.labels.get(label)
        if rule is not None and rule.classes is not None and not rule.open_classes:
            assert set(counts) <= set(rule.classes.values()), f"{label}: counts of classes that do not exist"


@by_slug
def test_rules_have_the_groups_they_need(source: Source) -> None:
    for name, rule in rules(source).items():
        if rule.match is None or rule.key is None:
            continue
        keys = {"key"} if isinstance(rule.key, str) else {f"key{number}" for number in range(len(rule.key))}
        assert set(re.compile(rule.match).groupindex) == keys, name
    if source.masks is not None:
        wanted = {field for _, field, _, _ in string.Formatter().parse(source.masks.path) if field}
        assert wanted <= set(re.compile(source.masks.match).groupindex)
