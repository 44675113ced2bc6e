"""Mirrors: other places that keep files under HOST/PATH of their original address.

``https://github.com/o/r/archive/abc.zip`` is looked for at ``MIRROR/github.com/o/r/archive/abc.zip``. Hosts
whose download addresses say nothing about the file (identifiers, signatures) give a canonical path instead,
see `openus.hosts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from openus.errors import UsageError
from openus.hosts.base import RemoteFile


class Mirrors:
    """Mirror folders and mirror addresses, in the order they were given."""

    def __init__(self, places: Sequence[str]) -> None:
        self.folders: list[Path] = []
        self.bases: list[str] = []
        for place in places:
            if place.startswith(("http://", "https://")):
                self.bases.append(place.rstrip("/"))
                continue
            folder = Path(place.removeprefix("file://")).expanduser().absolute()
            if not folder.is_dir():
                raise UsageError(f"--mirror {place}: neither a folder that is there nor an http(s) address")
            self.folders.append(folder)

    def files(self, file: RemoteFile) -> Iterator[Path]:
        """Where the mirror folders hold `file`."""
        path = mirror_path(file)
        for folder in self.folders:
            if (folder / path).is_file():
                yield folder / path

    def urls(self, file: RemoteFile) -> Iterator[str]:
        """Where the mirror addresses would hold `file`."""
        for base in self.bases:
            yield f"{base}/{quote(mirror_path(file))}"

    def __bool__(self) -> bool:
        return bool(self.folders or self.bases)


def mirror_path(file: RemoteFile) -> str:
    """HOST/PATH of a file, decoded. A query that tells files apart becomes part of the name, after ``?``."""
    if file.mirror is not None:
        path = file.mirror
    else:
        parts = urlsplit(file.url)
        path = f"{parts.hostname or ''}{unquote(parts.path)}"
        if parts.query and parts.query != "download=1":
            path += "?" + unquote(parts.query).replace("/", "_")
    if ".." in PurePosixPath(path).parts or path.startswith("/"):
        raise UsageError(f"{path!r}: not a path a mirror can hold; correct the address in the manifest")
    return path
