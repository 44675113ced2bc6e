"""The three datasets whose real bytes lie beside this checkout give the counts of their dossiers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.fetch import obtain
from openus.select import Selection, select
from openus.shards.verify import verify
from openus.stages.build import BuildOptions, build

pytestmark = pytest.mark.realdata
CATALOGUE = Catalogue()
LOCAL = {"bus-bra": "data/bus-bra/BUSBRA"}
SLUGS = ["bus-bra", "covid-blues", "stu-hospital"]


def selection_of(slug: str, shared: Path, cache: Path) -> Selection:
    local = shared / LOCAL[slug] if slug in LOCAL else None
    got = obtain(
        CATALOGUE.source(slug), cache=cache, mirrors=[str(shared / "mirror")], local=local, offline=True
    )
    tree = Tree(got.roots)
    return select(CATALOGUE.source(slug), tree.entries(), tree.open)


@pytest.mark.parametrize("slug", SLUGS)
def test_files_patients_and_labels_are_as_expected(slug: str, shared: Path, tmp_path: Path) -> None:
    expected = CATALOGUE.source(slug).expected
    images = selection_of(slug, shared, tmp_path).images
    assert len(images) == expected.members
    assert len({image.patient for image in images} - {""}) == (expected.patients or 0)
    for label, counts in expected.labels.items():
        assert Counter(image.labels[label] for image in images) == counts


def test_every_mask_is_found_and_the_folds_keep_patients_together(shared: Path, tmp_path: Path) -> None:
    for slug, masks in (("bus-bra", 1875), ("stu-hospital", 42)):
        assert len({image.mask for image in selection_of(slug, shared, tmp_path).images}) == masks
    images = selection_of("bus-bra", shared, tmp_path).images
    folds: dict[str, set[str]] = {}
    for image in images:
        folds.setdefault(image.patient, set()).add(image.split)
    assert all(len(found) == 1 for found in folds.values())
    assert Counter(image.split for image in images) == {
        "fold1": 376, "fold2": 385, "fold3": 366, "fold4": 365, "fold5": 383,
    }  # fmt: skip


def test_stu_hospital_from_the_mirror_to_the_corpus(shared: Path, tmp_path: Path) -> None:
    options = BuildOptions(tmp_path / "cache", mirrors=(str(shared / "mirror"),), offline=True)
    result = build(tmp_path / "corpus", CATALOGUE.corpus("openus-46"), CATALOGUE, options, ["stu-hospital"])
    facts = result.summary["sources"]["stu-hospital"]
    assert facts["frames"] == {"announced": 42, "decoded": 42, "kept": 42, "rejected": 0}
    assert facts["notes"] == [], "the copy is complete, and nothing differs from the manifest"
    assert verify(tmp_path / "corpus", deep=True).problems == []


@pytest.mark.long
def test_covid_blues_frame_by_frame(shared: Path, tmp_path: Path) -> None:
    options = BuildOptions(tmp_path / "cache", mirrors=(str(shared / "mirror"),), offline=True, workers=2)
    result = build(tmp_path / "corpus", CATALOGUE.corpus("openus-46"), CATALOGUE, options, ["covid-blues"])
    facts = result.summary["sources"]["covid-blues"]
    assert facts["frames"]["decoded"] == 31746
    # Two black frames begin each clip of five patients; the 52 exact repeats of the dossier are among them.
    assert facts["rejected"] == {"dark": 60}
    assert facts["frames"]["kept"] == 31686
