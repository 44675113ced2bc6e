"""What is known of one shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One tar of a set. `url` is its local path or its address; `sha256` "" and `bytes` -1 where not known."""

    name: str
    url: str
    bytes: int
    sha256: str
    samples: int
    manifest: str
