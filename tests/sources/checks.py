"""What a selection must be."""

from __future__ import annotations

import re

from openus.catalogue import Catalogue
from openus.select import Selection
from tests.sources.miniature import Expectation

CATALOGUE = Catalogue()


def check(slug: str, selection: Selection, expected: Expectation) -> None:
    """The right members are selected, and all that is known of each is right."""
    assert {image.member for image in selection.images} == set(expected.samples)
    pseudonyms: dict[str, str] = {}
    for image in selection.images:
        sample = expected.samples[image.member]
        assert dict(image.labels) == dict(sample.labels), image.member
        own = "" if CATALOGUE.source(slug).kind == "image" else image.member
        assert image.clip == (own if sample.clip is None else sample.clip), image.member
        assert image.split == sample.split, image.member
        assert image.mask.split("/")[-2:] == sample.mask.split("/")[-2:], image.member
        assert pseudonyms.setdefault(sample.patient, image.patient) == image.patient, image.member
    if CATALOGUE.source(slug).patients_public:
        assert all(patient == stored for patient, stored in pseudonyms.items())
    else:
        assert len(set(pseudonyms.values())) == len(pseudonyms)
        assert all(not p or re.fullmatch("[0-9a-f]{16}", stored) for p, stored in pseudonyms.items())
