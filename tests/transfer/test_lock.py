"""Trust on first use: what an address gave once, it has to give again."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

import pytest

from openus.errors import ChecksumError
from openus.transfer.download import Transfer
from tests.helpers.web import Site
from tests.transfer.conftest import DATA, FAST, SHA, remote


class TestTrustOnFirstUse:
    def test_other_bytes_later_are_an_error(self, site: Site, transfer: Transfer) -> None:
        served = site.put("/a.zip", DATA)
        transfer.fetch(remote(site), "set").unlink()
        served.content, served.etag = DATA[::-1], '"two"'
        with pytest.raises(
            ChecksumError, match=r"600000 bytes with sha256 .* when first fetched .*lock\.jsonl"
        ):
            transfer.fetch(remote(site), "set")
        assert not (transfer.cache / "set" / "a.zip").exists()
        lines = transfer.lock.path.read_text().splitlines()
        transfer.lock.path.write_text("".join(f"{line}\n" for line in lines if '"url"' not in line))
        assert Transfer(transfer.cache).fetch(remote(site), "set").read_bytes() == DATA[::-1]

    def test_files_made_on_request_only_warn(
        self, site: Site, transfer: Transfer, caplog: pytest.LogCaptureFixture
    ) -> None:
        served = site.put("/a.zip", DATA)
        file = remote(site, size=3, hash=f"md5:{'0' * 32}", stable=False)
        with caplog.at_level(logging.WARNING):
            transfer.fetch(file, "set").unlink()
        assert f"expected md5:{'0' * 32}" in caplog.text
        plain = replace(file, hash=None)
        served.content, served.etag = DATA[::-1], '"two"'
        with caplog.at_level(logging.WARNING):
            assert transfer.fetch(plain, "set").read_bytes() == DATA[::-1]
        assert "the host makes this file on request, so the new bytes are taken" in caplog.text
        seen = transfer.lock.seen(plain.url)
        assert seen is not None
        assert seen.sha256 == hashlib.sha256(DATA[::-1]).hexdigest()

    def test_the_lock_survives_a_cut_line_and_other_writers(self, site: Site, transfer: Transfer) -> None:
        site.put("/a.zip", DATA)
        site.put("/b.zip", DATA)
        transfer.fetch(remote(site), "set")
        with transfer.lock.path.open("a") as stream:
            stream.write('{"url": "http://cut')
        other = Transfer(transfer.cache, retry=FAST)
        other.fetch(remote(site, "b.zip"), "set")
        for lock in (transfer.lock, other.lock, Transfer(transfer.cache).lock):
            for name in ("a.zip", "b.zip"):
                seen = lock.seen(f"{site.url}/{name}")
                assert seen is not None
                assert (seen.size, seen.sha256) == (len(DATA), SHA)

    def test_a_file_altered_in_the_cache_is_noticed(self, site: Site, transfer: Transfer) -> None:
        site.put("/a.zip", DATA)
        path = transfer.fetch(remote(site), "set")
        path.write_bytes(DATA[:-1] + b"!")
        with pytest.raises(ChecksumError, match=r"a\.zip: .* when first fetched"):
            transfer.fetch(remote(site), "set")
        path.write_bytes(b"")
        with pytest.raises(ChecksumError, match="empty"):
            transfer.fetch(remote(site), "set")
