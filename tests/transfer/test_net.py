"""Redirects, credentials, waits: how this package speaks HTTP."""

from __future__ import annotations

import io
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from openus import net
from openus.errors import SourceError, TransferError
from openus.hosts.base import RemoteFile
from openus.net import RetryPolicy, _seconds, get_bytes, new_session, post_json, redact
from openus.transfer.download import Transfer
from openus.transfer.partial import _number
from tests.helpers.proxy import certificate
from tests.helpers.web import Fault, Site, serving
from tests.transfer.conftest import DATA, FAST, remote


class TestRedirects:
    def test_followed_and_the_credentials_stay_at_home(self, site: Site, transfer: Transfer) -> None:
        with serving() as other:
            other.put("/real.zip", DATA)
            site.put("/a.zip", b"", always=Fault(status=302, headers={"Location": "/b.zip"}))
            site.put("/b.zip", b"", always=Fault(status=307, headers={"Location": f"{other.url}/real.zip"}))
            file = remote(site, headers={"Authorization": "Bearer hidden", "X-Key": "hidden"})
            assert transfer.fetch(file, "set").read_bytes() == DATA
            assert site.asked("/a.zip")[0].headers["Authorization"] == "Bearer hidden"
            assert site.asked("/b.zip")[0].headers["X-Key"] == "hidden"
            sent = {name.lower() for name in other.requests[0].headers}
            assert not sent & {"authorization", "x-key", "cookie"}

    def test_a_netrc_replaces_no_credentials(
        self, site: Site, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password other\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        site.put("/a.zip", DATA)
        transfer.fetch(remote(site, headers={"Authorization": "Bearer mine"}), "set")
        assert site.requests[0].headers["Authorization"] == "Bearer mine"

    def test_the_range_travels_along(self, site: Site, transfer: Transfer) -> None:
        with serving() as other:
            other.put("/real.zip", DATA, faults=[Fault(drop=200_000)])
            site.put(
                "/a.zip", b"", always=Fault(status=302, headers={"Location": f"{other.url}/real.zip?sig=1"})
            )
            assert transfer.fetch(remote(site), "set").read_bytes() == DATA
            assert [request.status for request in other.requests] == [200, 206]

    def test_a_loop(self, site: Site, transfer: Transfer) -> None:
        site.put("/a.zip", b"", always=Fault(status=302, headers={"Location": "/a.zip"}))
        with pytest.raises(TransferError, match="more than 10 redirects"):
            transfer.fetch(remote(site), "set")
        assert len(site.requests) == 11

    @pytest.mark.parametrize(
        "target", ["file:///etc/hostname", "ftp://127.0.0.1/a.zip", "data:text/plain,hi"]
    )
    def test_another_scheme(self, site: Site, transfer: Transfer, target: str) -> None:
        site.put("/a.zip", b"", always=Fault(status=302, headers={"Location": target}))
        with pytest.raises(TransferError, match="only http and https are followed"):
            transfer.fetch(remote(site), "set")

    @pytest.mark.parametrize("url", ["file:///etc/hostname", "a.zip", "http://[bad/a.zip"])
    def test_an_address_that_is_none(self, transfer: Transfer, url: str) -> None:
        with pytest.raises(SourceError, match=r"not an http\(s\) address"):
            transfer.fetch(RemoteFile("a.zip", url), "set")


def test_secrets_are_never_told(site: Site, transfer: Transfer, caplog: pytest.LogCaptureFixture) -> None:
    site.put("/a.zip", DATA, faults=[Fault(status=503)], always=Fault(status=403))
    url = (
        site.url.replace("http://", "http://user:hunter2@")
        + "/a.zip?id=7&access_token=hunter2&X-Amz-Signature=hunter2"
    )
    file = RemoteFile("a.zip", url, headers={"Authorization": "Bearer hunter2"})
    with caplog.at_level(logging.DEBUG), pytest.raises(TransferError) as raised:
        transfer.fetch(file, "set")
    assert "id=7" in str(raised.value)
    stored = "".join(path.read_text() for path in transfer.cache.rglob("*") if path.is_file())
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("openus"))
    for text in (str(raised.value), repr(replace(file, url="")), ours, stored):
        assert "hunter2" not in text


