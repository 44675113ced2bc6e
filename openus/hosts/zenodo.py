"""Zenodo: records of the REST API (``GET /api/records/ID``, https://developers.zenodo.org).

Restricted records open with a personal token in ``ZENODO_TOKEN``. If the API cannot be asked, the files the
manifest lists are fetched from the addresses of the record's page.
"""

from __future__ import annotations

import logging
import os

from openus.errors import ManifestError, TransferError, UnreachableError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile, url_path
from openus.manifest import Route, Source
from openus.net import HttpError

log = logging.getLogger(__name__)

API = "https://zenodo.org"


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    record = identifier(source, route)
    if not record.isdecimal():
        raise ManifestError(
            f"{source.slug}: the id of a zenodo route is the number of a record, found {record!r}"
        )
    base = endpoint("zenodo", API)

    def page(name: str) -> str:
        return f"{base}/records/{record}/files/{url_path(name)}?download=1"

    def mirror(name: str) -> str:
        return f"zenodo.org/records/{record}/files/{name}"

    if web is None:
        return from_manifest(source, route, page, mirror)
    token = os.environ.get("ZENODO_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = web.json(f"{base}/api/records/{record}", headers=headers)
    except TransferError as error:
        if (isinstance(error, HttpError) and error.status in (404, 410)) or not route.files:
            raise
        # Where no connection is made the download says so, unless a mirror has the file.
        said = log.info if isinstance(error, UnreachableError) else log.warning
        said("%s: the API of Zenodo did not answer (%s); using the manifest's file list", source.slug, error)
        return from_manifest(source, route, page, mirror)
    listed = [
        RemoteFile(
            entry["key"],
            f"{base}/api/records/{record}/files/{url_path(entry['key'])}/content",
            entry.get("size"),
            entry.get("checksum"),
            headers,
            mirror=mirror(entry["key"]),
        )
        for entry in answer.get("files") or ()
    ]
    return reconcile(source, route, listed)
