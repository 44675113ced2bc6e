"""Kaggle datasets and competitions."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openus.errors import ChecksumError, ManifestError, NeedsPersonError, SourceError
from openus.fetch import Obtained
from openus.hosts.kaggle import credentials
from openus.manifest import Source
from tests.helpers.sources import toy
from tests.helpers.web import Fault, Request, Site
from tests.hosts.conftest import contents

Fetch = Callable[[Source], Obtained]
DATASET = {"host": "kaggle-dataset", "id": "o/set-a", "access": "account"}
COMPETITION = {"host": "kaggle-competition", "id": "race", "access": "account"}


@pytest.fixture
def signed_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", "hidden")
    return site


def play(site: Site, names: list[str], **headers: str) -> None:
    """A dataset in two pages of its list, and its archive behind a redirect to the storage."""

    def listing(request: Request) -> Any:
        half = len(names) // 2
        if "pageToken" not in request.query:
            return {
                "datasetFiles": [{"name": n, "totalBytes": 3} for n in names[:half]],
                "nextPageToken": "2",
            }
        return {"datasetFiles": [{"name": n, "totalBytes": 3} for n in names[half:]], "nextPageToken": ""}

    site.api("/api/v1/datasets/list/o/set-a", listing)
    site.put(
        "/api/v1/datasets/download/o/set-a", b"", always=Fault(status=302, headers={"Location": "/gcs/a"})
    )
    site.put("/gcs/a", b"PK all", headers=headers)


def test_a_public_dataset_needs_no_account(site: Site, fetch: Fetch) -> None:
    play(site, ["a.csv", "b.csv"])
    assert contents(fetch(toy(DATASET))) == {"set-a.zip": b"PK all"}
    assert not site.asked("/api/v1/datasets/list/o/set-a")


def test_the_list_is_compared_with_the_manifest(signed_in: Site, fetch: Fetch) -> None:
    play(signed_in, ["d/x.z01", "x.change2zip"])
    good = {**DATASET, "files": [{"name": "x.z01", "bytes": 3}, {"name": "x.change2zip"}]}
    assert contents(fetch(toy(good))) == {"set-a.zip": b"PK all"}
    user = base64.b64decode(signed_in.requests[0].headers["Authorization"].removeprefix("Basic "))
    assert user == b"ann:hidden"
    with pytest.raises(SourceError, match=r"no file called 'x\.z02'"):
        fetch(toy({**DATASET, "files": [{"name": "x.z02"}]}, slug="other"))
    with pytest.raises(ChecksumError, match="expected 4 bytes, the host lists 3"):
        fetch(toy({**DATASET, "files": [{"name": "x.z01", "bytes": 4}]}, slug="third"))


def test_the_checksum_of_the_storage_is_judged(signed_in: Site, fetch: Fetch) -> None:
    md5 = base64.b64encode(hashlib.md5(b"PK other").digest()).decode()
    play(signed_in, ["a", "b"], **{"x-goog-hash": f"crc32c=AAAAAA==, md5={md5}"})
    with pytest.raises(ChecksumError, match="the host says md5"):
        fetch(toy(DATASET))


def test_a_pinned_version(signed_in: Site, fetch: Fetch) -> None:
    play(signed_in, ["a", "b"])
    fetch(toy({**DATASET, "revision": "4"}))
    assert signed_in.asked("/api/v1/datasets/download/o/set-a")[0].query == {"datasetVersionNumber": "4"}
    assert signed_in.asked("/api/v1/datasets/list/o/set-a")[0].query["datasetVersionNumber"] == "4"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_download_tells_how_to_sign_in(site: Site, fetch: Fetch, status: int) -> None:
    site.put("/api/v1/datasets/download/o/set-a", b"", always=Fault(status=status))
    with pytest.raises(NeedsPersonError, match=f"HTTP {status}") as raised:
        fetch(toy(DATASET))
    text = "\n".join(raised.value.steps)
    assert "API token" in text
    assert "cache/toy" in text


def test_a_competition_needs_account_and_rules(
    site: Site, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NeedsPersonError, match="no Kaggle credentials") as raised:
        fetch(toy(COMPETITION))
    assert any("https://www.kaggle.com/competitions/race/rules" in step for step in raised.value.steps)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "hidden")
    site.api("/api/v1/competitions/data/list/race", 403)
    with pytest.raises(NeedsPersonError, match="refuses these credentials"):
        fetch(toy(COMPETITION))
    site.api("/api/v1/competitions/data/list/race", {"files": [{"name": "train.zip", "totalBytes": 5}]})
    site.put("/api/v1/competitions/data/download-all/race", b"PK race")
    assert contents(fetch(toy(COMPETITION))) == {"race.zip": b"PK race"}
    assert site.requests[-1].headers["Authorization"] == "Bearer hidden"


class TestCredentials:
    def test_places_in_order(self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "kaggle"
        folder.mkdir()
        assert credentials() == {}
        (folder / "kaggle.json").write_text(json.dumps({"username": "u", "key": "k"}))
        assert credentials() == {"Authorization": "Basic " + base64.b64encode(b"u:k").decode()}
        monkeypatch.setenv("KAGGLE_USERNAME", "v")
        monkeypatch.setenv("KAGGLE_KEY", "l")
        assert credentials() == {"Authorization": "Basic " + base64.b64encode(b"v:l").decode()}
        (folder / "access_token").write_text("from-file\n")
        assert credentials() == {"Authorization": "Bearer from-file"}
        monkeypatch.setenv("KAGGLE_API_TOKEN", "from-env")
        assert credentials() == {"Authorization": "Bearer from-env"}

    def test_a_broken_file(self, site: Site, tmp_path: Path) -> None:
        (tmp_path / "kaggle").mkdir()
        (tmp_path / "kaggle" / "kaggle.json").write_text("{")
        with pytest.raises(SourceError, match=r"kaggle\.json: not the credentials file"):
            credentials()


@pytest.mark.parametrize("route", [{**DATASET, "id": "just-a-name"}, {**COMPETITION, "id": "a/b"}])
def test_malformed_ids(fetch: Fetch, route: dict[str, str]) -> None:
    with pytest.raises(ManifestError, match="the id of a kaggle"):
        fetch(toy(route))
