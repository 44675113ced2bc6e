"""Reading `corpus.json`: what a corpus is, and where every input went."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from openus.errors import CorpusError
from openus.shards.schema import SCHEMA_VERSION

NAME = "corpus.json"


def read_corpus(root: Path) -> dict[str, Any]:
    """The contents of `corpus.json`.

    Raises:
        CorpusError: there is none, it is damaged, or another version of the schema wrote it.
    """
    path = root / NAME
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; build a corpus with: openus build {root}")
    if not path.exists():
        unfinished = (root / ".work").is_dir()
        hint = (
            "the build was not finished; run the same 'openus build' again"
            if unfinished
            else "is it a corpus folder?"
        )
        raise CorpusError(f"{root}: there is no {NAME}; {hint}")
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
        version = summary["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path}: damaged ({error}); 'openus repair {root}' restores it, or run 'openus build' again"
        ) from error
    if version != SCHEMA_VERSION:
        raise CorpusError(
            f"{path}: written with schema {version}, this version of openus reads {SCHEMA_VERSION}; "
            "rebuild the corpus, or install the version that wrote it"
        )
    return summary


def sets_digest(summary: dict[str, Any]) -> str:
    """Identity of all shards of a corpus, by the hashes that its `corpus.json` holds of them."""
    return hashlib.sha256(json.dumps(summary["sets"], sort_keys=True).encode()).hexdigest()
