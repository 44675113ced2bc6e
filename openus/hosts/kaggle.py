"""Kaggle: datasets and competitions as the one archive the site offers, through its public API.

The list of files is asked for and compared with the manifest, then the archive is fetched like any other
file, so that it resumes and is checked (Kaggle sends the archive's MD5 along). Credentials are taken from
where the clients of Kaggle keep them: ``KAGGLE_API_TOKEN`` (a token, or the file it is in),
``~/.kaggle/access_token``, ``KAGGLE_USERNAME`` and ``KAGGLE_KEY``, or ``kaggle.json`` in
``$KAGGLE_CONFIG_DIR`` or ``~/.kaggle``. Public datasets come without any.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path, PurePosixPath

from openus.errors import ManifestError, NeedsPersonError, SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, check_listed, endpoint, identifier, reconcile
from openus.manifest import Route, Source
from openus.net import HttpError

API = "https://www.kaggle.com"


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    competition = route.host == "kaggle-competition"
    name = identifier(source, route)
    pattern = r"[\w-]+" if competition else r"[\w-]+/[\w-]+"
    if re.fullmatch(pattern, name) is None:
        shape = "its name" if competition else "OWNER/NAME"
        raise ManifestError(f"{source.slug}: the id of a {route.host} route is {shape}, found {name!r}")
    base = f"{endpoint('kaggle', API)}/api/v1"
    headers = credentials()
    short = name.rpartition("/")[2]
    if competition:
        listing, url = (
            f"{base}/competitions/data/list/{name}",
            f"{base}/competitions/data/download-all/{name}",
        )
        mirror = f"www.kaggle.com/competitions/{name}/{short}.zip"
    else:
        listing, url = f"{base}/datasets/list/{name}", f"{base}/datasets/download/{name}"
        mirror = f"www.kaggle.com/datasets/{name}/{short}.zip"
        if route.revision:
            listing, url = (f"{u}?datasetVersionNumber={route.revision}" for u in (listing, url))
    # Kaggle packs the archive when it is first asked for, and again after each change of its packing.
    archive = RemoteFile(f"{short}.zip", url, headers=headers, stable=False, mirror=mirror)
    own = next((spec for spec in route.files if PurePosixPath(spec.name).name == archive.name), None)
    if web is not None:
        _compare(source, route, web, listing, headers, skip=archive.name)
    return [check_listed(source, route, own, archive) if own else archive]


def _compare(
    source: Source, route: Route, web: Web, listing: str, headers: dict[str, str], *, skip: str
) -> None:
    """Ask for the list of files: it tells early that an account is missing, or that the manifest is outdated."""
    if not headers:
        if route.host == "kaggle-competition":
            raise needs_account(source, route, "no Kaggle credentials were found")
        return  # public datasets are open to anyone, their lists are not
    listed: list[RemoteFile] = []
    token = ""
    try:
        while True:
            answer = web.json(listing, {"pageSize": 200, **({"pageToken": token} if token else {})}, headers)
            entries = (
                answer
                if isinstance(answer, list)
                else answer.get("datasetFiles") or answer.get("files") or []
            )
            listed += [RemoteFile(entry["name"], listing, entry.get("totalBytes")) for entry in entries]
            token = "" if isinstance(answer, list) else answer.get("nextPageToken") or ""
            if not token:
                break
    except HttpError as error:
        if error.status in (401, 403):
            raise needs_account(source, route, "Kaggle refuses these credentials") from error
        raise
    wanted = route.model_copy(update={"files": tuple(s for s in route.files if s.name != skip)})
    if wanted.files:
        reconcile(source, wanted, listed)
    elif not listed:
        raise SourceError(f"{source.slug}: {route.host} {route.id} lists no files; see {route.url}")


def needs_account(source: Source, route: Route, why: str) -> NeedsPersonError:
    """The error that tells how to get and keep credentials."""
    steps = ["Sign in at https://www.kaggle.com (an account is free)."]
    if route.host == "kaggle-competition":
        steps.append(f"Open https://www.kaggle.com/competitions/{route.id}/rules and accept the rules.")
    steps += [
        "In the account's settings create an API token.",
        "Keep it as ~/.kaggle/kaggle.json or ~/.kaggle/access_token, or set KAGGLE_USERNAME and KAGGLE_KEY, or "
        "KAGGLE_API_TOKEN.",
    ]
    return NeedsPersonError(f"{source.slug}: {route.host} {route.id}: {why}", steps)


def credentials() -> dict[str, str]:
    """The request headers that identify the user at Kaggle; empty without credentials."""
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle").expanduser()
    if token and Path(token).is_file():
        token = Path(token).read_text().strip()
    for path in (folder / "access_token", folder / "access_token.txt"):
        if not token and path.is_file():
            token = path.read_text().strip()
    if token:
        return {"Authorization": f"Bearer {token}"}
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if not (user and key) and (folder / "kaggle.json").is_file():
        try:
            kept = json.loads((folder / "kaggle.json").read_text())
            user, key = kept["username"], kept["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{folder / 'kaggle.json'}: not the credentials file of Kaggle (username and key); create a new API "
                "token in the account's settings"
            ) from error
    if user and key:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}
    return {}
