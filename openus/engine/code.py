"""Identity of the code that makes samples: all machines of a build must have the same, and the next build too."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from openus import __version__

_CODE = (
    "archives", "clean", "decode", "dedup/hashes.py", "engine/watch.py", "glob.py", "select/tables.py",
    "shards/codecs.py", "shards/schema.py", "sources", "stages/chunks.py", "stages/chunkspec.py", "stages/rows.py",
)  # fmt: skip


@functools.cache
def code_version() -> str:
    """Hash of the code that turns bytes into samples: work done by other code is done again."""
    return _hash_of(Path(__file__).resolve().parents[1])


def _hash_of(root: Path) -> str:
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        top = root / name
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
