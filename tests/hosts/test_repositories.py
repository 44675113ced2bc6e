"""Repositories with an API: Zenodo, figshare, Mendeley Data, Dataverse, TCIA, Girder, Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from openus.errors import ChecksumError, ManifestError, NeedsPersonError, SourceError, TransferError
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


class TestZenodo:
    def record(self, site: Site, **files: bytes) -> None:
        listed = [
            {"key": name, "size": len(content), "checksum": f"md5:{md5(content)}"}
            for name, content in files.items()
        ]
        site.api("/api/records/77", {"id": 77, "files": listed})
        for name, content in files.items():
            site.put(f"/api/records/77/files/{name}/content", content)

    def test_all_files_of_a_record(self, site: Site, fetch: Fetch) -> None:
        self.record(site, **{"a b.zip": b"PK one", "t.csv": b"x"})
        assert contents(fetch(toy({"host": "zenodo", "id": "77"}))) == {"a b.zip": b"PK one", "t.csv": b"x"}

    def test_only_the_files_of_the_manifest(self, site: Site, fetch: Fetch) -> None:
        self.record(site, **{"a.zip": b"PK one", "huge.zip": b"unwanted"})
        known = {"name": "a.zip", "bytes": 6, "md5": md5(b"PK one")}
        assert contents(fetch(toy({"host": "zenodo", "id": "77", "files": [known]}))) == {"a.zip": b"PK one"}
        by_pattern = toy({"host": "zenodo", "id": "77", "include": ["a*.zip"]}, slug="other")
        assert contents(fetch(by_pattern)) == {"a.zip": b"PK one"}

    @pytest.mark.parametrize("known", [{"bytes": 7}, {"md5": "0" * 32}])
    def test_a_record_that_is_not_the_manifests(
        self, site: Site, fetch: Fetch, known: dict[str, Any]
    ) -> None:
        self.record(site, **{"a.zip": b"PK one"})
        with pytest.raises(ChecksumError, match=r"toy: a\.zip at zenodo 77: expected .*the host lists"):
            fetch(toy({"host": "zenodo", "id": "77", "files": [{"name": "a.zip", **known}]}))
        assert not site.asked("/api/records/77/files/a.zip/content")

    def test_bytes_that_are_not_the_records(self, site: Site, fetch: Fetch) -> None:
        self.record(site, **{"a.zip": b"PK one"})
        site.put("/api/records/77/files/a.zip/content", b"PK two")
        with pytest.raises(ChecksumError, match="expected md5:"):
            fetch(toy({"host": "zenodo", "id": "77"}))

    def test_a_file_that_is_not_there(self, site: Site, fetch: Fetch) -> None:
        self.record(site, **{"training.zip": b"PK"})
        with pytest.raises(SourceError, match=r"no file called 'trainin\.zip'; did you mean 'training\.zip'"):
            fetch(toy({"host": "zenodo", "id": "77", "files": [{"name": "trainin.zip"}]}))

    def test_the_page_helps_when_the_api_does_not(self, site: Site, fetch: Fetch) -> None:
        site.api("/api/records/77", 503)
        site.put("/records/77/files/a.zip", b"PK one")
        assert contents(fetch(toy({"host": "zenodo", "id": "77", "files": [{"name": "a.zip"}]}))) == {
            "a.zip": b"PK one"
        }
        with pytest.raises(TransferError, match="trouble at the host"):
            fetch(toy({"host": "zenodo", "id": "77"}, slug="other"))

    def test_a_withdrawn_record(self, site: Site, fetch: Fetch) -> None:
        site.api("/api/records/77", 410)
        site.put("/records/77/files/a.zip", b"PK one")
        with pytest.raises(TransferError, match="withdrawn"):
            fetch(toy({"host": "zenodo", "id": "77", "files": [{"name": "a.zip"}]}))

    def test_the_token(self, site: Site, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ZENODO_TOKEN", "hidden")
        self.record(site, **{"a.zip": b"PK one"})
        fetch(toy({"host": "zenodo", "id": "77"}))
        assert {request.headers["Authorization"] for request in site.requests} == {"Bearer hidden"}

    def test_an_answer_that_is_no_json(self, site: Site, fetch: Fetch) -> None:
        site.answers["/api/records/77"] = lambda request: (200, {}, b"<html>maintenance")
        with pytest.raises(
            TransferError, match="expected JSON from the host's API, found '<html>maintenance'"
        ):
            fetch(toy({"host": "zenodo", "id": "77"}))

    def test_a_malformed_id(self, fetch: Fetch) -> None:
        with pytest.raises(ManifestError, match="number of a record"):
            fetch(toy({"host": "zenodo", "id": "10.5281/zenodo.77"}))


class TestFigshare:
    def files(self, site: Site, count: int) -> list[dict[str, Any]]:
        entries = []
        for index in range(count):
            content = b"file %d" % index
            site.put(
                f"/ndownloader/{index}", b"", always=Fault(status=302, headers={"Location": f"/s3/{index}"})
            )
            site.put(f"/s3/{index}", content)
            entries.append(
                {"id": index, "name": f"{index}.zip", "size": len(content), "computed_md5": md5(content),
                 "download_url": f"{site.url}/ndownloader/{index}", "is_link_only": False}
            )  # fmt: skip
        return entries

    @staticmethod
    def paged(entries: list[dict[str, Any]]) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            page, size = int(request.query["page"]), int(request.query["page_size"])
            return entries[(page - 1) * size : page * size]

        return answer

    def test_a_version_of_an_article(self, site: Site, fetch: Fetch) -> None:
        site.api("/v2/articles/14371652/versions/2/files", self.paged(self.files(site, 103)))
        found = contents(fetch(toy({"host": "figshare", "id": "14371652", "revision": "2"})))
        assert found == {f"{index}.zip": b"file %d" % index for index in range(103)}

    def test_a_collection(self, site: Site, fetch: Fetch) -> None:
        site.api("/v2/collections/5/articles", self.paged([{"id": 8}, {"id": 9}]))
        site.api("/v2/articles/8/files", self.paged(self.files(site, 1)))
        site.api("/v2/articles/9/files", self.paged(self.files(site, 2)[1:]))
        assert contents(fetch(toy({"host": "figshare", "id": "collection:5"}))) == {
            "8/0.zip": b"file 0",
            "9/1.zip": b"file 1",
        }

    def test_a_link_is_no_file(self, site: Site, fetch: Fetch) -> None:
        entry = {"name": "x", "is_link_only": True, "download_url": "https://elsewhere.example/"}
        site.api("/v2/articles/5/files", [entry])
        with pytest.raises(SourceError, match=r"only links to https://elsewhere\.example/"):
            fetch(toy({"host": "figshare", "id": "5"}))

    def test_a_malformed_id(self, fetch: Fetch) -> None:
        with pytest.raises(ManifestError, match="article's number"):
            fetch(toy({"host": "figshare", "id": "abc"}))


class TestMendeley:
    def site_with_folders(self, site: Site) -> None:
        content = {"root": [("read me.txt", b"top")], "f2": [("a.png", b"image")]}
        site.api(
            "/public-api/datasets/3ksd7w7jkx/folders/1",
            [{"id": "f1", "name": "data"}, {"id": "f2", "name": "images", "parent_id": "f1"}],
        )

        def files(request: Request) -> Any:
            assert request.query["version"] == "1"
            found = content.get(request.query["folder_id"], [])
            for name, data in found:
                site.put(f"/public-files/{name}", data)
            return [
                {"filename": name, "size": len(data),
                 "content_details": {"sha256_hash": sha256(data), "size": len(data),
                                     "download_url": f"{site.url}/public-files/{name}"}}
                for name, data in found
            ]  # fmt: skip

        site.api("/public-api/datasets/3ksd7w7jkx/files", files)

    def test_folders_are_kept(self, site: Site, fetch: Fetch) -> None:
        self.site_with_folders(site)
        found = contents(fetch(toy({"host": "mendeley", "id": "3ksd7w7jkx/1"})))
        assert found == {"read me.txt": b"top", "data/images/a.png": b"image"}

    def test_sizes_and_checksums_are_known_beforehand(self, site: Site) -> None:
        self.site_with_folders(site)
        source = toy({"host": "mendeley", "id": "3ksd7w7jkx/1"})
        files = {file.name: file for file in resolve(source, source.routes[0])}
        image = files["data/images/a.png"]
        assert (image.size, image.hash) == (5, f"sha256:{sha256(b'image')}")
        assert image.mirror == "data.mendeley.com/datasets/3ksd7w7jkx/1/data/images/a.png"

    def test_addresses_of_the_manifest_ask_nobody(self, site: Site, fetch: Fetch) -> None:
        site.put("/public-files/datasets/x/files/y/file_downloaded", b"PK")
        url = f"{site.url}/public-files/datasets/x/files/y/file_downloaded"
        assert contents(
            fetch(toy({"host": "mendeley", "id": "x1/1", "files": [{"name": "a.zip", "url": url}]}))
        ) == {"a.zip": b"PK"}
        assert len(site.requests) == 1

    def test_circular_folders(self, site: Site, fetch: Fetch) -> None:
        site.api("/public-api/datasets/x/folders/1", [{"id": "f1", "name": "a", "parent_id": "f1"}])
        with pytest.raises(SourceError, match="circle"):
            fetch(toy({"host": "mendeley", "id": "x/1"}))

    def test_a_malformed_id(self, fetch: Fetch) -> None:
        with pytest.raises(ManifestError, match="DATASET/VERSION"):
            fetch(toy({"host": "mendeley", "id": "10.17632/abc.1"}))


class TestDataverse:
    route: ClassVar = {
        "host": "dataverse",
        "id": "doi:10.5683/SP2/X",
        "url": "https://borealisdata.ca/dataset.xhtml",
    }

    def test_files_folders_and_converted_tables(self, site: Site, fetch: Fetch) -> None:
        sha1 = hashlib.sha1(b"one").hexdigest()
        files = [
            {"label": "a.zip", "directoryLabel": "data",
             "dataFile": {"id": 1, "filesize": 3, "checksum": {"type": "SHA-1", "value": sha1}}},
            {"label": "t.tab",
             "dataFile": {"id": 2, "filesize": 999, "originalFileName": "t.csv", "originalFileSize": 3,
                          "checksum": {"type": "MD5", "value": "0" * 32}}},
        ]  # fmt: skip
        site.api("/api/datasets/:persistentId/versions/:latest-published", {"data": {"files": files}})
        site.put("/api/access/datafile/1", b"one")
        site.put("/api/access/datafile/2", b"two")
        assert contents(fetch(toy(self.route))) == {"data/a.zip": b"one", "t.csv": b"two"}
        assert site.requests[0].query == {"persistentId": "doi:10.5683/SP2/X"}
        assert site.asked("/api/access/datafile/2")[0].query == {"format": "original"}

    def test_restricted_files_need_a_person(self, site: Site, fetch: Fetch) -> None:
        site.api(
            "/api/datasets/:persistentId/versions/2.0",
            {"data": {"files": [{"label": "a", "restricted": True, "dataFile": {"id": 1}}]}},
        )
        with pytest.raises(
            NeedsPersonError, match=r"1 of 1 files of doi:10\.5683/SP2/X are restricted"
        ) as raised:
            fetch(toy({**self.route, "revision": "2.0"}))
        assert any("DATAVERSE_API_TOKEN" in step for step in raised.value.steps)

    def test_a_malformed_route(self, fetch: Fetch) -> None:
        with pytest.raises(ManifestError, match="installation's 'url'"):
            fetch(toy({"host": "dataverse", "id": "10.5683/SP2/X"}))


class TestTcia:
    def test_the_ultrasound_series_of_a_collection(self, site: Site, fetch: Fetch) -> None:
        series = [
            {"SeriesInstanceUID": "1.2.3", "PatientID": "P 1", "Modality": "US"},
            {"SeriesInstanceUID": "1.2.4", "PatientID": "P 1", "Modality": "MR"},
        ]
        site.api(
            "/nbia-api/services/v1/getSeries",
            lambda request: series if request.query["Collection"] == "C" else [],
        )
        site.put("/nbia-api/services/v1/getImage", b"PK series")
        assert contents(fetch(toy({"host": "tcia", "id": "C"}))) == {"P_1/1.2.3.zip": b"PK series"}
        assert site.requests[-1].query == {"SeriesInstanceUID": "1.2.3"}
        with pytest.raises(SourceError, match="no public collection called 'D'"):
            fetch(toy({"host": "tcia", "id": "D"}, slug="other"))

    def test_a_hostile_identifier(self, site: Site, fetch: Fetch) -> None:
        site.api("/nbia-api/services/v1/getSeries", [{"SeriesInstanceUID": "../../x", "PatientID": "a"}])
        with pytest.raises(SourceError, match="no DICOM identifier"):
            fetch(toy({"host": "tcia", "id": "C"}))


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
