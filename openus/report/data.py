"""What the report is made from: the manifests of a corpus, read once; nothing here looks at a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from openus.manifest import PRETRAIN
from openus.shards.corpus import read_corpus
from openus.shards.stats import read_rows
from openus.storage.files import read_parquet

COLUMNS = [
    *("key", "set", "shard", "offset", "size", "source", "anatomy", "kind", "member", "index", "clip", "patient"),
    *("split", "width", "height", "source_width", "source_height", "sha256", "cluster", "sector"),
    *("cleaned_fraction", "text_boxes", "flags"),
]  # fmt: skip
UNKNOWN = {"members": {"found": 0, "selected": 0, "excluded": 0}, "rejected": {}, "notes": [], "route": ""}


@dataclass(frozen=True)
class Facts:
    """A corpus as its manifests tell it.

    rows: one line per sample (masks left out), in the order of the shards, with the columns of `COLUMNS` and
    `name` (source/member#index). rejected: one line per input not kept. duplicates: joins found by `openus dedup`,
    where they were recorded. labels: key to label pairs, of the held-out sets only.
    """

    root: Path
    summary: Mapping[str, Any]
    rows: pd.DataFrame
    rejected: pd.DataFrame
    duplicates: pd.DataFrame | None
    labels: Mapping[str, Mapping[str, str]]

    @property
    def sources(self) -> list[str]:
        """Sources in the order of the corpus, then those that only the rows know (shards made by others)."""
        return list(dict.fromkeys([*self.summary["sources"], *sorted(self.rows["source"].unique())]))

    def entry(self, source: str) -> Mapping[str, Any]:
        """What `corpus.json` says of a source; what can be counted, where it does not know it."""
        known: Mapping[str, Any] | None = self.summary["sources"].get(source)
        if known is not None:
            return known
        rows = self.rows[self.rows["source"] == source]
        frames = {"announced": len(rows), "decoded": len(rows), "kept": len(rows), "rejected": 0}
        return {
            **UNKNOWN,
            "set": rows["set"].iloc[0],
            "licence": "unknown",
            "redistribution": "recipe-only",
            "frames": frames,
        }


def read_facts(root: Path) -> Facts:
    """Read the manifests of the corpus folder `root`.

    Raises:
        CorpusError: no corpus, or a manifest that `corpus.json` names is missing or damaged.
    """
    summary = read_corpus(root)
    table = read_rows(root, [*COLUMNS, "labels"])
    rows = table.drop_columns(["labels"]).to_pandas(use_threads=False)
    rows["name"] = rows["source"] + "/" + rows["member"] + "#" + rows["index"].astype(str)
    held_out = np.flatnonzero((rows["set"] != PRETRAIN).to_numpy())
    pairs = table["labels"].take(held_out).to_pylist()
    labels = {
        key: dict(values or ())
        for key, values in zip(rows["key"].to_numpy()[held_out].tolist(), pairs, strict=True)
    }
    rejected = read_parquet(root / "manifest" / "rejected.parquet").to_pandas(use_threads=False)
    joins = root / "manifest" / "duplicates.parquet"
    duplicates = read_parquet(joins).to_pandas(use_threads=False) if joins.exists() else None
    return Facts(root, summary, rows, rejected, duplicates, labels)


def choose(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A seeded sample of at most `count` rows: other patients and clips first, so that one cine does not fill it."""
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = rows.iloc[order]
    group = shuffled["patient"].where(shuffled["patient"] != "", shuffled["clip"])
    group = group.where(group != "", shuffled["key"])
    turn = shuffled.groupby(group.to_numpy(), sort=False).cumcount().to_numpy()
    return shuffled.iloc[np.argsort(turn, kind="stable")[:count]]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column."""
    return [
        dict(zip(rows.columns, values, strict=True)) for values in rows.itertuples(index=False, name=None)
    ]
