"""The depot of an address."""

from __future__ import annotations

from pathlib import Path

from openus.storage.bucket import Bucket
from openus.storage.depot import Depot


def depot(out: str | Path, scratch: Path | None = None) -> Depot:
    """The depot of OUT: a path, or an address of object storage."""
    text = str(out)
    if "://" in text and not text.startswith("file://"):
        return Bucket(text, scratch)
    return Depot(Path(text.removeprefix("file://")))
