"""What the resolvers of all hosts share: asking an API, and comparing its answer with the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import requests

from openus.checksum import split_hash
from openus.errors import ChecksumError, ManifestError, SourceError, a_few, did_you_mean
from openus.glob import Glob, any_matches
from openus.hosts.base import RemoteFile
from openus.manifest import RemoteSpec, Route, Source
from openus.net import RetryPolicy, get_bytes, get_json, post_json


@dataclass(frozen=True)
class Web:
    """How a resolver reaches its host's API."""

    session: requests.Session
    retry: RetryPolicy | None = None

    def json(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return get_json(self.session, url, params=params, headers=headers, retry=self.retry)

    def post(self, url: str, params: Mapping[str, str]) -> Any:
        """The JSON answer to a form; its fields are not part of the address, which may be logged."""
        return post_json(self.session, url, params, retry=self.retry)

    def text(self, url: str, headers: Mapping[str, str] | None = None) -> str:
        return get_bytes(self.session, url, headers=headers, retry=self.retry).decode("utf-8", "replace")


def endpoint(host: str, default: str) -> str:
    """The base address of a host: ``$OPENUS_ENDPOINT_<HOST>`` (a proxy, an institute's own instance) or `default`."""
    return os.environ.get(f"OPENUS_ENDPOINT_{host.upper().replace('-', '_')}", default).rstrip("/")


def identifier(source: Source, route: Route) -> str:
    """The route's `id`; raise `ManifestError` where it has none."""
    if not route.id:
        raise ManifestError(f"{source.slug}: the {route.host} route has no 'id'; add it to the manifest")
    return route.id


def expected_hash(spec: RemoteSpec) -> str | None:
    """The strongest checksum a manifest gives, as algorithm:hexadecimal."""
    for algorithm, value in (("sha256", spec.sha256), ("md5", spec.md5), ("sha1", spec.sha1)):
        if value:
            return f"{algorithm}:{value}"
    return None


def from_manifest(
    source: Source,
    route: Route,
    url_of: Callable[[str], str] | None = None,
    mirror_of: Callable[[str], str] | None = None,
) -> list[RemoteFile]:
    """The files a manifest lists, without asking anybody.

    url_of, mirror_of: the address, and HOST/PATH in a mirror, of the file of a name, where the manifest
    gives no address. Raises `SourceError` where the manifest lists no file or no address.
    """
    if not route.files:
        raise SourceError(
            f"{source.slug}: the manifest names no files of the {route.host} route, so they cannot be found without "
            "asking the host; go online, or give your own copy with --local"
        )
    files = []
    for spec in route.files:
        if spec.url is None and url_of is None:
            raise SourceError(
                f"{source.slug}: the manifest gives no address of {spec.name} ({route.host}); go online, or give "
                "your own copy with --local"
            )
        url = spec.url or (url_of(spec.name) if url_of else "")
        mirror = mirror_of(spec.name) if mirror_of and not spec.url else None
        files.append(
            RemoteFile(spec.name, url, spec.bytes, expected_hash(spec), stable=spec.stable, mirror=mirror)
        )
    return files


def reconcile(source: Source, route: Route, listed: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Choose the files a route wants among those its host lists, and compare them with the manifest.

    The manifest names them (`files`), or describes them (`include`), or takes all. A name may be given
    without its folders. Raises `SourceError` for a file the host does not have, `ChecksumError` where its
    size or checksum is not the manifest's.
    """
    if not listed:
        raise SourceError(
            f"{source.slug}: {route.host} {route.id} lists no files; see {route.url or 'its page'}"
        )
    if route.files:
        return [_match(source, route, spec, listed) for spec in route.files]
    if route.include:
        globs = [Glob(pattern) for pattern in route.include]
        chosen = [file for file in listed if any_matches(globs, file.name)]
        if not chosen:
            raise SourceError(
                f"{source.slug}: none of the {len(listed)} files of {route.host} {route.id} matches "
                f"{', '.join(route.include)} (it has {_names(listed)}); correct 'include' in the manifest"
            )
        return chosen
    return list(listed)


def _match(source: Source, route: Route, spec: RemoteSpec, listed: Sequence[RemoteFile]) -> RemoteFile:
    named = [file for file in listed if file.name == spec.name]
    if not named:
        plain = PurePosixPath(spec.name).name.lower()
        named = [file for file in listed if PurePosixPath(file.name).name.lower() == plain]
    if len(named) != 1:
        problem = "has no file" if not named else f"has {len(named)} files"
        hint = did_you_mean(spec.name, [file.name for file in listed]) or f" (it has {_names(listed)})"
        raise SourceError(f"{source.slug}: {route.host} {route.id} {problem} called {spec.name!r}{hint}")
    return check_listed(source, route, spec, named[0])


def check_listed(source: Source, route: Route, spec: RemoteSpec, file: RemoteFile) -> RemoteFile:
    """A file of the host with the manifest's knowledge added; `ChecksumError` where the two disagree."""
    where = f"{source.slug}: {spec.name} at {route.host} {route.id}"
    if spec.stable and None not in (spec.bytes, file.size) and spec.bytes != file.size:
        raise ChecksumError(
            f"{where}: expected {spec.bytes} bytes, the host lists {file.size}; a new version was published or the "
            "manifest is wrong: compare with the dataset's page"
        )
    given = {
        name: value
        for name, value in (("md5", spec.md5), ("sha1", spec.sha1), ("sha256", spec.sha256))
        if value
    }
    if spec.stable and file.hash:
        algorithm, found = split_hash(file.hash)
        if algorithm in given and given[algorithm].lower() != found:
            raise ChecksumError(
                f"{where}: expected {algorithm}:{given[algorithm]}, the host lists {file.hash}; a new version was "
                "published or the manifest is wrong: compare with the dataset's page"
            )
    return replace(
        file,
        name=spec.name,
        size=file.size if file.size is not None else spec.bytes,
        hash=expected_hash(spec) or file.hash,
        stable=spec.stable and file.stable,
    )


def _names(files: Iterable[RemoteFile]) -> str:
    return a_few([file.name for file in files], 6)


def url_path(path: str) -> str:
    """A path ready to stand in an address."""
    return quote(path, safe="/")
