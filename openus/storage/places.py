"""A corpus folder wherever it lies: a path, `file://`, `http(s)://`, or anything fsspec knows (`s3://`, `hf://`)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from openus.errors import CorpusError, MissingExtraError, UsageError

_EXTRAS = {"s3": ("s3fs", "remote"), "s3a": ("s3fs", "remote")}


class NoRangesError(CorpusError):
    """A server sends whole files only."""


class Place:
    """A folder (`folder` is its path) or the address of one (`folder` is None); files are named relative to it."""

    def __init__(self, data: str | Path) -> None:
        text = str(data)
        scheme, found, _ = text.partition("://")
        self.scheme = scheme.lower() if found and scheme.isidentifier() else "file"
        self.folder: Path | None = None
        if self.scheme == "file":
            self.folder = Path(unquote(urlsplit(text).path)) if found else Path(data)
        self.url = text.rstrip("/") if self.folder is None else str(self.folder)

    def __str__(self) -> str:
        return self.url

    def at(self, name: str) -> str:
        """The path or address of a file of this place."""
        return str(self.folder / name) if self.folder is not None else f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of one small file. Raises CorpusError where it is not there or the network fails."""
        if self.folder is not None:
            try:
                return (self.folder / name).read_bytes()
            except OSError as error:
                raise CorpusError(
                    f"{self.folder / name}: {error.strerror or error}; run 'openus verify', or build the corpus again"
                ) from error
        with open_url(self.at(name)) as stream:
            return stream.read()


class RemoteStream:
    """Bytes of a remote file; a failing read becomes a CorpusError that names the address."""

    def __init__(self, url: str, stream: Any, failures: tuple[type[BaseException], ...]) -> None:
        self.url, self._stream, self._failures = url, stream, failures

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all that are left."""
        try:
            data: bytes = self._stream.read() if size < 0 else self._stream.read(size)
        except self._failures as error:
            raise CorpusError(
                f"{self.url}: the connection failed ({error}); check the network, try again"
            ) from error
        return data


@contextmanager
def open_url(url: str, start: int = 0, stop: int | None = None) -> Iterator[RemoteStream]:
    """A remote file as a byte stream, whole or from `start` to `stop` (exclusive).

    Raises CorpusError naming the address: not there, refused, or the network failed. MissingExtraError where
    the address needs a package that is not installed, UsageError for an address of an unknown kind.
    """
    scheme = url.partition("://")[0].lower()
    opened = _open_http(url, start, stop) if scheme in ("http", "https") else _open_fsspec(url, start, stop)
    with opened as stream:
        yield stream


@contextmanager
def _open_http(url: str, start: int, stop: int | None) -> Iterator[RemoteStream]:
    import requests
    import urllib3

    from openus.net import USER_AGENT

    failures = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
    ranged = start > 0 or stop is not None
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    retry = urllib3.Retry(
        4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    with requests.Session() as session:
        for prefix in ("http://", "https://"):
            session.mount(prefix, requests.adapters.HTTPAdapter(max_retries=retry))
        try:
            answer = session.get(url, headers=headers, stream=True, timeout=(15, 60))
        except failures as error:
            raise CorpusError(
                f"{url}: cannot be reached ({error}); check the address and the network"
            ) from error
        with answer:
            if answer.status_code not in (200, 206):
                raise CorpusError(
                    f"{url}: the server answers {answer.status_code}; check the address and your access"
                )
            if ranged and answer.status_code != 206:
                raise NoRangesError(f"{url}: the server ignores byte ranges; give a cache for whole shards")
            yield RemoteStream(url, answer.raw, failures)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it; listings are asked anew each time.

    Raises MissingExtraError where it needs a package that is not installed, UsageError for an unknown kind.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in _EXTRAS and importlib.util.find_spec(_EXTRAS[scheme][0]) is None:
        package, extra = _EXTRAS[scheme]
        raise MissingExtraError(package, extra, f"access to {url}")
    import fsspec

    # What SFTP is given goes on to the client, which knows no such word; it keeps no listings.
    options = {} if scheme in ("sftp", "ssh") else {"use_listings_cache": False}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url}: addresses of this kind are not known here ({error})") from error
    return system, path


@contextmanager
def _open_fsspec(url: str, start: int, stop: int | None) -> Iterator[RemoteStream]:
    # Each file system raises what its own library raises, so any exception here is one of the remote side.
    failures = (Exception,)
    system, path = file_system(url)
    try:
        opened = (
            system.open(path, "rb")
            if stop is None
            else io.BytesIO(system.cat_file(path, start=start, end=stop))
        )
        if start and stop is None:
            opened.seek(start)
    except failures as error:
        raise CorpusError(
            f"{url}: cannot be read ({error}); check the address, your access and the network"
        ) from error
    with opened:
        yield RemoteStream(url, opened, failures)
