"""`openus doctor --online` against local servers that play the hosts: what works, and every way to be dead."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.doctor import SourceCheck, examine_sources
from openus.doctor.online import ALL_PROBED, SOME_PROBED
from openus.manifest import Route
from openus.net import RetryPolicy
from openus.transfer.lock import LockFile
from tests.helpers import toys
from tests.helpers.sources import toy
from tests.helpers.web import Fault, Site, serving
from tests.sources.hosting import PLAYED
from tests.sources.packing import zip_of

FAST = RetryPolicy(attempts=2, connect_attempts=1, base=0.01, cap=0.05)
DATA = zip_of({"images/a.png": b"\x89PNG" * 400})
MD5 = hashlib.md5(DATA).hexdigest()
COMMIT = "c" * 40


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server that plays all hosts; no credentials of this machine are used."""
    for name in ("GOOGLE_API_KEY", "HF_TOKEN", "GIRDER_API_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        for host in (*PLAYED, "kaggle", "tcia"):
            monkeypatch.setenv(f"OPENUS_ENDPOINT_{host.upper().replace('-', '_')}", f"{running.url}/{host}")
        monkeypatch.setenv("KAGGLE_USERNAME", "someone")
        monkeypatch.setenv("KAGGLE_KEY", "secret")
        running.put("/licence", b"<html>You may.</html>")
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def http(site: Site, name: str = "a.zip", **facts: Any) -> dict[str, Any]:
    return {"host": "http", "files": [{"name": name, "url": f"{site.url}/{name}", **facts}]}


def look(site: Site, cache: Path, *routes: dict[str, Any], page: str = "/licence") -> SourceCheck:
    licence = {"name": "unknown", "redistribution": "recipe-only", "url": site.url + page}
    (found,) = examine_sources([toy(*routes, licence=licence)], cache, retry=FAST)
    return found


ROUTES: dict[str, dict[str, Any]] = {
    "zenodo": {"id": "123", "files": [{"name": "a.zip", "bytes": len(DATA), "md5": MD5}]},
    "figshare": {"id": "7"},
    "mendeley": {"id": "abcdefghij/1"},
    "girder": {"id": "f" * 24, "url": "https://girder.example.org/api/v1"},
    "huggingface": {"id": "someone/something"},
    "kaggle-dataset": {"id": "someone/a", "access": "account"},
    "kaggle-competition": {"id": "a", "access": "account"},
    "github": {"id": "owner/a", "revision": COMMIT},
    "google-drive": {"id": "folder", "url": "https://drive.google.com/drive/folders/folder"},
}


def play(site: Site, host: str) -> dict[str, Any]:
    """Let the site play a route with one file; the bytes lie where the host's own addresses lead."""
    route = {"host": host, **ROUTES[host]}
    name = "p1/a.zip" if host == "girder" else "a.zip"  # a collection holds folders, and these hold files
    PLAYED[host](site, Route.model_validate(route), {name: DATA})
    site.put("/kaggle/api/v1/datasets/download/someone/a", DATA)
    site.put("/kaggle/api/v1/competitions/data/download-all/a", DATA)
    site.put(f"/github/owner/a/archive/{COMMIT}.zip", DATA)
    site.put("/google-drive/drive/v3/files/drive-0", DATA)
    return route


@pytest.mark.parametrize("host", ROUTES)
def test_a_route_that_leads_to_its_file(site: Site, cache: Path, host: str) -> None:
    found = look(site, cache, play(site, host))
    (route,) = found.routes
    assert (route.state, route.files, route.bytes, route.probed) == ("works", 1, len(DATA), 1), route.detail
    assert found.way.startswith(f"route 1: {host}") and found.licence.state == "there"
    sent = sum(int(r.headers.get("Range", "bytes=0-0").rpartition("-")[2]) for r in site.requests)
    assert sent < 5000, "only the beginning of a file is asked for"
    assert not any(cache.rglob("*.zip")), "nothing is kept"


@pytest.mark.parametrize("host", ROUTES)
def test_a_dead_route_names_the_next(site: Site, cache: Path, host: str) -> None:
    site.put("/b.zip", DATA)
    found = look(site, cache, {"host": host, **ROUTES[host]}, http(site, "b.zip"))
    assert [route.state for route in found.routes] == ["dead", "works"], found.routes[0].detail
    assert "404" in found.routes[0].detail and found.routes[0].next == "route 2: http"
    assert found.way == "route 2: http"


def test_another_size_in_the_listing(site: Site, cache: Path) -> None:
    play(site, "zenodo")
    for spec, words in (({"bytes": 7}, "expected 7 bytes"), ({"md5": "0" * 32}, "expected md5:0000")):
        found = look(site, cache, {"host": "zenodo", "id": "123", "files": [{"name": "a.zip", **spec}]})
        assert found.routes[0].state == "changed" and words in found.routes[0].detail
        assert found.way == ""


@pytest.mark.parametrize("ignore_range", [False, True])
def test_another_size_where_no_api_lists_it(site: Site, cache: Path, ignore_range: bool) -> None:
    site.put("/a.zip", DATA, always=Fault(ignore_range=ignore_range))
    (route,) = look(site, cache, http(site, bytes=len(DATA) + 1)).routes
    assert route.state == "changed" and f"found {len(DATA)}" in route.detail
    (route,) = look(site, cache, http(site, bytes=len(DATA) + 1, stable=False)).routes
    assert route.state == "works", "a host that packs on request may give another size"


def test_another_size_than_was_fetched_before(site: Site, cache: Path) -> None:
    site.put("/a.zip", DATA)
    assert look(site, cache, http(site)).routes[0].state == "works"
    LockFile(cache).record(f"{site.url}/a.zip", len(DATA) - 5, "0" * 64)
    (route,) = look(site, cache, http(site)).routes
    assert route.state == "changed" and f"had {len(DATA) - 5} bytes" in route.detail


def test_a_page_in_place_of_the_file(site: Site, cache: Path) -> None:
    site.put("/a.zip", b"<!doctype html><title>Sign in</title>" + b" " * 600)
    (route,) = look(site, cache, http(site)).routes
    assert route.state == "dead" and "'Sign in'" in route.detail


def test_a_passing_trouble_is_waited_for(site: Site, cache: Path) -> None:
    site.put("/a.zip", DATA, faults=[Fault(status=503)])
    assert look(site, cache, http(site)).routes[0].state == "works"


def test_nobody_at_the_address(site: Site, cache: Path) -> None:
    route = {"host": "http", "files": [{"name": "a.zip", "url": "http://127.0.0.1:9/a.zip"}]}
    found = look(site, cache, route, page="/gone")
    assert found.routes[0].state == "dead" and found.way == ""


def test_an_answer_of_another_shape(site: Site, cache: Path) -> None:
    site.api("/zenodo/api/records/123", {"files": [{"filename": "a.zip"}]})
    (route,) = look(site, cache, {"host": "zenodo", "id": "123"}).routes
    assert route.state == "dead" and "not understood" in route.detail


def test_many_files_are_looked_at_here_and_there(site: Site, cache: Path) -> None:
    names = [f"p/{number:02}.png" for number in range(ALL_PROBED + 1)]
    for name in names:
        site.put(f"/{name}", b"\x89PNG")
    del site.files[f"/{names[-1]}"]
    many = {"host": "http", "files": [{"name": n, "url": f"{site.url}/{n}"} for n in names]}
    assert look(site, cache, many).routes[0].state == "dead", "the last one is among those looked at"
    site.put(f"/{names[-1]}", b"\x89PNG")
    (route,) = look(site, cache, many).routes
    assert (route.state, route.files, route.probed) == ("works", len(names), SOME_PROBED)


def test_kaggle_without_credentials_needs_a_person(
    site: Site, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    found = look(site, cache, {"host": "kaggle-competition", **ROUTES["kaggle-competition"]})
    assert found.routes[0].state == "person" and "no Kaggle credentials" in found.routes[0].detail
    assert found.way.startswith("route 1"), "with credentials it would go"


@pytest.mark.parametrize(
    ("status", "route_state", "licence_state"),
    [(200, "person", "there"), (404, "dead", "gone"), (410, "dead", "gone"), (403, "person", "closed")],
)
def test_pages_of_manual_routes_and_licences(
    site: Site, cache: Path, status: int, route_state: str, licence_state: str
) -> None:
    site.answers["/page"] = lambda request: (status, {"Content-Type": "text/html"}, b"<html></html>")
    manual = {"host": "manual", "url": f"{site.url}/page", "steps": ["Ask."]}
    found = look(site, cache, manual, page="/page")
    assert (found.routes[0].state, found.licence.state) == (route_state, licence_state)


# ── as a user runs it ──────────────────────────────────────────────────────────────────────────────────────

SOURCE = """
schema: 1
slug: {slug}
name: {slug}
title: A toy
anatomy: liver
kind: image
licence: {{name: unknown, redistribution: recipe-only, url: "{url}/{page}"}}
routes:
  - host: zenodo
    id: "123"
    files: [{{name: a.zip, bytes: {size}}}]
  - host: http
    files: [{{name: a.zip, url: "{url}/{second}"}}]
images: ["images/*.png"]
"""


def doctor(tmp_path: Path, *more: str) -> Any:
    return toys.run(
        [sys.executable, "-m", "openus.cli", "doctor", str(tmp_path / "out"), "--online", "--cache",
         str(tmp_path / "cache"), "--manifests", str(tmp_path / "mine"), *more], COLUMNS="100",
    )  # fmt: skip


def test_the_command_tells_it_as_table_and_as_json(site: Site, tmp_path: Path) -> None:
    play(site, "zenodo")
    site.put("/good.zip", DATA)
    (tmp_path / "mine").mkdir()
    facts = {
        "toy-good": {"page": "licence", "second": "good.zip", "size": len(DATA)},
        "toy-moved": {"page": "no-licence", "second": "good.zip", "size": 1},
        "toy-lost": {"page": "licence", "second": "bad.zip", "size": 1},
    }
    for slug, values in facts.items():
        text = SOURCE.format(slug=slug, url=site.url, **values)
        (tmp_path / "mine" / f"{slug}.yaml").write_text(text)
    wanted = [word for slug in facts for word in ("--source", slug)]
    told = doctor(tmp_path, *wanted)
    assert told.returncode == 0, told.stderr
    assert max(map(len, told.stdout.splitlines())) <= 120 and "next: route 2: http" in told.stdout
    assert "no way to get: toy-lost" in told.stdout and "toy-moved: gone" in told.stdout
    answer = json.loads(doctor(tmp_path, *wanted, "--json").stdout)
    states = {s["slug"]: [route["state"] for route in s["routes"]] for s in answer["sources"]}
    assert states == {
        "toy-good": ["works", "works"], "toy-moved": ["changed", "works"], "toy-lost": ["changed", "dead"]
    }  # fmt: skip
    assert {check["area"] for check in answer["machine"]} >= {"tools", "packages", "disk", "credentials"}
    assert "secret" not in told.stdout + json.dumps(answer), "credentials are never shown"


def test_it_fails_only_where_nothing_works(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    text = SOURCE.format(slug="toy-lost", url=site.url, page="x", second="bad.zip", size=1)
    (tmp_path / "mine" / "toy-lost.yaml").write_text(text)
    told = doctor(tmp_path, "--source", "toy-lost")
    assert told.returncode == 1 and "no route works" in told.stderr
    drop = tmp_path / "cache" / "toy-lost" / "images"
    drop.mkdir(parents=True)
    (drop / "a.png").write_bytes(b"\x89PNG")
    assert doctor(tmp_path, "--source", "toy-lost").returncode == 0, "it is here already"
