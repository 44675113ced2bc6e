"""Google Drive: through the API of a local site, and through `gdown` and a proxy that plays Google."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.errors import ChecksumError, ManifestError, SourceError, TransferError
from openus.fetch import Obtained
from openus.hosts.google_drive import file_id
from openus.manifest import Source
from tests.helpers.proxy import pretending
from tests.helpers.sources import toy
from tests.helpers.web import Fault, Request, Site
from tests.hosts.conftest import contents

Fetch = Callable[[Source], Obtained]
FOLDER, SUB, ONE = "F" * 33, "S" * 33, "A" * 33
FOLDER_ROUTE = {
    "host": "google-drive",
    "id": FOLDER,
    "url": f"https://drive.google.com/drive/folders/{FOLDER}",
}
NATIVE = "application/vnd.google-apps"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://drive.google.com/file/d/{ONE}/view?usp=sharing", ONE),
        (f"https://drive.google.com/file/u/0/d/{ONE}/view", ONE),
        (f"https://drive.google.com/uc?id={ONE}&export=download", ONE),
        (f"https://drive.google.com/open?id={ONE}", ONE),
        (f"https://elsewhere.example/uc?id={ONE}", None),
        ("https://drive.google.com/drive/my-drive", None),
    ],
)
def test_identifiers_in_addresses(url: str, expected: str | None) -> None:
    assert file_id(url) == expected


class TestApi:
    @pytest.fixture
    def drive(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
        monkeypatch.setenv("OPENUS_ENDPOINT_GOOGLE_DRIVE", site.url)
        monkeypatch.setenv("GOOGLE_API_KEY", "hidden")
        return site

    def play(self, site: Site, count: int = 60) -> None:
        """A folder with a sub-folder of `count` images, a text document, and a shortcut that leads back."""
        images = [{"id": f"I{index}", "name": f"{index:03}.png", "mimeType": "image/png", "size": "3",
                   "md5Checksum": hashlib.md5(b"%03d" % index).hexdigest()} for index in range(count)]  # fmt: skip
        for index in range(count):
            site.put(f"/drive/v3/files/I{index}", b"%03d" % index)
        top = [
            {"id": SUB, "name": "images", "mimeType": f"{NATIVE}.folder"},
            {"id": "D", "name": "notes", "mimeType": f"{NATIVE}.document"},
            {"id": "L", "name": "loop", "mimeType": f"{NATIVE}.shortcut",
             "shortcutDetails": {"targetId": FOLDER, "targetMimeType": f"{NATIVE}.folder"}},
        ]  # fmt: skip

        def listing(request: Request) -> Any:
            assert request.headers["X-Goog-Api-Key"] == "hidden"
            if FOLDER in request.query["q"]:
                return {"files": top}
            page = int(request.query.get("pageToken", "0"))
            more = {"nextPageToken": str(page + 40)} if page + 40 < count else {}
            return {"files": images[page : page + 40], **more}

        site.api("/drive/v3/files", listing)

    def test_a_whole_folder(self, drive: Site, fetch: Fetch) -> None:
        self.play(drive, 50)  # with the API, fifty files are not suspicious
        found = contents(fetch(toy(FOLDER_ROUTE)))
        assert found == {f"images/{index:03}.png": b"%03d" % index for index in range(50)}

    def test_only_what_the_manifest_includes(self, drive: Site, fetch: Fetch) -> None:
        self.play(drive)
        found = contents(fetch(toy({**FOLDER_ROUTE, "include": ["images/00?.png"]})))
        assert set(found) == {f"images/00{digit}.png" for digit in range(10)}
        with pytest.raises(SourceError, match=r"none of the 60 files .* matches nothing/\*\*"):
            fetch(toy({**FOLDER_ROUTE, "include": ["nothing/**"]}, slug="other"))

    def test_a_single_file_is_compared(self, drive: Site, fetch: Fetch) -> None:
        def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
            if request.query.get("alt") == "media":
                return 200, {}, b"PK"
            entry = b'{"size": "2", "md5Checksum": "%s"}' % hashlib.md5(b"PK").hexdigest().encode()
            return 200, {"Content-Type": "application/json"}, entry

        drive.answers[f"/drive/v3/files/{ONE}"] = answer
        route = {"host": "google-drive", "id": ONE, "url": "https://github.com/o/n"}
        assert contents(fetch(toy({**route, "files": [{"name": "a.zip"}]}))) == {"a.zip": b"PK"}
        with pytest.raises(ChecksumError, match="expected 3 bytes, the host lists 2"):
            fetch(toy({**route, "files": [{"name": "a.zip", "bytes": 3}]}, slug="other"))
        bad = {"name": "a.zip", "url": "https://drive.google.com/drive/my-drive"}
        with pytest.raises(ManifestError, match="not the address of a file on Google Drive"):
            fetch(toy({**route, "files": [bad]}, slug="third"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
class TestPage:
    @pytest.fixture
    def google(self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
        names = ["drive.google.com", "drive.usercontent.google.com"]
        with pretending(tmp_path, names) as (running, environment):
            for name in ("NO_PROXY", "no_proxy", "CURL_CA_BUNDLE"):
                monkeypatch.delenv(name, raising=False)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            yield running

    def play(self, google: Site, count: int) -> None:
        ids = [f"{index:033}" for index in range(count)]
        pages = {
            FOLDER: f'<a href="https://drive.google.com/drive/folders/{SUB}">images</a>',
            SUB: "".join(
                f'<a href="https://drive.google.com/file/d/{i}/view?usp=drive_web">{i[-3:]}.png</a>'
                for i in ids
            ),
        }

        def page(request: Request) -> tuple[int, dict[str, str], bytes]:
            title = "images" if request.query["id"] == SUB else "shared"
            text = (
                f"<html><head><title>{title}</title></head><body>{pages[request.query['id']]}</body></html>"
            )
            return 200, {"Content-Type": "text/html; charset=utf-8"}, text.encode()

        def download(request: Request) -> tuple[int, dict[str, str], bytes]:
            assert request.query["confirm"] == "t"
            return 200, {"Content-Type": "application/octet-stream"}, request.query["id"].encode()

        google.answers["/embeddedfolderview"] = page
        google.answers["/download"] = download

    def test_a_folder_without_a_key(self, google: Site, fetch: Fetch) -> None:
        self.play(google, 51)
        found = contents(fetch(toy(FOLDER_ROUTE)))
        assert found == {f"images/{index:03}.png": b"%033d" % index for index in range(51)}

    def test_the_stop_at_fifty_is_said(self, google: Site, fetch: Fetch) -> None:
        self.play(google, 50)
        with pytest.raises(
            SourceError, match=r"exactly 50 files are listed in folder 'images'.*GOOGLE_API_KEY"
        ):
            fetch(toy(FOLDER_ROUTE))

    def test_a_folder_that_is_not_shared(self, google: Site, fetch: Fetch) -> None:
        google.answers["/embeddedfolderview"] = lambda request: (403, {}, b"no")
        with pytest.raises(TransferError, match=r"page cannot be read .*drop folder"):
            fetch(toy(FOLDER_ROUTE))

    def test_a_used_up_quota_is_told_by_the_pages_title(self, google: Site, fetch: Fetch) -> None:
        page = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
        google.put("/download", page, always=Fault(headers={"Content-Type": "text/html"}))
        route = {"host": "google-drive", "id": ONE, "files": [{"name": "a.zip"}]}
        with pytest.raises(
            TransferError, match="a web page titled 'Google Drive - Quota exceeded' came instead"
        ):
            fetch(toy(route))
