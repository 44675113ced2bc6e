"""A file under way: its bytes so far, and what identifies the remote file they belong to."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import requests

from openus.checksum import Digests
from openus.net import NETWORK_ERRORS, TRICKLE, InterruptionError, interruption, redact

CHUNK = 128 << 10
HEAD = 2048
"""Bytes by which a web page or a message in place of a file is known."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies the remote file a part belongs to."""

    url: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    md5: str | None = None
    """Of the whole file, where the host sends it with the bytes."""

    @property
    def validator(self) -> str | None:
        """The value for If-Range. A weak ETag does not promise equal bytes, so it is no validator."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.modified


class Part:
    """``NAME.part`` and, beside it, ``NAME.part.json`` with its `Identity`.

    digests:  checksums of the bytes that are in the part.
    furthest: the most bytes it ever held in this process; more than that is progress.
    """

    def __init__(self, base: Path) -> None:
        self.path = base.with_name(base.name + ".part")
        self.note = base.with_name(base.name + ".part.json")
        self.digests = Digests(())
        self.furthest = 0

    @property
    def told(self) -> str | None:
        """The MD5 of the whole file, where the host sent it with the bytes."""
        identity = self._identity()
        return identity.md5 if identity else None

    def ask(
        self,
        url: str,
        algorithms: Iterable[str],
        size: int | None,
        on_bytes: Callable[[int], None],
        *,
        safe: bool,
    ) -> dict[str, str]:
        """Bring `digests` up to the bytes that are here; return the request headers that ask for the rest.

        Without a validator to name, the rest is asked for only if a checksum will judge the whole (`safe`).
        """
        identity = self._identity()
        have = self.path.stat().st_size if self.path.exists() else 0
        if identity is None or identity.url != url or not have or not (identity.validator or safe):
            self.truncate(algorithms, size)
            return {}
        wanted = {*algorithms, *(["md5"] if identity.md5 else [])}
        if not self.digests.covers(wanted, have):
            self.digests = Digests(wanted, identity.size or size)
            with self.path.open("rb") as stream:
                while data := stream.read(CHUNK):
                    self.digests.update(data)
                    on_bytes(self.digests.length)
        self.furthest = max(self.furthest, have)
        headers = {"Range": f"bytes={have}-"}
        if identity.validator:
            headers["If-Range"] = identity.validator
        return headers

    def begin(self, response: requests.Response, url: str) -> tuple[bool, int | None]:
        """Whether `response` goes on where the part ends (else it is the whole file), and the full length.

        Raises `InterruptionError` where the remote file is not the one the part belongs to.
        """
        old = self._identity()
        fresh = Identity(url, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if response.status_code == 200:
            total = announced(response)
            self._write_note(replace(fresh, size=total, md5=_published(response.headers)))
            return False, total
        start, total = _content_range(response)
        complete = response.status_code == 416 and total == self.digests.length
        goes_on = response.status_code == 206 and start == self.digests.length
        changed = old is None or (
            (old.etag and fresh.etag and old.etag != fresh.etag) or (old.size and total and old.size != total)
        )
        if changed or not (complete or goes_on):
            self.discard()
            raise InterruptionError(
                f"{url}: the file changed at the host while it was fetched; starting again"
            )
        return True, total

    def truncate(self, algorithms: Iterable[str], size: int | None) -> None:
        """Start from nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.digests = Digests({*algorithms, *(["md5"] if self.told else [])}, size)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Give the complete file its name; after a crash it is either there whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self.note.unlink(missing_ok=True)

    def _identity(self) -> Identity | None:
        try:
            return Identity(**json.loads(self.note.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _write_note(self, identity: Identity) -> None:
        fresh = self.note.with_name(self.note.name + ".new")
        fresh.write_text(json.dumps(asdict(identity)))
        fresh.replace(self.note)


def _published(headers: Mapping[str, str]) -> str | None:
    """The MD5 of the whole file that Google (also for Kaggle) and Azure storage send along."""
    google = re.search(r"(?:^|[ ,])md5=([A-Za-z0-9+/=]+)", headers.get("x-goog-hash", ""))
    encoded = google[1] if google else headers.get("x-ms-blob-content-md5", "")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    stored = headers.get("Content-Encoding", "identity") == "identity"
    return digest.hex() if len(digest) == 16 and stored else None


def announced(response: requests.Response) -> int | None:
    """The length of the whole file, if the host says it."""
    if response.status_code == 206:
        return _content_range(response)[1]
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return None if encoded else _number(response.headers.get("Content-Length"))


def body(response: requests.Response, url: str, patience: float = 60.0) -> Iterator[bytes]:
    """The bytes as the host stores them, the first `HEAD` or all of them in one piece; compression nobody asked for
    is undone, except on ``.gz`` files.

    Raises `InterruptionError` where less than `TRICKLE` bytes come within `patience` seconds: a time limit for each
    read alone never ends a host that sends a byte now and then.
    """
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    decode = encoded and not url.endswith((".gz", ".tgz"))
    held, begun = b"", False  # what has come of the head
    since, come = time.monotonic(), 0
    while True:
        try:
            data = response.raw.read1(CHUNK, decode_content=decode)
        except NETWORK_ERRORS as error:
            raise interruption(url, error, connected=True) from error
        if not data:
            if held:
                yield held
            return
        come += len(data)
        if not begun:
            held += data
            begun = len(held) >= HEAD
            data, held = (held, b"") if begun else (b"", held)
        if data:
            yield data
        if come >= TRICKLE:
            since, come = time.monotonic(), 0
        elif time.monotonic() - since > patience:
            raise InterruptionError(
                f"{redact(url)}: only {come:,} bytes in {patience:g} s, the host sends too slowly"
            )


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """``bytes 10-99/100`` as (10, 100); ``bytes */100`` as (-1, 100)."""
    value = response.headers.get("Content-Range", "").removeprefix("bytes").strip()
    span, _, total = value.partition("/")
    start = _number(span.partition("-")[0])
    return (-1 if start is None else start), _number(total)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None
