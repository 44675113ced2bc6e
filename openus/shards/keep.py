"""Copies of the files that describe a corpus, in its work folder: what `openus repair` restores them from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from openus.shards.corpus import NAME
from openus.storage.files import write_bytes

DIGESTS = ".work/kept/digests.json"
"""The hashes of the copies; without it they count no more."""
_FILES = (
    NAME,
    "README.md",
    "LICENSES.md",
    "manifest/rejected.parquet",
    "manifest/duplicates.parquet",
    "report/before.parquet",
)
_PAGE = ("report.html", "report/*.png")  # made again from the corpus, so only their hashes are kept


def keep(root: Path) -> None:
    """Copy the describing files of a finished corpus, and last their hashes: these mean that all is there."""
    digests = {}
    for name in _FILES:
        if (root / name).exists():
            digests[name] = write_bytes(_folder(root) / Path(name).name, (root / name).read_bytes())
    for name in pages(root):
        digests[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    write_bytes(root / DIGESTS, json.dumps(digests, indent=1).encode())


def keep_anew(root: Path, names: Iterable[str]) -> None:
    """Take note of files that a command has rewritten on purpose, where the others are kept."""
    digests = kept_digests(root)
    if not digests:
        return
    for name in names:
        data = (root / name).read_bytes()
        digests[name] = hashlib.sha256(data).hexdigest()
        if name in _FILES:
            write_bytes(_folder(root) / Path(name).name, data)
    write_bytes(root / DIGESTS, json.dumps(digests, indent=1).encode())


def pages(root: Path) -> list[str]:
    """The report and its pictures, as far as they are there."""
    found = sorted(path for pattern in _PAGE for path in root.glob(pattern))
    return [path.relative_to(root).as_posix() for path in found]


def is_page(name: str) -> bool:
    """True for the report and its pictures."""
    return any(Path(name).match(pattern) for pattern in _PAGE)


def copies(root: Path) -> list[Path]:
    """What `keep` wrote, the hashes last."""
    return [*sorted(path for path in _folder(root).glob("*") if path.name != "digests.json"), root / DIGESTS]


def kept_digests(root: Path) -> dict[str, str]:
    """SHA-256 of each describing file, as it was written; empty where no copies were kept."""
    try:
        digests: dict[str, str] = json.loads((root / DIGESTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return digests


def restore(root: Path, names: Iterable[str]) -> list[str]:
    """Put copies in the place of damaged files, as far as the copies are whole; returns the names of those."""
    digests, done = kept_digests(root), []
    for name in names:
        copy = _folder(root) / Path(name).name
        if name in digests and copy.exists():
            data = copy.read_bytes()
            if hashlib.sha256(data).hexdigest() == digests[name]:
                write_bytes(root / name, data)
                done.append(name)
    return done


def _folder(root: Path) -> Path:
    return root / ".work" / "kept"
