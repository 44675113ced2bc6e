"""Reading and writing `corpus.json`: what a corpus is, and where every input went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openus.errors import CorpusError
from openus.manifest import PRETRAIN
from openus.shards.pack import MASK
from openus.shards.schema import SCHEMA_VERSION
from openus.shards.writer import ShardInfo
from openus.storage.files import write_bytes

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
        unfinished = any(path.name != "lock" for path in (root / ".work").glob("*"))
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


def save_corpus(root: Path, summary: Mapping[str, Any]) -> None:
    """Write `corpus.json`, whole or not at all; the same bytes for the same contents."""
    write_bytes(root / NAME, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())


def sets_of(shards: Mapping[str, Sequence[ShardInfo]]) -> dict[str, dict[str, Any]]:
    """What `corpus.json` keeps of the sets of a corpus."""
    return {
        name: {"samples": sum(info.samples for info in infos), "shards": [asdict(info) for info in infos]}
        for name, infos in shards.items()
    }


def shard_path(root: Path, name: str, entry: dict[str, Any]) -> Path:
    """Where a shard of the set `name` lies on this machine: in the corpus, or where `openus index` found it.

    Raises:
        CorpusError: it is gone, or lies on another machine.
    """
    url = entry.get("url")
    if url is not None and "://" in url:
        raise CorpusError(
            f"{url}: not on this machine; fetch it, and give its place anew with 'openus index'"
        )
    path = root / name / entry["file"] if url is None else Path(url)
    if not path.exists():
        mend = f"run 'openus repair {root}'" if url is None else "give its place anew with 'openus index'"
        raise CorpusError(f"{path}: missing; {mend}")
    return path


def extension_of(summary: dict[str, Any], name: str) -> str:
    """What the names of the pictures of a set end in, by the settings of its corpus; masks are always PNG."""
    if name.endswith(MASK):
        return "png"
    return str(summary["corpus"]["pack"]["pretrain" if name == PRETRAIN else "held_out"]["format"])


def sets_digest(summary: dict[str, Any]) -> str:
    """Identity of all shards of a corpus, by the hashes that its `corpus.json` holds of them."""
    return hashlib.sha256(json.dumps(summary["sets"], sort_keys=True).encode()).hexdigest()
