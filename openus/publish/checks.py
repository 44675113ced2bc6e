"""What a corpus must have passed before it goes up: `openus verify` and `openus audit`, of these very shards.

Both leave a record: the audit in `corpus.json`, which a build writes anew; verification in `.work/verified.json`, with
the hashes, sizes and times of all shards and manifests, so that a file touched since is noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from openus import __version__
from openus.errors import CorpusError
from openus.shards.corpus import read_corpus, sets_digest
from openus.storage.files import write_bytes

_VERIFIED = ".work/verified.json"


def _state(root: Path, summary: dict[str, Any]) -> str:
    digest = hashlib.sha256(sets_digest(summary).encode())
    for name, part in summary["sets"].items():
        for shard in part["shards"]:
            for path in (root / name / shard["file"], root / "manifest" / shard["manifest"]):
                facts = path.stat()
                digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def record_verified(root: Path, deep: bool) -> None:
    """Note that the corpus passed `openus verify`."""
    facts = {"openus": __version__, "deep": deep, "of": _state(root, read_corpus(root))}
    write_bytes(root / _VERIFIED, json.dumps(facts).encode())


def lacking(root: Path, summary: dict[str, Any], reviewed: str) -> list[str]:
    """What stands in the way of publishing, each with the command to run; empty where nothing does.

    `reviewed` are the words of a person who looked at what the audit found.
    """
    problems = []
    try:
        verified: Any = json.loads((root / _VERIFIED).read_bytes())
    except (OSError, ValueError):
        verified = None
    if not isinstance(verified, dict):
        problems.append(f"the corpus has not passed verification; run: openus verify {root}")
    else:
        try:
            state = _state(root, summary)
        except OSError as error:
            raise CorpusError(
                f"{error.filename}: missing; run 'openus build' again to write it anew"
            ) from error
        if verified.get("of") != state:
            problems.append(f"its files have changed since they were verified; run: openus verify {root}")
    audit = summary.get("audit")
    if audit is None:
        problems.append(f"nobody has looked for text and names in it; run: openus audit {root}")
    elif audit.get("of") != sets_digest(summary):
        problems.append(f"its shards have changed since the audit; run: openus audit {root}")
    elif audit["counts"] and not reviewed:
        words = {"text": "pictures with text"}
        found = ", ".join(f"{count:,} {words.get(kind, kind)}" for kind, count in audit["counts"].items())
        problems.append(
            f"the audit found {found}: look at them (audit.png, and 'openus audit {root}'), then say what you saw with "
            '--reviewed "…"; it is printed in the card'
        )
    return problems
