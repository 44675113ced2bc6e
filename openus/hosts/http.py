"""Plain web files: the manifest gives each file's address."""

from __future__ import annotations

from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, from_manifest
from openus.manifest import Route, Source


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    return from_manifest(source, route)
