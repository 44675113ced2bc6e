"""GitHub, plain addresses, manual routes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openus.errors import ManifestError, NeedsPersonError, SourceError, TransferError
from openus.fetch import Obtained
from openus.hosts import MODULES, resolve
from openus.manifest import Route, Source
from tests.helpers.sources import toy
from tests.helpers.web import Site
from tests.hosts.conftest import contents

SHA = "ba4a898d6c42fdfb5aa2b122742fd4cf6195349b"
Fetch = Callable[[Source], Obtained]


def test_every_host_of_the_schema_has_a_resolver() -> None:
    hosts = Route.model_fields["host"].annotation.__args__  # type: ignore[union-attr]
    assert set(MODULES) == set(hosts)


class TestGitHub:
    def test_the_archive_of_a_commit(self, site: Site, fetch: Fetch) -> None:
        site.put(f"/o/n.x/archive/{SHA}.zip", b"PK archive")
        source = toy({"host": "github", "id": "o/n.x", "revision": SHA})
        assert contents(fetch(source)) == {f"{SHA}.zip": b"PK archive"}
        (file,) = resolve(source, source.routes[0], online=False)
        assert (file.stable, file.mirror) == (False, f"github.com/o/n.x/archive/{SHA}.zip")

    def test_single_files_of_a_commit(self, site: Site, fetch: Fetch) -> None:
        site.put(f"/o/n/{SHA}/Data set/a #1.zip", b"Rar! one")
        site.put(f"/o/n/{SHA}/list.txt", b"two")
        files = [{"name": "Data set/a #1.zip", "bytes": 8}, {"name": "list.txt"}]
        obtained = fetch(toy({"host": "github", "id": "o/n", "revision": SHA, "files": files}))
        assert contents(obtained) == {"Data set/a #1.zip": b"Rar! one", "list.txt": b"two"}
        assert len(obtained.roots) == 1

    def test_the_real_addresses(self) -> None:
        source = toy({"host": "github", "id": "o/n", "revision": SHA})
        (file,) = resolve(source, source.routes[0], online=False)
        assert file.url == f"https://github.com/o/n/archive/{SHA}.zip"
        source = toy({"host": "github", "id": "o/n", "revision": SHA, "files": [{"name": "a b.txt"}]})
        (file,) = resolve(source, source.routes[0], online=False)
        assert file.url == f"https://raw.githubusercontent.com/o/n/{SHA}/a%20b.txt"
        assert file.mirror == f"raw.githubusercontent.com/o/n/{SHA}/a b.txt"

    @pytest.mark.parametrize(
        ("route", "words"),
        [({"id": "o/n"}, "pin it to a commit"), ({"id": "n"}, "OWNER/NAME"), ({}, "no 'id'")],
    )
    def test_a_malformed_route(self, fetch: Fetch, route: dict[str, str], words: str) -> None:
        with pytest.raises(ManifestError, match=words):
            fetch(toy({"host": "github", **route}))


class TestHttp:
    def test_files_at_addresses(self, site: Site, fetch: Fetch) -> None:
        site.put("/get", b"one")
        site.put("/x/b.csv", b"two")
        files = [
            {"name": "a.zip", "url": f"{site.url}/get?id=1"},
            {"name": "b.csv", "url": f"{site.url}/x/b.csv"},
        ]
        assert contents(fetch(toy({"host": "http", "files": files}))) == {"a.zip": b"one", "b.csv": b"two"}
        assert site.asked("/get")[0].query == {"id": "1"}

    def test_nothing_to_fetch(self, fetch: Fetch) -> None:
        with pytest.raises(SourceError, match="names no files of the http route"):
            fetch(toy({"host": "http"}))
        with pytest.raises(SourceError, match=r"no address of a\.zip"):
            fetch(toy({"host": "http", "files": [{"name": "a.zip"}]}))


class TestManual:
    def test_steps_say_page_files_and_place(self, fetch: Fetch) -> None:
        files = [{"name": "a.zip", "bytes": 1234, "sha256": "0" * 64}]
        route = {
            "host": "manual",
            "access": "registration",
            "url": "https://host.example/form",
            "files": files,
        }
        with pytest.raises(
            NeedsPersonError, match=r"toy: a person must fetch this dataset .*registration"
        ) as raised:
            fetch(toy(route))
        text = "\n".join(raised.value.steps)
        for part in (
            "https://host.example/form",
            "a.zip",
            "1,234 bytes",
            "0" * 64,
            "cache/toy",
            "--local toy=PATH",
        ):
            assert part in text

    def test_the_steps_of_the_manifest_come_first(self, fetch: Fetch) -> None:
        steps = ["Open https://host.example/a and sign the form.", "Wait for the e-mail."]
        with pytest.raises(NeedsPersonError) as raised:
            fetch(
                toy({"host": "manual", "access": "request", "url": "https://host.example/", "steps": steps})
            )
        assert list(raised.value.steps[:2]) == steps
        assert not any("host.example/ " in step for step in raised.value.steps[2:])


def test_a_dead_route_falls_to_the_next(site: Site, fetch: Fetch) -> None:
    site.put("/b.zip", b"the second route")
    dead = {"host": "http", "files": [{"name": "a.zip", "url": f"{site.url}/gone.zip"}]}
    alive = {"host": "http", "id": "second", "files": [{"name": "b.zip", "url": f"{site.url}/b.zip"}]}
    obtained = fetch(toy(dead, alive))
    assert contents(obtained) == {"b.zip": b"the second route"}
    assert obtained.route == "http second"
    with pytest.raises(TransferError, match=r"none of its 2 routes works: http: .*404.*; http: .*404"):
        fetch(toy(dead, dead, slug="other"))
    with pytest.raises(NeedsPersonError, match=r"404.*a person must fetch"):
        fetch(toy(dead, {"host": "manual"}, slug="third"))
