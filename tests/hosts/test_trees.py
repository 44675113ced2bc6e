"""Hosts that keep trees of files: Girder, Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from openus.errors import ChecksumError, NeedsPersonError, SourceError, TransferError
from openus.fetch import Obtained
from openus.hosts import resolve
from openus.manifest import Source
from tests.helpers.sources import toy
from tests.helpers.web import Fault, Request, Served, Site
from tests.hosts.conftest import contents

Fetch = Callable[[Source], Obtained]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestGirder:
    root = "6373703d73e9f0047faa1bc8"
    route: ClassVar = {"host": "girder", "id": root, "url": "https://host.example/database/api/v1"}

    def play(self, site: Site, *, collection: bool) -> None:
        folders = {
            self.root: [("a" * 24, "database_nifti"), ("b" * 24, "other")],
            "a" * 24: [("c" * 24, "patient0001")],
        }
        items = {"c" * 24: ["patient0001_2CH_ED.nii.gz", "Info_2CH.cfg"], "b" * 24: ["unwanted.txt"]}
        site.api(f"/collection/{self.root}", {"_id": self.root} if collection else 400)

        def list_folders(request: Request) -> Any:
            wanted = "collection" if collection and request.query["parentId"] == self.root else "folder"
            assert request.query["parentType"] == wanted
            found = folders.get(request.query["parentId"], [])
            return [{"_id": identity, "name": name} for identity, name in found][
                int(request.query["offset"]) :
            ]

        def list_items(request: Request) -> Any:
            names = items.get(request.query["folderId"], [])
            for name in names:
                site.put(f"/item/{name}-id/download", name.encode())
            return [{"_id": f"{name}-id", "name": name, "size": len(name)} for name in names]

        site.api("/folder", list_folders)
        site.api("/item", list_items)

    def test_long_folders_come_in_pages(self, site: Site) -> None:
        items = [{"_id": f"{n}", "name": f"{n:04}.png", "size": 1} for n in range(1200)]
        site.api(f"/collection/{self.root}", 400)
        site.api("/folder", [])
        site.api(
            "/item",
            lambda asked: items[int(asked.query["offset"]) :][: int(asked.query["limit"])],
        )
        source = toy(self.route)
        assert [file.name for file in resolve(source, source.routes[0])] == [item["name"] for item in items]

    @pytest.mark.parametrize("collection", [True, False])
    def test_items_one_by_one(self, site: Site, fetch: Fetch, collection: bool) -> None:
        self.play(site, collection=collection)
        found = contents(fetch(toy({**self.route, "include": ["database_nifti/**"]})))
        folder = "database_nifti/patient0001/"
        assert found == {
            f"{folder}patient0001_2CH_ED.nii.gz": b"patient0001_2CH_ED.nii.gz",
            f"{folder}Info_2CH.cfg": b"Info_2CH.cfg",
        }

    def test_a_failed_item_is_all_that_is_fetched_again(self, site: Site, fetch: Fetch) -> None:
        self.play(site, collection=True)
        source = toy({**self.route, "include": ["database_nifti/**"]})
        cfg, image = "/item/Info_2CH.cfg-id/download", "/item/patient0001_2CH_ED.nii.gz-id/download"
        listing = site.answers["/item"]

        def broken(request: Request) -> tuple[int, dict[str, str], bytes]:
            answer = listing(request)
            site.files[cfg] = Served(b"", always=Fault(status=404))
            return answer

        site.answers["/item"] = broken
        with pytest.raises(TransferError, match="404"):
            fetch(source)
        site.answers["/item"] = listing
        assert len(contents(fetch(source))) == 2
        assert (len(site.asked(image)), len(site.asked(cfg))) == (1, 2)
        requests = len(site.requests)
        assert len(contents(fetch(source))) == 2
        assert len(site.requests) == requests  # complete: the host is not even asked for its list

    def test_a_key_is_exchanged_and_never_in_an_address(
        self, site: Site, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIRDER_API_KEY", "hidden")
        self.play(site, collection=True)
        site.api("/api_key/token", lambda request: {"authToken": {"token": f"for {request.form['key']}"}})
        fetch(toy(self.route))
        asked = site.asked("/api_key/token")[0]
        assert (asked.method, asked.query) == ("POST", {})
        assert {r.headers.get("Girder-Token") for r in site.requests if r is not asked} == {"for hidden"}

    def test_circular_folders(self, site: Site, fetch: Fetch) -> None:
        site.api(f"/collection/{self.root}", {})
        site.api("/folder", [{"_id": self.root, "name": "again"}])
        site.api("/item", [])
        with pytest.raises(SourceError, match="circle"):
            fetch(toy(self.route))


class TestHuggingFace:
    sha = "c" * 40

    def play(self, site: Site, revision: str = "") -> None:
        big, small = b"PK big", b"a,b\n"
        blob = hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest()
        siblings = [
            {"rfilename": ".gitattributes", "size": 1, "blobId": "0" * 40},
            {"rfilename": "zips/a.zip", "size": len(big), "blobId": "1" * 40,
             "lfs": {"sha256": sha256(big), "size": len(big), "pointerSize": 130}},
            {"rfilename": "t.csv", "size": len(small), "blobId": blob},
        ]  # fmt: skip
        path = "/api/datasets/o/n" + (f"/revision/{revision}" if revision else "")
        site.api(path, {"id": "o/n", "sha": self.sha, "siblings": siblings})
        site.put(f"/datasets/o/n/resolve/{self.sha}/zips/a.zip", big)
        site.put(f"/datasets/o/n/resolve/{self.sha}/t.csv", small)

    def test_files_of_the_commit_behind_a_revision(self, site: Site, fetch: Fetch) -> None:
        self.play(site, "v1")
        obtained = fetch(toy({"host": "huggingface", "id": "o/n", "revision": "v1"}))
        assert contents(obtained) == {"zips/a.zip": b"PK big", "t.csv": b"a,b\n"}

    def test_both_kinds_of_checksum_are_judged(self, site: Site, fetch: Fetch) -> None:
        for slug, name, bad in (("one", "zips/a.zip", b"PK bad"), ("two", "t.csv", b"a;b\n")):
            self.play(site)
            site.put(f"/datasets/o/n/resolve/{self.sha}/{name}", bad)
            with pytest.raises(ChecksumError, match=f"expected {'sha256' if slug == 'one' else 'git'}:"):
                fetch(toy({"host": "huggingface", "id": "o/n"}, slug=slug))

    def test_a_file_by_its_short_name(self, site: Site, fetch: Fetch) -> None:
        self.play(site)
        spec = {"name": "a.zip", "sha256": sha256(b"PK big"), "url": "https://huggingface.co/x"}
        assert contents(fetch(toy({"host": "huggingface", "id": "o/n", "files": [spec]}))) == {
            "a.zip": b"PK big"
        }

    def test_terms_must_be_accepted(self, site: Site, fetch: Fetch) -> None:
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
        site.answers["/api/datasets/o/n"] = lambda request: (403, headers, b"{}")
        with pytest.raises(NeedsPersonError, match="terms must be accepted") as raised:
            fetch(toy({"host": "huggingface", "id": "o/n"}))
        assert "https://huggingface.co/datasets/o/n" in raised.value.steps[0]

    @pytest.mark.parametrize(
        ("code", "words"), [("RepoNotFound", "no such dataset"), ("RevisionNotFound", "no revision 'v1'")]
    )
    def test_what_is_not_there(self, site: Site, fetch: Fetch, code: str, words: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": "Not found"}
        site.answers["/api/datasets/o/n/revision/v1"] = lambda request: (404, headers, b"{}")
        with pytest.raises(SourceError, match=words):
            fetch(toy({"host": "huggingface", "id": "o/n", "revision": "v1"}))

    def test_no_hub_at_all(self, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENUS_ENDPOINT_HUGGINGFACE", "http://127.0.0.1:9")
        with pytest.raises(TransferError, match="the Hub cannot be reached"):
            fetch(toy({"host": "huggingface", "id": "o/n"}))
