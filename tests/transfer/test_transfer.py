"""Downloads against a server that drops, stalls, lies and changes its mind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openus.checksum import split_hash
from openus.errors import ChecksumError, OfflineError, SourceError, TransferError
from openus.hosts.base import RemoteFile
from openus.transfer.download import Transfer, safe_name
from tests.helpers.web import Fault, Site
from tests.transfer.conftest import DATA, FAST, SHA, remote


def part_of(transfer: Transfer, name: str = "a.zip") -> Path:
    return transfer.cache / ".partial" / "set" / f"{name}.part"


def test_a_file_arrives_verified_and_leaves_no_traces(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA)
    seen: list[tuple[int, int | None]] = []
    transfer.on_bytes = lambda file, have, total: seen.append((have, total))
    path = transfer.fetch(remote(site, size=len(DATA), hash=f"sha256:{SHA}"), "set")
    assert path == transfer.cache / "set" / "a.zip"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
    assert not list(part_of(transfer).parent.iterdir())
    assert site.requests[0].headers["User-Agent"].startswith("openus/")
    assert site.requests[0].headers["Accept-Encoding"] == "identity"
    again = Transfer(transfer.cache).fetch(remote(site, size=len(DATA), hash=f"sha256:{SHA}"), "set")
    assert again == path
    assert len(site.requests) == 1


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "git"])
def test_each_checksum_is_judged(site: Site, transfer: Transfer, algorithm: str) -> None:
    content = b"a small table\n"
    stored = b"blob %d\0" % len(content) + content if algorithm == "git" else content
    digest = hashlib.new("sha1" if algorithm == "git" else algorithm, stored).hexdigest()
    site.put("/a.csv", content)
    site.put("/b.csv", content, always=Fault(chunked=True))
    good = f"{algorithm}:{digest}"
    assert transfer.fetch(remote(site, "a.csv", hash=good), "set").read_bytes() == content
    assert transfer.fetch(remote(site, "b.csv", hash=good), "set").read_bytes() == content
    site.put("/c.csv", content + b"!")
    with pytest.raises(ChecksumError, match=rf"expected {algorithm}:{digest}, found {algorithm}:"):
        transfer.fetch(remote(site, "c.csv", hash=good), "set")
    assert not (transfer.cache / "set" / "c.csv").exists()


@pytest.mark.parametrize("header", ["x-goog-hash", "x-ms-blob-content-md5"])
def test_a_checksum_the_storage_sends_along_is_judged(site: Site, transfer: Transfer, header: str) -> None:
    def told(content: bytes) -> dict[str, str]:
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {header: f"crc32c=AAAAAA==,md5={md5}" if "goog" in header else md5}

    site.put("/a.zip", DATA, headers=told(DATA), faults=[Fault(drop=200_000)])
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    site.put("/b.zip", DATA, headers=told(b"other"))
    with pytest.raises(ChecksumError, match=r"the host says md5:.*damaged on the way"):
        transfer.fetch(remote(site, "b.zip"), "set")


def test_a_dropped_connection_goes_on_where_it_stopped(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, faults=[Fault(drop=200_000), Fault(drop=100_000)])
    assert transfer.fetch(remote(site, hash=f"sha256:{SHA}"), "set").read_bytes() == DATA
    ranges = [request.headers.get("Range") for request in site.requests]
    assert ranges[0] is None
    assert [int(str(r).removeprefix("bytes=").rstrip("-")) for r in ranges[1:]] == [200_000, 300_000]
    assert [request.headers.get("If-Range") for request in site.requests] == [None, '"one"', '"one"']


def test_many_drops_are_survived_while_bytes_arrive(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, always=Fault(drop=50_000))
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert len(site.requests) == 12


def test_a_host_that_never_gets_further_is_given_up(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, always=Fault(drop=50_000, ignore_range=True))
    with pytest.raises(TransferError, match=r"(?s)a\.zip.*gave up after 4 attempts; run it again to go on"):
        transfer.fetch(remote(site), "set")
    assert len(site.requests) == 4  # only the first brought anything new


def test_a_host_without_ranges_starts_again(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, faults=[Fault(drop=200_000)], always=Fault(ignore_range=True))
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert [request.status for request in site.requests] == [200, 200]


def test_a_file_that_changes_mid_way_is_fetched_whole(site: Site, transfer: Transfer) -> None:
    served = site.put("/a.zip", DATA, faults=[Fault(drop=200_000)])
    other = random.Random(8).randbytes(len(DATA))

    def change(file: RemoteFile, have: int, total: int | None) -> None:
        served.content, served.etag = other, '"two"'

    transfer.on_bytes = change
    assert transfer.fetch(remote(site), "set").read_bytes() == other


def test_a_host_that_ignores_if_range_is_caught_by_its_etag(site: Site, transfer: Transfer) -> None:
    """The server sends the rest of the new file as 206; the pieces must not be joined."""
    other = random.Random(8).randbytes(len(DATA))
    part = part_of(transfer)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1000])
    note = {"url": f"{site.url}/a.zip", "etag": 'W/"one"', "modified": "yesterday", "size": len(DATA)}
    part.with_name("a.zip.part.json").write_text(json.dumps(note))
    site.put("/a.zip", other, etag='"two"', modified="yesterday")
    assert transfer.fetch(remote(site), "set").read_bytes() == other
    assert [request.status for request in site.requests] == [206, 200]


def test_a_host_that_gives_a_range_in_pieces(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, faults=[Fault(drop=100_000)], always=Fault(piece=150_000))
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert [request.status for request in site.requests] == [200, 206, 206, 206, 206]


@pytest.mark.parametrize("told", ["bytes 0-299999/300000", "bytes 150000-299999/300000", ""])
def test_a_range_that_begins_elsewhere_is_not_joined(site: Site, transfer: Transfer, told: str) -> None:
    """No checksum is published: only the answer says that the piece does not go on where the part ends."""
    data = DATA[:300_000]
    served = site.put("/a.zip", data, faults=[Fault(drop=200_000)])
    start = int(told[6:].partition("-")[0]) if told else 200_000
    headers = {"ETag": str(served.etag)} | ({"Content-Range": told} if told else {})
    served.faults.append(Fault(status=206, headers=headers, body=data[start:]))
    assert transfer.fetch(remote(site), "set").read_bytes() == data
    assert [request.status for request in site.requests] == [200, 206, 200]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(site: Site, transfer: Transfer) -> None:
    part = part_of(transfer)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA + b"more")
    note = {"url": f"{site.url}/a.zip", "etag": '"one"', "modified": None, "size": None}
    part.with_name("a.zip.part.json").write_text(json.dumps(note))
    site.put("/a.zip", DATA)
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert [request.status for request in site.requests] == [416, 200]


@pytest.mark.parametrize(
    ("path", "size", "statuses"),
    [("b.zip", len(DATA), [200]), ("a.zip", len(DATA) + 1, [206, 200])],
)
def test_a_part_of_another_address_or_length_is_not_gone_on_with(
    site: Site, transfer: Transfer, path: str, size: int, statuses: list[int]
) -> None:
    """Both files have one date, and the host no other validator."""
    date = "Mon, 23 Nov 2026 10:00:00 GMT"
    part = part_of(transfer)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    note = {"url": f"{site.url}/{path}", "etag": None, "modified": date, "size": size}
    part.with_name("a.zip.part.json").write_text(json.dumps(note))
    site.put("/a.zip", DATA, etag=None, modified=date)
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert [request.status for request in site.requests] == statuses


def test_room_is_wanted_for_what_is_still_to_come(
    transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200))
    file = RemoteFile("a.zip", "https://example.org/a.zip")
    transfer._check_room(file, 1000, 800)
    transfer._check_room(file, None, 0)
    with pytest.raises(TransferError, match="201 more bytes are needed"):
        transfer._check_room(file, 1000, 799)


def test_pieces_of_two_files_without_any_identity_are_caught_by_the_checksum(
    site: Site, transfer: Transfer
) -> None:
    other = random.Random(8).randbytes(len(DATA))
    part = part_of(transfer)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1000])
    part.with_name("a.zip.part.json").write_text(json.dumps({"url": f"{site.url}/a.zip", "size": len(DATA)}))
    site.put("/a.zip", other, etag=None)
    sha = hashlib.sha256(other).hexdigest()
    assert transfer.fetch(remote(site, hash=f"sha256:{sha}"), "set").read_bytes() == other
    assert [request.status for request in site.requests] == [206, 200]


def test_without_identity_or_checksum_nothing_is_joined(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, etag=None, faults=[Fault(drop=200_000)])
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert [request.headers.get("Range") for request in site.requests] == [None, None]


def test_a_weak_etag_is_no_identity_but_a_date_is(site: Site, transfer: Transfer) -> None:
    date = "Mon, 23 Nov 2026 10:00:00 GMT"
    site.put("/a.zip", DATA, etag='W/"x"', modified=date, faults=[Fault(drop=200_000)])
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA
    assert site.requests[1].headers["If-Range"] == date
    assert site.requests[1].status == 206


def test_a_part_that_is_already_complete_is_taken(site: Site, transfer: Transfer) -> None:
    part = part_of(transfer)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA)
    note = {"url": f"{site.url}/a.zip", "etag": '"one"', "modified": None, "size": len(DATA)}
    part.with_name("a.zip.part.json").write_text(json.dumps(note))
    site.put("/a.zip", DATA)
    assert transfer.fetch(remote(site, hash=f"sha256:{SHA}"), "set").read_bytes() == DATA
    assert [request.status for request in site.requests] == [416]


@pytest.mark.parametrize("status", [429, 503, 500, 502, 504])
def test_trouble_that_passes(site: Site, transfer: Transfer, status: int) -> None:
    site.put("/a.zip", DATA, faults=[Fault(status=status), Fault(status=status)])
    assert transfer.fetch(remote(site), "set").read_bytes() == DATA


def test_retry_after_is_honoured_in_seconds_and_as_a_date(site: Site, transfer: Transfer) -> None:
    for name in ("a.zip", "b.zip"):
        date = time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2)
        )  # one to two seconds ahead
        wait = "1" if name == "a.zip" else date
        site.put(f"/{name}", DATA, faults=[Fault(status=503, headers={"Retry-After": wait})])
        began = time.monotonic()
        transfer.fetch(remote(site, name), "set")
        assert 0.9 <= time.monotonic() - began < 4


def test_a_host_that_asks_for_too_much_patience(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, always=Fault(status=429, headers={"Retry-After": "86400"}))
    with pytest.raises(TransferError, match=r"too many requests \(HTTP 429\); the host asks to wait 86400 s"):
        transfer.fetch(remote(site), "set")
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "login"),
        (403, "refuses"),
        (404, "no such file"),
        (410, "withdrawn"),
        (418, "refuses the request"),
    ],
)
def test_refusals_are_not_tried_again(site: Site, transfer: Transfer, status: int, words: str) -> None:
    site.put("/a.zip", DATA, always=Fault(status=status))
    with pytest.raises(TransferError, match=rf"HTTP {status}.*{words}.*--local"):
        transfer.fetch(remote(site), "set")
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><head><title>Sign in &amp; accept</title></head></html>",
        b"\xef\xbb\xbf\n <!-- x --><HTML><TITLE>Sign in &amp; accept</TITLE>",
    ],
)
def test_a_web_page_in_place_of_the_file(site: Site, transfer: Transfer, page: bytes) -> None:
    site.put("/a.zip", page, always=Fault(headers={"Content-Type": "text/html"}))
    with pytest.raises(TransferError, match=r"a web page titled 'Sign in & accept' came instead of a.zip"):
        transfer.fetch(remote(site, size=len(DATA)), "set")
    site.put("/page.html", page)
    assert transfer.fetch(remote(site, "page.html"), "set").read_bytes() == page


def test_messages_and_pointers_in_place_of_the_file(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", b'{"error": "quota"}', always=Fault(headers={"Content-Type": "application/json"}))
    with pytest.raises(TransferError, match=r'sent a message instead of a\.zip: {"error": "quota"}'):
        transfer.fetch(remote(site), "set")
    site.put("/b.zip", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(TransferError, match=r"a Git LFS pointer came instead of b.zip"):
        transfer.fetch(remote(site, "b.zip"), "set")


def test_the_wrong_length_is_noticed_before_the_bytes_are_moved(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA)
    with pytest.raises(ChecksumError, match=r"expected 5 bytes, found 600000"):
        transfer.fetch(remote(site, size=5), "set")
    assert not part_of(transfer).exists() or part_of(transfer).stat().st_size == 0


def test_an_endless_answer_stops_at_the_expected_size(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA, always=Fault(chunked=True))
    with pytest.raises(ChecksumError, match=r"expected 300000 bytes, found [34]\d{5}"):
        transfer.fetch(remote(site, size=300_000), "set")


def test_a_length_that_is_never_reached(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", b"", always=Fault(status=200, headers={"Content-Length": "900"}, body=b"x" * 500))
    with pytest.raises(TransferError, match="gave up after 4 attempts"):
        transfer.fetch(remote(site), "set")


def test_an_empty_file(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", b"")
    with pytest.raises(TransferError, match="empty file"):
        transfer.fetch(remote(site), "set")


def test_a_compression_nobody_asked_for(site: Site, transfer: Transfer) -> None:
    squeezed = zlib.compressobj(wbits=31)
    body = squeezed.compress(DATA) + squeezed.flush()
    site.put("/a.csv", body, always=Fault(encoding="gzip"))
    assert transfer.fetch(remote(site, "a.csv", size=len(DATA)), "set").read_bytes() == DATA
    site.put("/a.csv.gz", body, always=Fault(encoding="gzip"))
    assert transfer.fetch(remote(site, "a.csv.gz"), "set").read_bytes() == body


def test_a_stall_ends_at_the_time_limit_and_goes_on(site: Site, tmp_path: Path) -> None:
    quick = Transfer(tmp_path / "cache", retry=FAST, timeout=(2.0, 0.3))
    site.put("/a.zip", DATA, faults=[Fault(drop=300_000, pause=1.5)])
    began = time.monotonic()
    assert quick.fetch(remote(site), "set").read_bytes() == DATA
    assert time.monotonic() - began < 1.4
    assert site.requests[1].headers["Range"].startswith("bytes=")


def test_a_host_that_sends_a_byte_now_and_then_is_given_up(site: Site, tmp_path: Path) -> None:
    """Each byte comes within the time limit of a read, so only the rate tells."""
    quick = Transfer(tmp_path / "cache", retry=FAST, timeout=(2.0, 0.3))
    site.put("/a.zip", DATA, always=Fault(drip=0.02))
    began = time.monotonic()
    with pytest.raises(
        TransferError, match=r"only \d+ bytes in 0\.3 s, the host sends too slowly \(gave up after 4"
    ):
        quick.fetch(remote(site), "set")
    assert time.monotonic() - began < 10
    assert len(site.requests) == 4


def test_every_third_range_is_dropped(site: Site, transfer: Transfer) -> None:
    faults = [Fault(piece=40_000), Fault(piece=40_000), Fault(drop=0)] * 8
    site.put("/a.zip", DATA, faults=[Fault(drop=40_000), *faults], always=Fault(piece=40_000))
    assert transfer.fetch(remote(site, hash=f"sha256:{SHA}"), "set").read_bytes() == DATA
    assert len(site.requests) > 15


def test_a_clock_that_jumped_changes_no_wait(site: Site, transfer: Transfer) -> None:
    """Retry-After as a date is counted from the host's own Date, whatever the clock of this machine says."""
    headers = {"Date": "Mon, 03 Jan 2050 10:00:00 GMT", "Retry-After": "Mon, 03 Jan 2050 10:00:01 GMT"}
    site.put("/a.zip", DATA, faults=[Fault(status=503, headers=headers)])
    began = time.monotonic()
    transfer.fetch(remote(site), "set")
    assert 0.9 <= time.monotonic() - began < 4


