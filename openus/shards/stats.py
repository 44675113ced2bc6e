"""Counts over the manifests of a corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from openus.errors import CorpusError, UsageError, did_you_mean
from openus.shards.corpus import read_corpus
from openus.shards.pack import MASK
from openus.storage.files import read_parquet

COLUMNS = ("source", "anatomy", "set", "licence", "split")


def read_rows(root: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of all samples (masks left out), in the order of the shards.

    Raises:
        CorpusError: no corpus, or a manifest that `corpus.json` names is missing.
    """
    summary = read_corpus(root)
    tables = []
    for name, part in summary["sets"].items():
        if name.endswith(MASK):
            continue
        for entry in part["shards"]:
            path = root / "manifest" / entry["manifest"]
            if not path.exists():
                raise CorpusError(f"{path}: missing; run 'openus build {root}' again to write it anew")
            tables.append(read_parquet(path, columns))
    return pa.concat_tables(tables)


def corpus_stats(root: Path, by: str = "source") -> dict[str, Any]:
    """Samples, clips, patients, sizes and bytes by one column; the counts of each label; reasons of rejection."""
    if by not in COLUMNS:
        raise UsageError(f"--by {by}: expected one of {', '.join(COLUMNS)}{did_you_mean(by, COLUMNS)}")
    wanted = dict.fromkeys([by, "source", "clip", "patient", "width", "height", "size", "labels"])
    table = read_rows(root, list(wanted))
    labels: dict[str, Counter[str]] = {}
    for pairs in table["labels"].to_pylist():
        for name, value in pairs:
            labels.setdefault(name, Counter())[value] += 1
    frame = table.drop_columns(["labels"]).to_pandas(use_threads=False)
    rows = []
    for value, part in frame.groupby(by, sort=False):
        named = part[part["patient"] != ""]
        rows.append(
            {
                by: value,
                "samples": len(part),
                "clips": part[part["clip"] != ""].groupby(["source", "clip"]).ngroups,
                "patients": named.groupby(["source", "patient"]).ngroups,
                "median_size": f"{int(part['width'].median())}x{int(part['height'].median())}",
                "bytes": int(part["size"].sum()),
            }
        )
    rejected = read_parquet(root / "manifest" / "rejected.parquet", ["stage", "reason"]).to_pandas(
        use_threads=False
    )
    reasons = rejected[rejected["stage"] != "select"]["reason"].value_counts()
    return {
        "rows": sorted(rows, key=lambda row: -row["samples"]),
        "labels": {name: dict(counter.most_common()) for name, counter in sorted(labels.items())},
        "rejected": {str(reason): int(count) for reason, count in reasons.items()},
    }
