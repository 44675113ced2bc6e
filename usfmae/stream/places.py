"""A corpus folder wherever it lies: a path, `file://`, `http(s)://`, or anything fsspec knows (`s3://`, `hf://`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from openus.errors import CorpusError, MissingExtraError, UsageError

_EXTRAS = {"s3": ("s3fs", "remote"), "s3a": ("s3fs", "remote")}


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


@contextmanager
def open_url(url: str, start: int = 0, stop: int | None = None) -> Iterator[IO[bytes]]:
    """A remote file as a byte stream, whole or from `start` to `stop` (exclusive).

    Raises CorpusError naming the address: not there, refused, or the network failed. MissingExtraError where
    the address needs a package that is not installed.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        yield from _open_http(url, start, stop)
    else:
        yield from _open_fsspec(url, scheme, start, stop)


def _open_http(url: str, start: int, stop: int | None) -> Iterator[IO[bytes]]:
    import requests
    import urllib3

    from openus.net import USER_AGENT

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
            with session.get(url, headers=headers, stream=True, timeout=(15, 60)) as answer:
                if answer.status_code not in (200, 206):
                    raise CorpusError(
                        f"{url}: the server answers {answer.status_code}; check the address and access"
                    )
                if ranged and answer.status_code != 206:
                    raise CorpusError(f"{url}: the server ignores byte ranges; use a cache of whole shards")
                yield _typed(answer.raw)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise CorpusError(f"{url}: cannot be read ({error}); check the network and try again") from error


def _open_fsspec(url: str, scheme: str, start: int, stop: int | None) -> Iterator[IO[bytes]]:
    if scheme in _EXTRAS and importlib.util.find_spec(_EXTRAS[scheme][0]) is None:
        package, extra = _EXTRAS[scheme]
        raise MissingExtraError(package, extra, f"reading {url}")
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        if start > 0 or stop is not None:
            import io

            yield io.BytesIO(system.cat_file(path, start=start, end=stop))
            return
        with system.open(path, "rb") as stream:
            yield _typed(stream)
    except (ValueError, ImportError) as error:  # an address no file system of fsspec is registered for
        raise UsageError(f"{url}: addresses of this kind are not known here ({error})") from error
    except OSError as error:
        raise CorpusError(
            f"{url}: cannot be read ({error}); check the address, access and network"
        ) from error


def _typed(stream: Any) -> IO[bytes]:
    result: IO[bytes] = stream
    return result
