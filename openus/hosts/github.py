"""GitHub: the archive of a pinned commit, or single files of it.

Without `files` the whole commit is fetched as one zip, which GitHub makes on request: its files are fixed by
the commit, its bytes are not. A file in `files` without an address is a path in the repository.
"""

from __future__ import annotations

import re

from openus.errors import ManifestError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, url_path
from openus.manifest import Route, Source

API = "https://github.com"
RAW = "https://raw.githubusercontent.com"


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    name = identifier(source, route)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ManifestError(f"{source.slug}: a github route is called OWNER/NAME, found {name!r}")
    if route.revision is None:
        raise ManifestError(f"{source.slug}: the github route {name} has no 'revision'; pin it to a commit")
    revision = route.revision
    if route.files:
        raw = f"{endpoint('github-raw', RAW)}/{name}/{revision}"
        mirror = f"{RAW.removeprefix('https://')}/{name}/{revision}"
        return from_manifest(
            source, route, lambda path: f"{raw}/{url_path(path)}", lambda path: f"{mirror}/{path}"
        )
    path = f"{name}/archive/{revision}.zip"
    return [
        RemoteFile(
            f"{revision.replace('/', '-')}.zip", f"{endpoint('github', API)}/{path}", stable=False,
            mirror=f"github.com/{path}",
        )
    ]  # fmt: skip
