"""Sending a folder to the Hugging Face Hub, with its own client: resumable, patient, and silent about tokens.

What the Hub already holds is not sent again (the client asks for each file by its hash), so an upload that broke off
goes on when the same command runs again. Afterwards the Hub's own list is compared with what was sent.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openus import __version__
from openus.errors import OpenUSError, UsageError

BUSY = (408, 429, 500, 502, 503, 504)
TRIES = 4
WAIT = 5.0
"""Seconds before the second try; each further wait is twice as long, and never shorter than the server asks."""
_LONGEST = 300.0
_SAID = 300  # characters of what a server says that are told


def send(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    repo: str,
    *,
    kind: str = "dataset",
    private: bool = False,
    message: str = "",
    stale: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Make the repository `repo` (ORG/NAME) hold the `files` of `folder`, and remove there what matches `stale`.

    `files`: relative path to its bytes and SHA-256 (as `index.json`). Returns the address and the commit.

    Raises:
        UsageError: the token is missing, refused, or may not write there.
        OpenUSError: the Hub stays busy, is full, or holds something else than was sent.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if quiet:
        disable_progress_bars()
    api = HfApi(library_name="openus", library_version=__version__)

    def create() -> str:
        return str(api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True))

    def upload() -> str:
        done = api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message=message or f"openus {__version__}",
            allow_patterns=[glob.escape(name) for name in files],
            delete_patterns=list(stale) or None,
        )
        return str(done.oid)

    url = _patiently(create, repo)
    commit = _patiently(upload, repo)
    found = _patiently(lambda: _listed(api, repo, kind), repo)
    wrong = [name for name, entry in files.items() if not _same(found.get(name), entry)]
    if wrong:
        raise OpenUSError(
            f"{repo}: {len(wrong)} files are not there as they were sent, the first {wrong[0]}; run it again"
        )
    return {"repository": repo, "url": url, "commit": commit, "files": len(files)}


def _listed(api: Any, repo: str, kind: str) -> dict[str, tuple[int, str | None]]:
    """What the Hub says it holds: bytes, and the SHA-256 of large files."""
    entries = api.list_repo_tree(repo, repo_type=kind, recursive=True)
    return {
        entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if hasattr(entry, "size")
    }


def _same(found: tuple[int, str | None] | None, entry: Mapping[str, Any]) -> bool:
    return found is not None and found[0] == entry["bytes"] and found[1] in (None, entry["sha256"])


def _patiently(action: Any, repo: str) -> Any:
    """Run `action`, again after a while where the server is busy or the connection breaks."""
    wait = WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except (KeyboardInterrupt, OpenUSError):
            raise
        except Exception as error:  # the client raises what its own libraries raise
            status, asked = _answer(error)
            passing = status in BUSY or _is_stale(error, status) if status is not None else _is_network(error)
            if not passing or attempt == TRIES:
                raise _explained(error, status, repo) from _Hidden(scrubbed(str(error)))
            time.sleep(min(_LONGEST, max(wait, asked)))
            wait *= 2
    raise AssertionError("unreachable")


class _Hidden(Exception):  # noqa: N818 - never raised: it stands for a client's error, its secrets struck out
    pass


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int | None, float]:
    """The status of the server's answer behind an error, and the seconds it asks to wait."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            asked = str(getattr(response, "headers", {}).get("Retry-After", ""))
            return status, float(asked) if asked.isdecimal() else 0.0
    told = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))  # as hf_xet words it
    return (int(told[1]) if told else None), 0.0


def _is_stale(error: BaseException, status: int | None) -> bool:
    """Whether the Xet store, not the Hub, refused a token: it holds for some minutes, and each try asks a new one."""
    by_hub = any(getattr(cause, "response", None) is not None for cause in _causes(error))
    return status == 401 and not by_hub and "/xet-write-token/" not in str(error)


def _is_network(error: BaseException) -> bool:
    words = ("Connect", "Timeout", "RemoteProtocol", "ReadError", "WriteError", "Network", "ConnectionReset")
    return any(any(word in type(cause).__name__ for word in words) for cause in _causes(error))


def _explained(error: Exception, status: int | None, repo: str) -> OpenUSError:
    said = scrubbed(str(error))
    if _is_stale(error, status):
        return OpenUSError(
            f"{repo}: the Hub's Xet store does not accept the tokens that the Hub gives for it ({_short(said)}); "
            "run it again later, or set HF_HUB_DISABLE_XET=1"
        )
    if status == 401 or type(error).__name__ == "LocalTokenNotFoundError":
        why = "it is wrong or revoked" if _has_token() else "none is set"
        return UsageError(
            f"{repo}: the Hub does not accept the token ({why}); "
            "make one with write access at https://huggingface.co/settings/tokens, then: hf auth login"
        )
    if status in (413, 507) or re.search(r"(?i)storage|quota|payment|no space", said):
        return OpenUSError(
            f"{repo}: the Hub has no room for it: {_short(said)}; what was sent is kept: free some, or take another "
            "account, then run it again"
        )
    if status == 403:
        return UsageError(
            f"{repo}: the token may not write there: {_short(said)}; use a token with write access to that account"
        )
    if status in BUSY:
        return OpenUSError(
            f"{repo}: the Hub is busy (status {status}) and stayed so over {TRIES} tries; what was sent is kept: "
            "run it again later"
        )
    if status is None and _is_network(error):
        return OpenUSError(
            f"{repo}: the connection to the Hub failed ({_short(said)}); run it again to go on"
        )
    hint = (
        "; where the Xet store cannot be reached, set HF_HUB_DISABLE_XET=1" if "xet" in said.lower() else ""
    )
    return OpenUSError(f"{repo}: the Hub refused: {_short(said)}{hint}")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def scrubbed(text: str) -> str:
    """A message without tokens, and without the signatures that addresses of stores carry."""
    text = re.sub(r"\bhf_\w+", "hf_…", text)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name, "")
        if len(secret) >= 8:
            text = text.replace(secret, "…")
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAID else line[:_SAID] + "…"
