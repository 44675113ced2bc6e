"""Girder: collections and folders of a data management system of that name, item by item.

``url`` is the address of its REST API (``…/api/v1``), ``id`` a collection or folder. Items are fetched one by
one, because a folder's zip is made on request, has no checksum and cannot be resumed. A key in
``GIRDER_API_KEY`` is exchanged for a token.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from openus.errors import ManifestError, SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile
from openus.manifest import Route, Source
from openus.net import HttpError

log = logging.getLogger(__name__)

PAGE = 500


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    identity = identifier(source, route)
    if not re.fullmatch(r"[0-9a-f]{24}", identity) or not route.url:
        raise ManifestError(f"{source.slug}: a girder route needs the API's 'url' and an 'id' of 24 digits")
    real = route.url.partition("#")[0].rstrip("/")
    base = endpoint("girder", real)
    host = urlsplit(real).hostname

    def mirror(path: str) -> str:
        return f"{host}/{identity}/{path}"

    if web is None:
        return from_manifest(source, route, mirror_of=mirror)
    headers = _token(web, base)
    listed = [
        RemoteFile(
            path,
            f"{base}/item/{item['_id']}/download",
            item.get("size"),
            headers=headers,
            mirror=mirror(path),
        )
        for path, item in _walk(source, web, base, identity, headers)
    ]
    return reconcile(source, route, listed)


def _token(web: Web, base: str) -> dict[str, str]:
    key = os.environ.get("GIRDER_API_KEY")
    if not key:
        return {}
    answer = web.post(f"{base}/api_key/token", {"key": key})
    return {"Girder-Token": str(answer["authToken"]["token"])}


def _walk(
    source: Source, web: Web, base: str, identity: str, headers: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every item below a collection or folder, with its path."""
    try:
        web.json(f"{base}/collection/{identity}", headers=headers)
        kind = "collection"
    except HttpError as error:
        if error.status not in (400, 404):
            raise
        kind = "folder"
    waiting = [(identity, kind, "")]
    seen: set[str] = set()
    while waiting:
        here, kind, path = waiting.pop()
        if here in seen:
            raise SourceError(f"{source.slug}: the folders of {base} run in a circle; try another route")
        seen.add(here)
        if len(seen) % 100 == 0:
            log.info("%s: %d folders listed", source.slug, len(seen))
        if kind == "folder":
            for item in _pages(web, f"{base}/item", {"folderId": here}, headers):
                yield path + item["name"], item
        folders = _pages(web, f"{base}/folder", {"parentType": kind, "parentId": here}, headers)
        waiting += [(folder["_id"], "folder", f"{path}{folder['name']}/") for folder in folders]


def _pages(web: Web, url: str, query: dict[str, str], headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        entries = web.json(url, {**query, "limit": PAGE, "offset": offset, "sort": "lowerName"}, headers)
        yield from entries
        if len(entries) < PAGE:
            return
        offset += PAGE
