"""Mendeley Data: the public API its own pages use (folders and files of a version, with SHA-256).

``id`` is ``DATASET/VERSION``. No maintained client exists. Files the manifest gives an address of are taken
from there, without asking the API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from openus.errors import ManifestError, SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile
from openus.manifest import Route, Source

API = "https://data.mendeley.com"
PAGE = 1000


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    match = re.fullmatch(r"([0-9a-z]+)/(\d+)", identifier(source, route))
    if match is None:
        raise ManifestError(
            f"{source.slug}: the id of a mendeley route is DATASET/VERSION, found {route.id!r}"
        )
    dataset, version = match.groups()

    def mirror(name: str) -> str:
        return f"data.mendeley.com/datasets/{dataset}/{version}/{name}"

    if web is None or (route.files and all(spec.url for spec in route.files)):
        return from_manifest(source, route, mirror_of=mirror)
    base = f"{endpoint('mendeley', API)}/public-api/datasets/{dataset}"
    paths = _folders(source, web.json(f"{base}/folders/{version}"))
    listed: list[RemoteFile] = []
    for folder, path in paths.items():
        for entry in _files(web, f"{base}/files", folder, version):
            details = entry["content_details"]
            name = path + entry["filename"]
            sha256 = details.get("sha256_hash")
            listed.append(
                RemoteFile(
                    name,
                    details["download_url"],
                    details.get("size", entry.get("size")),
                    f"sha256:{sha256}" if sha256 else None,
                    mirror=mirror(name),
                )
            )
    return reconcile(source, route, listed)


def _files(web: Web, url: str, folder: str, version: str) -> Iterator[dict[str, Any]]:
    start = 0
    seen: set[str] = set()
    while True:
        query: dict[str, str | int] = {
            "folder_id": folder,
            "version": version,
            "$start": start,
            "$limit": PAGE,
        }
        entries = web.json(url, query)
        fresh = [entry for entry in entries if entry["content_details"]["download_url"] not in seen]
        yield from fresh
        seen.update(entry["content_details"]["download_url"] for entry in fresh)
        if len(entries) < PAGE or not fresh:  # nothing new: the API gave all at once and ignored the page
            return
        start += PAGE


def _folders(source: Source, entries: list[dict[str, Any]]) -> dict[str, str]:
    """Folder id to its path with a trailing slash; the root is ``root`` and has none."""
    by_id = {entry["id"]: entry for entry in entries}
    paths = {"root": ""}
    for identity in by_id:
        parts: list[str] = []
        here: str | None = identity
        while here in by_id:
            if len(parts) > len(by_id):
                raise SourceError(
                    f"{source.slug}: the folders Mendeley lists run in a circle; try another route"
                )
            parts.insert(0, by_id[here]["name"])
            here = by_id[here].get("parent_id")
        paths[identity] = "/".join(parts) + "/"
    return paths
