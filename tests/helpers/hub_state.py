"""What a local Hub knows: repositories, large objects, tokens, and the requests that were made (see `hub.py`)."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.xet import XetStore

TOKEN = "hf_goodTokenOfTheLocalHub"
LARGE = (".tar", ".parquet", ".png", ".jpg", ".webp", ".safetensors", ".bin", ".onnx", ".npy")


@dataclass(frozen=True)
class Blob:
    """A file of a repository. Large ones (LFS) are known by their SHA-256, others by their git hash."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        if self.large:
            lines = (
                "version https://git-lfs.github.com/spec/v1",
                f"oid sha256:{self.sha256}",
                f"size {len(self.content)}",
            )
            pointer = "".join(f"{line}\n" for line in lines)
            return git_hash(pointer.encode())
        return git_hash(self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class Repo:
    """A repository: its commits, each a whole tree."""

    id: str
    kind: str
    private: bool = False
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, Blob]:
        return self.commits[-1][2]

    def tree(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        if revision in ("main", "HEAD", "refs/heads/main"):
            return self.sha, self.files
        return next(((sha, tree) for sha, _, tree in self.commits if sha == revision), None)

    def commit(self, message: str, files: dict[str, Blob]) -> str:
        facts = json.dumps([self.sha if self.commits else "", message, {p: b.oid for p, b in files.items()}])
        sha = hashlib.sha1(facts.encode()).hexdigest()
        self.commits.append((sha, message, files))
        return sha


@dataclass
class Trouble:
    """What goes wrong with requests whose "METHOD /path" matches `pattern`, `times` times after `after` good ones.

    status, headers, body: answer so. drop: read so many bytes of the request, then close the connection without a
    word (a broken upload). short: send so many bytes of the answer, then close (a broken download). pause: wait so
    many seconds first.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "trouble"}'
    drop: int | None = None
    short: int | None = None
    pause: float = 0.0
    times: int = 1
    after: int = 0


@dataclass
class Asked:
    """One request: what was asked, with which token, and how it was answered."""

    method: str
    path: str
    token: str
    status: int
    range: str = ""


class Hub:
    """The state of the server. Attributes may be changed between requests.

    url: of the Hub. storage: of its store of large files, another origin as on the real Hub: no token goes there.
    tokens: name and what each may do ("write" or "read"). part_bytes: large files above this go up in parts.
    quota: bytes of large files in all; more is refused as the Hub does when storage is full.
    offers_xet: whether large files may go through `xet`, at the origin of `storage`; what came so is known by it.
    """

    def __init__(self) -> None:
        self.url = ""
        self.storage = ""
        self.token = TOKEN
        self.tokens = {TOKEN: "write"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.offers_xet = False
        self.xet = XetStore(self.objects)
        self.parts: dict[str, dict[int, bytes]] = {}
        self.part_bytes = 1 << 62
        self.quota = 1 << 62
        self.troubles: list[Trouble] = []
        self.asked: list[Asked] = []
        self.lock = threading.RLock()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables that lead a client in another process here; its caches lie below `home`."""
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "0" if self.offers_xet else "1",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
        }
        return found | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": token or ""}

    def xet_hash(self, blob: Blob) -> str | None:
        """By which hash the Xet store knows a file, where this Hub offers Xet and the file came through it."""
        return self.xet.hash_of(blob.sha256) if self.offers_xet and blob.large else None

    def repo(self, name: str, kind: str = "dataset", private: bool = False) -> Repo:
        """A repository, made where it is not there."""
        with self.lock:
            if (kind, name) not in self.repos:
                self.repos[kind, name] = Repo(name, kind, private)
                self.repos[kind, name].commit("initial commit", {})
            return self.repos[kind, name]

    def put(self, name: str, path: str, content: bytes, kind: str = "dataset") -> None:
        """One file, in a commit of its own."""
        repo = self.repo(name, kind)
        repo.commit(f"add {path}", repo.files | {path: Blob(content, is_large(path, len(content)))})

    def put_folder(self, name: str, folder: Path, kind: str = "dataset") -> None:
        """All files of a folder but hidden ones, in one commit."""
        files = {}
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if path.is_file() and not any(part.startswith(".") for part in relative.split("/")):
                content = path.read_bytes()
                files[relative] = Blob(content, is_large(relative, len(content)))
        repo = self.repo(name, kind)
        repo.commit("add folder", repo.files | files)

    def trouble(self, pattern: str, **facts: Any) -> Trouble:
        """Let requests go wrong; see `Trouble`."""
        self.troubles.append(Trouble(pattern, **facts))
        return self.troubles[-1]

    def count(self, pattern: str) -> int:
        """How many requests "METHOD /path" matched, whatever became of them."""
        return sum(bool(re.search(pattern, f"{a.method} {a.path}")) for a in self.asked)


def is_large(path: str, size: int) -> bool:
    """Whether the Hub keeps a file outside git: by its name, or because it is large."""
    return size > 0 and (path.endswith(LARGE) or size > 10 << 20)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