def test_no_server_at_all(transfer: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openus.net._silent", set())  # of other tests: a silent host is asked once only
    with pytest.raises(TransferError, match=r"refuses the connection.*gave up after 2 attempts"):
        transfer.fetch(RemoteFile("a.zip", "http://127.0.0.1:9/a.zip"), "set")


def test_a_probe_moves_no_more_than_the_first_bytes(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA)
    site.put("/b.zip", DATA, always=Fault(ignore_range=True), faults=[Fault(status=503)])
    site.put("/c.zip", DATA, always=Fault(chunked=True, ignore_range=True))
    assert [transfer.probe(remote(site, name)) for name in ("a.zip", "b.zip", "c.zip")] == [
        600_000,
        600_000,
        None,
    ]
    assert site.requests[0].headers["Range"] == "bytes=0-2047"
    assert not (transfer.cache / "set").exists()
    with pytest.raises(ChecksumError, match="expected 5 bytes, found 600000"):
        transfer.probe(remote(site, size=5))
    with pytest.raises(TransferError, match="HTTP 404"):
        transfer.probe(remote(site, "gone.zip"))
    site.put("/d.zip", b"<html><title>Moved</title>", always=Fault(headers={"Content-Type": "text/html"}))
    with pytest.raises(TransferError, match="a web page titled 'Moved'"):
        transfer.probe(remote(site, "d.zip"))


def test_offline_takes_the_cache_and_asks_nobody(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", DATA)
    path = transfer.fetch(remote(site), "set")
    offline = Transfer(transfer.cache, offline=True, mirrors=[site.url])
    assert offline.fetch(remote(site), "set") == path
    with pytest.raises(OfflineError, match=r"b\.zip: not in the cache"):
        offline.fetch(remote(site, "b.zip"), "set")
    assert len(site.requests) == 1


@pytest.mark.parametrize("name", ["../a.zip", "/a.zip", "a/../../b", "a\\b", "a\nb", "a/", "x" * 300])
def test_unsafe_names_are_refused(transfer: Transfer, name: str) -> None:
    with pytest.raises(SourceError, match=r"safe file name|longer than 240 bytes"):
        transfer.fetch(RemoteFile(name, "http://127.0.0.1:9/"), "set")


@pytest.mark.parametrize("text", ["md5:12", "sha256:" + "g" * 64, "crc32:00000000", "0" * 64])
def test_malformed_checksums_are_refused(transfer: Transfer, text: str) -> None:
    with pytest.raises(SourceError, match="not a checksum written as"):
        transfer.fetch(RemoteFile("a.zip", "http://127.0.0.1:9/", hash=text), "set")


def test_a_disk_without_room_is_noticed_beforehand(site: Site, transfer: Transfer) -> None:
    site.put("/a.zip", b"", always=Fault(status=200, headers={"Content-Length": str(10**16)}))
    with pytest.raises(TransferError, match=r"10,000,000,000,000,000 more bytes are needed .* --cache"):
        transfer.fetch(remote(site), "set")


def test_an_unusable_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(TransferError, match=r"cannot use .*choose another --cache"):
        Transfer(tmp_path / "cache").fetch(RemoteFile("a.zip", "http://127.0.0.1:9/"), "set")


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_accepted_names_stay_inside(name: str) -> None:
    try:
        path = safe_name(f"set/{name}")
    except SourceError:
        return
    root = Path("/cache")
    assert Path(os.path.normpath(root / path)).is_relative_to(root / "set")


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "git"])
def test_checksums_are_read_in_any_case(algorithm: str) -> None:
    digits = "AB" * {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "git": 20}[algorithm]
    assert split_hash(f"{algorithm.upper()}:{digits}") == (algorithm, digits.lower())
