"""The Cancer Imaging Archive: public collections series by series (NBIA REST API, getSeries and getImage).

``id`` is the collection. Only ultrasound series are taken where a collection mixes modalities. The zips are
made on request, so they have no size or checksum beforehand. Files a collection's page offers directly are
better named with their address in an http route.
"""

from __future__ import annotations

import re

from openus.errors import SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile
from openus.manifest import Route, Source

API = "https://services.cancerimagingarchive.net"


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    collection = identifier(source, route)

    def mirror(name: str) -> str:
        return f"www.cancerimagingarchive.net/collection/{collection}/{name}"

    if web is None:
        return from_manifest(source, route, mirror_of=mirror)
    base = f"{endpoint('tcia', API)}/nbia-api/services/v1"
    series = web.json(f"{base}/getSeries", {"Collection": collection, "format": "json"})
    if not series:
        raise SourceError(
            f"{source.slug}: TCIA has no public collection called {collection!r}; see {route.url}"
        )
    ultrasound = [entry for entry in series if entry.get("Modality") == "US"]
    listed = []
    for entry in ultrasound or series:
        uid = str(entry["SeriesInstanceUID"])
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            raise SourceError(
                f"{source.slug}: TCIA lists a series called {uid!r}, which is no DICOM identifier"
            )
        patient = re.sub(r"[^\w.-]+", "_", str(entry.get("PatientID") or "unknown"))
        name = f"{patient}/{uid}.zip"
        url = f"{base}/getImage?SeriesInstanceUID={uid}"
        listed.append(RemoteFile(name, url, stable=False, mirror=mirror(name)))
    return reconcile(source, route, sorted(listed, key=lambda file: file.name))
