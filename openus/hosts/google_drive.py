"""Google Drive: shared files and folders.

With an API key in ``GOOGLE_API_KEY`` folders are listed by the Drive API v3, with sizes and MD5. Without one
the public page of the folder is read by `gdown`; that way has stopped at 50 files of a folder for years, so
a folder of exactly 50 is not believed. A route of single files gives their addresses in ``files``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from openus.errors import ManifestError, MissingExtraError, SourceError, TransferError, UnreachableError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, expected_hash, identifier, reconcile
from openus.manifest import Route, Source

API = "https://www.googleapis.com"
DOWNLOAD = "https://drive.usercontent.google.com"
FOLDER = "application/vnd.google-apps.folder"
STOP = 50
FIELDS = "id,name,mimeType,size,md5Checksum,shortcutDetails"


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    identity = identifier(source, route)
    one = len(route.files) == 1 and "/folders/" not in (route.url or "")
    if route.files and all(spec.url or one for spec in route.files):
        return [_single(source, route, web, spec.name) for spec in route.files]
    if web is None:
        raise SourceError(
            f"{source.slug}: the files of a Google Drive folder are known only after asking; go online, or give your "
            "own copy with --local"
        )
    listed = list(_api_folder(web, identity)) if _api() else _page_folder(source, route, identity)
    return reconcile(source, route, [_remote(identity, *entry) for entry in listed])


def _api() -> bool:
    """Whether the Drive API can be used: it wants a key, or is another endpoint than Google's."""
    return bool(os.environ.get("GOOGLE_API_KEY") or os.environ.get("OPENUS_ENDPOINT_GOOGLE_DRIVE"))


def _key() -> dict[str, str]:
    key = os.environ.get("GOOGLE_API_KEY")
    return {"X-Goog-Api-Key": key} if key else {}


def _address(identity: str) -> tuple[str, dict[str, str]]:
    """Where the bytes of a file are, and the headers to send."""
    if _api():
        return f"{endpoint('google-drive', API)}/drive/v3/files/{identity}?alt=media", _key()
    # `confirm` skips the page that warns of files too large to be scanned for viruses.
    return f"{DOWNLOAD}/download?id={identity}&export=download&confirm=t", {}


def _single(source: Source, route: Route, web: Web | None, name: str) -> RemoteFile:
    spec = next(spec for spec in route.files if spec.name == name)
    identity = file_id(spec.url) if spec.url else route.id
    if not identity:
        raise ManifestError(f"{source.slug}: {spec.url!r} is not the address of a file on Google Drive")
    url, headers = _address(identity)
    mirror = f"drive.google.com/file/d/{identity}/{name}"
    file = RemoteFile(name, url, spec.bytes, expected_hash(spec), headers, spec.stable, mirror)
    if web is None or not _api():
        return file
    entry = web.json(f"{endpoint('google-drive', API)}/drive/v3/files/{identity}", {"fields": FIELDS}, _key())
    told = _remote("", name, identity, entry.get("size"), entry.get("md5Checksum"))
    listed = RemoteFile(name, url, told.size, told.hash, headers, spec.stable, mirror)
    return reconcile(source, route.model_copy(update={"files": (spec,)}), [listed])[0]


def file_id(url: str) -> str | None:
    """The identifier in an address of a file: ``…/file/d/ID/view``, ``…/uc?id=ID``, ``…/open?id=ID``."""
    parts = urlsplit(url)
    if parts.hostname not in ("drive.google.com", "docs.google.com", "drive.usercontent.google.com"):
        return None
    match = re.match(r"/file/(?:u/\d+/)?d/([\w-]+)", parts.path)
    return match[1] if match else next(iter(parse_qs(parts.query).get("id", ())), None)


def _remote(folder: str, path: str, identity: str, size: Any = None, md5: str | None = None) -> RemoteFile:
    url, headers = _address(identity)
    return RemoteFile(
        path, url, int(size) if size is not None else None, f"md5:{md5}" if md5 else None, headers,
        mirror=f"drive.google.com/drive/folders/{folder}/{path}",
    )  # fmt: skip


def _api_folder(web: Web, identity: str) -> Iterator[tuple[str, str, Any, str | None]]:
    """Path, identifier, size and MD5 of every file below a folder (Drive API v3, files.list)."""
    url = f"{endpoint('google-drive', API)}/drive/v3/files"
    waiting, seen = [(identity, "")], set()
    while waiting:
        folder, path = waiting.pop()
        if folder in seen:
            continue  # a shortcut that leads back
        seen.add(folder)
        query: dict[str, str | int] = {
            "q": f"'{folder}' in parents and trashed = false",
            "fields": f"nextPageToken,files({FIELDS})",
            "pageSize": 1000, "orderBy": "name", "supportsAllDrives": "true", "includeItemsFromAllDrives": "true",
        }  # fmt: skip
        while True:
            answer = web.json(url, query, _key())
            for entry in answer.get("files", ()):
                details = entry.get("shortcutDetails") or {}
                here = details.get("targetId", entry["id"])
                kind = details.get("targetMimeType", entry.get("mimeType"))
                name = path + _plain(entry["name"])
                if kind == FOLDER:
                    waiting.append((here, f"{name}/"))
                elif not str(kind).startswith(
                    "application/vnd.google-apps."
                ):  # a document has no bytes of its own
                    yield name, here, entry.get("size"), entry.get("md5Checksum")
            if not answer.get("nextPageToken"):
                break
            query["pageToken"] = answer["nextPageToken"]


def _page_folder(source: Source, route: Route, identity: str) -> list[tuple[str, str, Any, str | None]]:
    """Path and identifier of every file below a folder, read from its public page by `gdown`."""
    try:
        import gdown
    except ImportError as error:
        raise MissingExtraError("gdown", "hosts", "listing a Google Drive folder") from error
    where = f"{source.slug}: google-drive {identity}"
    try:
        found = gdown.download_folder(
            id=identity, quiet=True, use_cookies=False, skip_download=True, timeout=60
        )
    except gdown.exceptions.DownloadError as error:
        reason = " ".join(str(error).split())[:160]
        raise TransferError(f"{where}: the folder's page cannot be read ({reason}); {_by_hand()}") from error
    except OSError as error:  # requests' network errors
        raise UnreachableError(
            f"{where}: the folder's page cannot be reached ({type(error).__name__})"
        ) from error
    paths = [
        (PurePosixPath(entry.path).as_posix(), entry.id) for entry in found if not isinstance(entry, str)
    ]
    if not paths:
        raise SourceError(f"{where}: the folder's page shows no files; {_by_hand()}")
    for folder, count in Counter(str(PurePosixPath(path).parent) for path, _ in paths).items():
        if count == STOP:
            raise SourceError(
                f"{where}: exactly {STOP} files are listed in folder {folder!r}, where Google Drive cuts its listing "
                f"off, so some are probably missing; {_by_hand()}"
            )
    return [("/".join(_plain(part) for part in path.split("/")), here, None, None) for path, here in paths]


def _plain(name: str) -> str:
    """A name of Drive as a file name; Drive allows slashes in it."""
    return name.replace("/", "_").replace("\\", "_").strip() or "_"


def _by_hand() -> str:
    return (
        "set GOOGLE_API_KEY to ask the Drive API instead, or download the folder in a browser (Drive packs it into "
        "zips) and put them into the drop folder"
    )
