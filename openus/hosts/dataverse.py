"""Dataverse installations (Harvard, Borealis, …): datasets by DOI, file by file.

``id`` is the DOI, ``revision`` the version (``1.0``), and ``url`` any address of the installation. Tables
Dataverse converted are fetched in their original format. A key in ``DATAVERSE_API_TOKEN`` is sent along.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from openus.checksum import LENGTHS
from openus.errors import ManifestError, NeedsPersonError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile
from openus.manifest import Route, Source


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    doi = identifier(source, route).removeprefix("doi:").removeprefix("https://doi.org/")
    parts = urlsplit(route.url or "")
    if not parts.hostname or parts.hostname == "doi.org" or not doi.startswith("10."):
        raise ManifestError(
            f"{source.slug}: a dataverse route needs a DOI as 'id' and the installation's 'url'"
        )
    base = endpoint("dataverse", f"{parts.scheme}://{parts.netloc}")

    def mirror(path: str) -> str:
        return f"{parts.hostname}/dataset/{doi}/{path}"

    if web is None:
        return from_manifest(source, route, mirror_of=mirror)
    key = os.environ.get("DATAVERSE_API_TOKEN")
    headers = {"X-Dataverse-key": key} if key else {}
    version = route.revision or ":latest-published"
    answer = web.json(
        f"{base}/api/datasets/:persistentId/versions/{version}", {"persistentId": f"doi:{doi}"}, headers
    )
    entries = answer["data"]["files"]
    closed = [entry for entry in entries if entry.get("restricted")]
    if closed and not key:
        raise NeedsPersonError(
            f"{source.slug}: {len(closed)} of {len(entries)} files of doi:{doi} are restricted",
            [f"Open {route.url}, sign in and ask for access.",
             "Create an API token in the account's page and set DATAVERSE_API_TOKEN."],
        )  # fmt: skip
    return reconcile(source, route, [_file(base, entry, headers, mirror) for entry in entries])


def _file(base: str, entry: dict[str, Any], headers: dict[str, str], mirror: Any) -> RemoteFile:
    data = entry["dataFile"]
    folder = entry.get("directoryLabel")
    name = entry.get("label") or data["filename"]
    size, query, checksum = data.get("filesize"), "", None
    if data.get("originalFileName") or data.get("originalFileSize"):
        # A converted table: the published checksum is not that of the original bytes.
        name, size, query = (
            data.get("originalFileName") or name,
            data.get("originalFileSize"),
            "?format=original",
        )
    else:
        told = data.get("checksum") or {}
        algorithm = str(told.get("type", "")).lower().replace("-", "")
        if algorithm in LENGTHS and told.get("value"):
            checksum = f"{algorithm}:{told['value']}"
    path = f"{folder}/{name}" if folder else name
    url = f"{base}/api/access/datafile/{data['id']}{query}"
    return RemoteFile(path, url, size, checksum, headers, mirror=mirror(path))
