"""What every host hands on: files that can be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL, with what the host or the manifest says of it.

    name:    file name in the cache (a plain name or a relative POSIX path, checked before use).
    size:    bytes, or None where nobody says.
    hash:    "md5:…", "sha1:…", "sha256:…", "sha512:…" or "git:…" (a git blob), hexadecimal, or None.
    headers: sent with each request (authorisation; never logged).
    stable:  False where the host makes the file on request and its bytes may change from day to day.
    mirror:  HOST/PATH under which a mirror keeps it, where that is not simply host and path of the URL. It is
             also the name under which the lock file remembers the bytes.
    """

    name: str
    url: str
    size: int | None = None
    hash: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    stable: bool = True
    mirror: str | None = None
