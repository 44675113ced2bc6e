"""Plays the hosts: their APIs, in front of the packed miniatures, on a local server.

A host's answers have the fields its documented API gives and the resolver reads; the bytes and checksums
are those of the miniatures, so the manifests' own are replaced by them (`overlaid`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from openus.manifest import RemoteSpec, Route, Source
from tests.helpers.web import Request, Site
from tests.sources.packing import zip_of

Files = dict[str, bytes]


def overlaid(source: Source, route: Route, files: Files) -> Source:
    """The source with this route only, whose sizes and checksums are those of `files`."""

    def fit(spec: RemoteSpec) -> RemoteSpec:
        data = files[spec.name]
        return spec.model_copy(
            update={
                "bytes": len(data) if spec.bytes else None,
                "md5": hashlib.md5(data).hexdigest() if spec.md5 else None,
                "sha1": hashlib.sha1(data).hexdigest() if spec.sha1 else None,
                "sha256": hashlib.sha256(data).hexdigest() if spec.sha256 else None,
            }
        )

    fitted = route.model_copy(update={"files": tuple(fit(spec) for spec in route.files)})
    return source.model_copy(update={"routes": (fitted,)})


def offered(route: Route, packed: dict[str, Path]) -> Files:
    """What the route's host offers: the packed files under the names the route gives them.

    A route that names one file where the dataset is packed otherwise is a record, or a repository, as one zip.
    """
    files = {name: path.read_bytes() for name, path in packed.items()}
    if not route.files:
        return files
    names = [spec.name for spec in route.files]
    if len(names) == 1 and names[0] not in files:
        return {names[0]: zip_of({f"{Path(names[0]).stem}/{name}": data for name, data in files.items()})}
    return {name: files[name] for name in names}


def answer(site: Site, path: str, value: object) -> None:
    """Let the site answer a request of `path` with JSON."""

    def reply(request: Request) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    site.answers[path] = reply


def zenodo(site: Site, route: Route, files: Files) -> None:
    entries = []
    for name, data in files.items():
        site.put(f"/zenodo/api/records/{route.id}/files/{name}/content", data)
        entries.append({"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}"})
    decoy = {"key": "README.html", "size": 3, "checksum": "md5:00000000000000000000000000000000"}
    answer(site, f"/zenodo/api/records/{route.id}", {"files": [decoy, *entries] if route.files else entries})


def http(site: Site, route: Route, files: Files) -> None:
    """Found through a mirror address, under HOST/PATH of the original one."""
    for spec in route.files:
        assert spec.url is not None, f"{spec.name}: an http route needs addresses"
        parts = urlsplit(spec.url)
        query = f"?{parts.query.replace('/', '_')}" if parts.query and parts.query != "download=1" else ""
        site.put(f"/mirror/{parts.hostname}{unquote(parts.path)}{unquote(query)}", files[spec.name])


def github(site: Site, route: Route, files: Files) -> None:
    """The zip of a pinned commit, or single files of it."""
    if any(spec.url for spec in route.files):
        http(site, route, files)
        return
    for spec in route.files:
        site.put(
            f"/mirror/raw.githubusercontent.com/{route.id}/{route.revision}/{spec.name}", files[spec.name]
        )
    if route.files:
        return
    name = str(route.id).rsplit("/", 1)[-1]
    whole = len(files) == 1 and next(iter(files)).startswith(name)
    data = next(iter(files.values()))
    if not whole:
        data = zip_of({f"{name}-{route.revision}/{path}": content for path, content in files.items()})
    site.put(f"/mirror/github.com/{route.id}/archive/{route.revision}.zip", data)


PLAYED: dict[str, Callable[[Site, Route, Files], None]] = {"zenodo": zenodo, "http": http, "github": github}
