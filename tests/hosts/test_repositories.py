"""Repositories with an API: Zenodo, figshare, Mendeley Data, Dataverse, TCIA."""

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
from tests.helpers.web import Fault, Request, Site
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

    @pytest.mark.parametrize("pages", [True, False])
    def test_long_folders_with_and_without_pages(self, site: Site, pages: bool) -> None:
        entries = [
            {"filename": f"{n}.png", "content_details": {"download_url": f"{site.url}/{n}"}}
            for n in range(2500)
        ]

        def files(request: Request) -> Any:
            start, limit = int(request.query["$start"]), int(request.query["$limit"])
            return entries[start : start + limit] if pages else entries

        site.api("/public-api/datasets/x/folders/1", [])
        site.api("/public-api/datasets/x/files", files)
        source = toy({"host": "mendeley", "id": "x/1"})
        assert len(resolve(source, source.routes[0])) == 2500

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
