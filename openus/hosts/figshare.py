"""figshare: articles of the REST API v2 (``GET /v2/articles/ID[/versions/N]/files``, https://docs.figshare.com).

``id`` is the number of an article or ``collection:NUMBER``; ``revision`` its version. A personal token in
``FIGSHARE_TOKEN`` is sent to the API if it is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from openus.errors import ManifestError, SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile
from openus.manifest import Route, Source

API = "https://api.figshare.com"
PAGE = 100


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    kind, _, number = identifier(source, route).rpartition(":")
    if not number.isdecimal() or kind not in ("", "collection"):
        raise ManifestError(
            f"{source.slug}: the id of a figshare route is an article's number or collection:NUMBER, found {route.id!r}"
        )
    if web is None:
        return from_manifest(source, route, mirror_of=lambda name: f"figshare.com/articles/{number}/{name}")
    token = os.environ.get("FIGSHARE_TOKEN")
    headers = {"Authorization": f"token {token}"} if token else {}
    base = f"{endpoint('figshare', API)}/v2"
    if kind:
        members = _pages(web, f"{base}/collections/{number}/articles", headers)
        articles = [(str(article["id"]), f"{article['id']}/") for article in members]
    else:
        articles = [(number, "")]
    listed: list[RemoteFile] = []
    for article, prefix in articles:
        version = f"/versions/{route.revision}" if route.revision and not kind else ""
        entries = _pages(web, f"{base}/articles/{article}{version}/files", headers)
        listed += [_file(source, article, prefix, entry, headers) for entry in entries]
    return reconcile(source, route, listed)


def _pages(web: Web, url: str, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        entries = web.json(url, {"page": page, "page_size": PAGE}, headers)
        yield from entries
        if len(entries) < PAGE:
            return
        page += 1


def _file(
    source: Source, article: str, prefix: str, entry: dict[str, Any], headers: dict[str, str]
) -> RemoteFile:
    if entry.get("is_link_only"):
        raise SourceError(
            f"{source.slug}: figshare {article} only links to {entry.get('download_url')}; use that address in the "
            "manifest"
        )
    md5 = entry.get("computed_md5") or entry.get("supplied_md5")
    return RemoteFile(
        prefix + entry["name"],
        entry["download_url"],
        entry.get("size"),
        f"md5:{md5}" if md5 else None,
        headers,
        mirror=f"figshare.com/articles/{article}/{entry['name']}",
    )
