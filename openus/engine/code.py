"""Identity of the code that makes samples: all machines of a build must have the same, and the next build too."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from openus import __version__

_CODE = (
    "archives",
    "stages/chunks.py",
    "stages/chunkspec.py",
    "stages/rows.py",
    "clean",
    "decode",
    "dedup/hashes.py",
    "shards/codecs.py",
    "sources",
)


@functools.cache
def code_version() -> str:
    """Hash of the code that turns bytes into samples: work done by other code is done again."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        top = root / name
        for path in sorted([top] if top.is_file() else top.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
