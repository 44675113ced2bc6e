"""Every route of every source, against a local server that plays the host and breaks off in the middle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openus.archives import Tree
from openus.archives.unpacked import required_tools
from openus.catalogue import Catalogue
from openus.errors import NeedsPersonError
from openus.fetch import obtain
from openus.net import RetryPolicy
from openus.select import select
from openus.transfer.download import Transfer
from openus.transfer.partial import HEAD
from tests.helpers.web import Fault, serving
from tests.sources.checks import check
from tests.sources.conftest import Make
from tests.sources.hosting import PLAYED, offered, overlaid
from tests.sources.miniature import MINIATURES
from tests.sources.packing import Packed, pack

CATALOGUE = Catalogue()
ROUTES = [
    pytest.param(slug, number, id=f"{slug}-{number}-{route.host}")
    for slug in MINIATURES
    for number, route in enumerate(CATALOGUE.source(slug).routes)
    if route.host in PLAYED
]
MANUAL = [slug for slug in MINIATURES if any(r.host == "manual" for r in CATALOGUE.source(slug).routes)]


def look(slug: str, roots: tuple[Path, ...], packed: Packed, made: Make) -> None:
    """What lies in the roots is the dataset: select it, and check what is known of each member."""
    tree = Tree(roots)
    selection = select(CATALOGUE.source(slug), tree.entries(), tree.open, salt="tests")
    members = packed.members(image.member for image in selection.images)
    images = tuple(
        replace(image, member=members[image.member], clip=members.get(image.clip, image.clip))
        for image in selection.images
    )
    check(slug, replace(selection, images=images), replace(made(slug)[1], samples=packed.samples))


@pytest.mark.parametrize(("slug", "number"), ROUTES)
def test_a_route_brings_the_dataset(
    slug: str, number: int, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, expected = made(slug)
    packed = pack(root, expected, tmp_path / "host")
    route = CATALOGUE.source(slug).routes[number]
    files = offered(route, packed.files, root)
    if missing := required_tools(files):
        pytest.skip(missing[0])
    source = overlaid(CATALOGUE.source(slug), route, files)
    with serving() as site:
        for host in (*PLAYED, "kaggle"):
            monkeypatch.setenv(f"OPENUS_ENDPOINT_{host.upper().replace('-', '_')}", f"{site.url}/{host}")
        monkeypatch.setenv("KAGGLE_USERNAME", "someone")
        monkeypatch.setenv("KAGGLE_KEY", "secret")
        PLAYED[route.host](site, route, files)
        largest = max(site.files.values(), key=lambda served: len(served.content))
        half = len(largest.content) // 2
        largest.faults = [Fault(drop=half)]
        transfer = Transfer(
            tmp_path / "cache", mirrors=[f"{site.url}/mirror"], retry=RetryPolicy(base=0.01, cap=0.02)
        )
        got = obtain(source, cache=tmp_path / "cache", transfer=transfer)
        resumed = [request for request in site.requests if request.status == 206]
        asked = len(site.requests)
        # A file is judged by its whole head; of one that breaks off within it nothing is kept.
        assert resumed or half < HEAD, "the connection broke, and nothing was asked from the middle on"
        again = obtain(source, cache=tmp_path / "cache", transfer=transfer)
        assert again.roots == got.roots and len(site.requests) == asked, "a second run asks nobody"
    look(slug, got.roots, packed, made)


@pytest.mark.parametrize("slug", MANUAL)
@pytest.mark.parametrize("form", ["as downloaded", "one folder deeper", "unpacked"])
def test_files_of_a_person_are_found_in_the_drop_folder(
    slug: str, form: str, made: Make, tmp_path: Path
) -> None:
    root, expected = made(slug)
    manual = next(route for route in CATALOGUE.source(slug).routes if route.host == "manual")
    packed = pack(root, expected, tmp_path / "host")
    source = overlaid(
        CATALOGUE.source(slug), manual, {name: p.read_bytes() for name, p in packed.files.items()}
    )
    cache = tmp_path / "cache"
    with pytest.raises(NeedsPersonError) as needed:
        obtain(source, cache=cache)
    assert len(needed.value.steps) >= 3 and str(cache / slug) in " ".join(needed.value.steps)
    drop = cache / slug
    drop.parent.mkdir(exist_ok=True)
    if form == "unpacked":
        root.rename(drop)
    else:
        pack(root, expected, drop / "Downloads" if form == "one folder deeper" else drop)
    try:
        got = obtain(source, cache=cache)
        assert got.route == "drop folder"
        if form == "unpacked":
            packed = Packed({}, expected.samples)
        look(slug, got.roots, packed, made)
    finally:
        if form == "unpacked":
            drop.rename(root)
