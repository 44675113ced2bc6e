"""Hosts: one small resolver each, from a route of a manifest to the files behind it.

A resolver asks its host for names, sizes, checksums and addresses; `openus.transfer.download` moves the bytes. The
module of a host is called like the host (``kaggle-dataset`` is `kaggle`) and has one function
``resolve(source, route, web)``, where `web` is None when the network is switched off. A new host is one such
module and a line in `MODULES`.

A mirror keeps the files under these names, HOST/PATH of what a browser would show:

================  ==============================================================
github            github.com/OWNER/NAME/archive/REVISION.zip; single files
                  raw.githubusercontent.com/OWNER/NAME/REVISION/PATH
http              host and path of the address; a query is added after ``?``, its ``/`` as ``_``
zenodo            zenodo.org/records/ID/files/NAME
figshare          figshare.com/articles/ARTICLE/NAME
mendeley          data.mendeley.com/datasets/ID/VERSION/NAME
kaggle-…          www.kaggle.com/datasets/OWNER/NAME/NAME.zip,
                  www.kaggle.com/competitions/NAME/NAME.zip
google-drive      drive.google.com/drive/folders/ID/PATH, drive.google.com/file/d/ID/NAME
girder            HOST/ID/PATH
tcia              www.cancerimagingarchive.net/collection/NAME/SERIES.zip
huggingface       huggingface.co/datasets/OWNER/NAME/resolve/REVISION/PATH
dataverse         HOST/dataset/ID/PATH
================  ==============================================================
"""

from __future__ import annotations

import importlib
from types import ModuleType

import requests

from openus.errors import SourceError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web
from openus.manifest import Route, Source
from openus.net import HttpError, RetryPolicy, new_session

MODULES = {
    "github": "github",
    "http": "http",
    "zenodo": "zenodo",
    "figshare": "figshare",
    "mendeley": "mendeley",
    "kaggle-dataset": "kaggle",
    "kaggle-competition": "kaggle",
    "google-drive": "google_drive",
    "girder": "girder",
    "tcia": "tcia",
    "huggingface": "huggingface",
    "dataverse": "dataverse",
    "manual": "manual",
}

__all__ = ["RemoteFile", "refused", "resolve"]


def resolve(
    source: Source,
    route: Route,
    *,
    session: requests.Session | None = None,
    online: bool = True,
    retry: RetryPolicy | None = None,
) -> list[RemoteFile]:
    """The files of a route. With `online` false only what the manifest itself says.

    Raises:
        NeedsPersonError: the route needs a person (a manual route, an account, accepted terms).
        SourceError: the host does not have what the manifest names, or cannot be asked.
        MissingExtraError: the client of the host is not installed.
    """
    module = _module(route)
    web = Web(session or new_session(), retry) if online else None
    files: list[RemoteFile] = module.resolve(source, route, web)
    return files


def refused(source: Source, route: Route, error: HttpError) -> SourceError:
    """What a refusal (401, 403) of this host means: mostly that a person has to sign in."""
    needs_account = getattr(_module(route), "needs_account", None)
    if needs_account is None:
        return error
    needs: SourceError = needs_account(source, route, str(error))
    return needs


def _module(route: Route) -> ModuleType:
    return importlib.import_module(f"openus.hosts.{MODULES[route.host]}")
