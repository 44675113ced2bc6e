"""Hugging Face: dataset repositories, listed by `huggingface_hub` and pinned to a commit.

Large files come with their SHA-256, the others with their git blob id. The token is the one
``hf auth login`` keeps, or ``HF_TOKEN``. ``HF_ENDPOINT`` is respected.
"""

from __future__ import annotations

from openus.errors import NeedsPersonError, SourceError, TransferError, UnreachableError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web, endpoint, from_manifest, identifier, reconcile, url_path
from openus.manifest import Route, Source


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    from huggingface_hub import constants, get_token

    name = identifier(source, route)
    base = endpoint("huggingface", constants.ENDPOINT)

    def page(revision: str, path: str) -> str:
        return f"{base}/datasets/{name}/resolve/{url_path(revision)}/{url_path(path)}"

    def mirror(path: str) -> str:
        return f"huggingface.co/datasets/{name}/resolve/{route.revision or 'main'}/{path}"

    if web is None:
        return from_manifest(source, route, lambda path: page(route.revision or "main", path), mirror)
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    sha, entries = _tree(source, route, name, base)
    listed = [
        RemoteFile(path, page(sha, path), size, checksum, headers, mirror=mirror(path))
        for path, size, checksum in entries
    ]
    return reconcile(source, route, listed)


def _tree(
    source: Source, route: Route, name: str, base: str
) -> tuple[str, list[tuple[str, int | None, str | None]]]:
    """The commit the revision stands for, and its files: path, size, checksum."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{source.slug}: huggingface {name}"
    try:
        info = HfApi(endpoint=base).dataset_info(
            name, revision=route.revision, files_metadata=True, timeout=30
        )
    except GatedRepoError as error:
        raise NeedsPersonError(
            f"{where}: its terms must be accepted first",
            [f"Open {route.url or f'https://huggingface.co/datasets/{name}'}, sign in and accept the terms.",
             "Create an access token in the account's settings and run 'hf auth login', or set HF_TOKEN."],
        ) from error  # fmt: skip
    except RevisionNotFoundError as error:
        raise SourceError(
            f"{where}: there is no revision {route.revision!r} any more; correct the manifest"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{where}: there is no such dataset, or it is private; see its page, or sign in with 'hf auth login'"
        ) from error
    except HfHubHTTPError as error:
        raise TransferError(
            f"{where}: the Hub answered {' '.join(str(error).split())[:200]}; try again later"
        ) from error
    except Exception as error:
        # The network errors of the client have changed class with its versions (requests, httpx, httpx2).
        raise UnreachableError(
            f"{where}: the Hub cannot be reached ({type(error).__name__}: {error})"
        ) from error
    files: list[tuple[str, int | None, str | None]] = []
    for entry in info.siblings or ():
        lfs = entry.lfs
        checksum = f"sha256:{lfs.sha256}" if lfs else f"git:{entry.blob_id}" if entry.blob_id else None
        if entry.rfilename not in (".gitattributes",):
            files.append((entry.rfilename, entry.size, checksum))
    return info.sha or route.revision or "main", files
