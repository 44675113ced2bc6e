"""Mirrors: folders and addresses that hold files under HOST/PATH."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openus.errors import ChecksumError, TransferError, UsageError
from openus.hosts.base import RemoteFile
from openus.transfer.download import Transfer
from tests.helpers.web import Site, serving
from tests.transfer.conftest import DATA, FAST, SHA, remote


class TestMirrors:
    def test_a_folder_is_used_in_place(self, site: Site, tmp_path: Path) -> None:
        kept = tmp_path / "mirror" / "host.example" / "x" / "a b.zip"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(DATA)
        transfer = Transfer(tmp_path / "cache", mirrors=[str(tmp_path / "mirror")], offline=True)
        file = RemoteFile("a b.zip", "https://host.example/x/a%20b.zip?download=1", hash=f"sha256:{SHA}")
        assert transfer.fetch(file, "set") == kept
        assert not (tmp_path / "cache" / "set").exists()
        with pytest.raises(
            ChecksumError, match=r"mirror/host\.example/x/a b\.zip: expected sha256:0+, found sha256:"
        ):
            transfer.fetch(replace(file, hash=f"sha256:{'0' * 64}"), "set")
        kept.write_bytes(b"<!doctype html><title>gone</title>")
        with pytest.raises(TransferError, match="a web page titled 'gone'"):
            transfer.fetch(file, "set")

    def test_another_name_in_the_mirror_is_brought_under_its_own(self, tmp_path: Path) -> None:
        kept = tmp_path / "mirror" / "host.example" / "get?id=7"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(DATA)
        transfer = Transfer(tmp_path / "cache", mirrors=[str(tmp_path / "mirror")], offline=True)
        path = transfer.fetch(RemoteFile("deep/a.zip", "https://host.example/get?id=7"), "set")
        assert path == tmp_path / "cache" / "set" / "deep" / "a.zip"
        assert path.read_bytes() == DATA

    def test_an_address_is_asked_first_without_the_credentials(self, site: Site, tmp_path: Path) -> None:
        with serving() as mirror:
            mirror.put("/m/127.0.0.1/a.zip", DATA)
            site.put("/a.zip", b"the host itself")
            site.put("/b.zip", b"only the host has it")
            transfer = Transfer(tmp_path / "cache", mirrors=[f"{mirror.url}/m/"], retry=FAST)
            secret = {"Authorization": "Bearer hidden"}
            assert transfer.fetch(remote(site, headers=secret), "set").read_bytes() == DATA
            assert "Authorization" not in mirror.requests[0].headers
            assert not site.requests
            assert transfer.fetch(remote(site, "b.zip"), "set").read_bytes() == b"only the host has it"
            assert mirror.requests[1].status == 404

    def test_a_mirror_cannot_replace_what_was_seen(self, site: Site, tmp_path: Path) -> None:
        site.put("/a.zip", DATA)
        Transfer(tmp_path / "cache").fetch(remote(site), "set").unlink()
        kept = tmp_path / "mirror" / "127.0.0.1" / "a.zip"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(DATA[::-1])
        with pytest.raises(ChecksumError, match="tampered"):
            Transfer(tmp_path / "cache", mirrors=[str(tmp_path / "mirror")]).fetch(remote(site), "set")

    def test_a_mirror_that_is_neither(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="neither a folder that is there nor an http"):
            Transfer(tmp_path, mirrors=[str(tmp_path / "nowhere")])

    def test_a_path_that_leaves_the_mirror(self, tmp_path: Path) -> None:
        transfer = Transfer(tmp_path / "cache", mirrors=[str(tmp_path)])
        with pytest.raises(UsageError, match="not a path a mirror can hold"):
            transfer.fetch(RemoteFile("a.zip", "https://host.example/%2e%2e/%2e%2e/secret"), "set")