@given(st.sampled_from(["http://h/p?", "https://u:p@h:8/p?a=b&"]), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_redaction_is_idempotent_and_drops_secrets(start: str, value: str) -> None:
    shown = redact(f"{start}token=QQsecretQQ{value.replace('&', '')}")
    assert "QQsecretQQ" not in shown
    assert redact(shown) == shown


@given(st.text(min_size=1), st.integers(1, 12))
def test_waits_are_the_same_each_time_and_bounded(key: str, attempt: int) -> None:
    policy = RetryPolicy(base=1.0, cap=60.0)
    wait = policy.delay(key, attempt)
    assert wait == policy.delay(key, attempt)
    full = min(60.0, 2.0 ** (attempt - 1))
    assert full / 2 <= wait <= full


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
def test_an_encrypted_address_never_becomes_a_plain_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified, context = certificate(tmp_path, ["127.0.0.1"])
    site.put("/plain.zip", DATA)
    with serving(context) as secure:
        secure.put("/a.zip", b"", always=Fault(status=302, headers={"Location": f"{site.url}/plain.zip"}))
        secure.put("/b.zip", DATA)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certified))
        transfer = Transfer(tmp_path / "cache", retry=FAST)
        with pytest.raises(TransferError, match="redirects from https to plain http"):
            transfer.fetch(remote(secure), "set")
        assert not site.requests
        assert transfer.fetch(remote(secure, "b.zip"), "set").read_bytes() == DATA
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        with pytest.raises(TransferError, match=r"certificate of the host cannot be verified"):
            Transfer(tmp_path / "other", retry=FAST).fetch(remote(secure, "b.zip"), "set")


@pytest.mark.parametrize("value", ["\N{SUPERSCRIPT TWO}", "-1", "soon", ""])
def test_a_wait_that_nobody_can_read_is_none(value: str) -> None:
    assert _seconds(value, None) is None and _number(value) is None


def test_a_fragment_may_be_a_secret_too() -> None:
    assert redact("https://h/p?a=b#access_token=hunter2") == "https://h/p?a=b"


def test_an_answer_is_no_longer_than_it_may_be(site: Site) -> None:
    site.put("/list", b"x" * 101)
    assert len(get_bytes(new_session(), f"{site.url}/list", limit=101)) == 101
    with pytest.raises(TransferError, match="larger than 100 bytes"):
        get_bytes(new_session(), f"{site.url}/list", limit=100)


def test_a_form_is_sent_to_no_other_address(site: Site) -> None:
    """It may hold a key, which a redirect would carry on."""
    site.put("/login", b"", always=Fault(status=307, headers={"Location": "/elsewhere"}))
    site.api("/elsewhere", {"stolen": True})
    with pytest.raises(TransferError, match="HTTP 307"):
        post_json(new_session(), f"{site.url}/login", {"key": "hunter2"})
    assert [request.path for request in site.requests] == ["/login"]


@pytest.mark.parametrize(
    "own",
    ["127.0.0.1", "127.8.8.8:8080", "localhost", "a.localhost.", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]",
     "0.0.0.0", "[fe80::1]"],
)  # fmt: skip
def test_no_other_host_leads_to_this_machine(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor to the address where clouds keep credentials. What a manifest itself names may be anywhere."""
    asked = []

    def answer(session: object, url: str, *_: object) -> requests.Response:
        asked.append(url)
        response = requests.Response()
        response.raw = io.BytesIO()
        response.status_code, response.headers["Location"] = 302, f"http://{own}/latest/meta-data"
        return response

    monkeypatch.setattr(net, "_get", answer)
    with pytest.raises(TransferError, match="redirects to this machine itself"):
        net.open_url(new_session(), "http://data.example.org/a.zip")
    assert asked == ["http://data.example.org/a.zip"]
    with pytest.raises(TransferError, match="more than 10 redirects"):
        net.open_url(new_session(), f"http://{own}/a.zip")
