"""The stage of a build that decides, over all sources, which samples stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from openus.dedup.cine import spread, thin_clip
from openus.dedup.decide import Decisions, Joins, decide
from openus.dedup.near import PAIRS, Chunk, Place, code_version, near_copies
from openus.dedup.search import pack
from openus.engine.base import Engine, Report
from openus.manifest import PRETRAIN, CineSettings, DedupSettings
from openus.shards.schema import DUPLICATES, REJECTED
from openus.stages.chunkspec import ChunkSpec
from openus.storage.files import read_parquet

FACTS = (
    "key", "set", "source", "member", "index", "clip", "patient", "pixel_sha256", "source_width", "source_height",
    "phash",
)  # fmt: skip


@dataclass(frozen=True)
class Deduplicated:
    """kept: rows with their cluster, and `bin`, the file of their bytes; dropped: rows of the rejected schema;
    duplicates: every join that was found, of the duplicates schema."""

    kept: pa.Table
    dropped: pa.Table
    duplicates: pa.Table


def deduplicate(
    specs: Sequence[ChunkSpec], settings: DedupSettings, work: Path, engine: Engine, report: Report
) -> Deduplicated:
    """Thin cine, find copies among all samples of finished chunks, and decide which stay.

    The fingerprints lie beside their chunks, what was compared in `work`/dedup; both are used again.
    """
    tables = [read_parquet(spec.rows_path) for spec in specs]
    rows = _all_rows(specs, tables)
    report("dedup", 0, len(rows))
    facts = rows.select(list(FACTS)).to_pandas(use_threads=False)
    chunks = [chunk_of(*both) for both in zip(specs, tables, strict=True)] if settings.near != "off" else []
    outcome = judge(facts, chunks, settings, work / "dedup" / "pairs.parquet", engine, report)
    report("dedup", len(rows), len(rows))
    kept = rows.append_column("cluster", pa.array(outcome.cluster, pa.string())).filter(
        pa.array(outcome.keep)
    )
    gone = ~outcome.keep
    dropped = _dropped(facts[gone], outcome.reason[gone], outcome.detail[gone])
    return Deduplicated(kept, dropped, outcome.joins)


def follow(specs: Sequence[ChunkSpec], clusters: Mapping[str, str]) -> Deduplicated:
    """Keep what a recipe keeps (key to cluster) instead of deciding; all other samples are dropped as `recipe`."""
    rows = _all_rows(specs, [read_parquet(spec.rows_path) for spec in specs])
    known = np.array([key in clusters for key in rows["key"].to_pylist()], bool)
    kept = rows.filter(pa.array(known))
    names = pa.array([clusters[key] for key in kept["key"].to_pylist()], pa.string())
    gone = rows.filter(pa.array(~known)).select(list(FACTS)).to_pandas(use_threads=False)
    why, detail = (np.full(len(gone), text, object) for text in ("recipe", "the recipe leaves it out"))
    return Deduplicated(
        kept.append_column("cluster", names), _dropped(gone, why, detail), DUPLICATES.empty_table()
    )


def _all_rows(specs: Sequence[ChunkSpec], tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all chunks, each with `bin`, the file of its bytes."""
    return pa.concat_tables(
        table.append_column("bin", pa.array([str(spec.bytes_path)] * len(table), pa.string()))
        for spec, table in zip(specs, tables, strict=True)
    ).replace_schema_metadata(None)


def _dropped(gone: pd.DataFrame, reason: NDArray[np.object_], detail: NDArray[np.object_]) -> pa.Table:
    return pa.table(
        {
            "source": gone["source"].to_numpy(object),
            "member": gone["member"].to_numpy(object),
            "index": gone["index"].to_numpy(),
            "stage": np.full(len(gone), "dedup", object),
            "reason": reason,
            "detail": detail,
        }
    ).cast(REJECTED)


def judge(
    facts: pd.DataFrame,
    chunks: Sequence[Chunk],
    settings: DedupSettings,
    store: Path,
    engine: Engine,
    report: Report,
) -> Conclusion:
    """Thin, look for copies, decide: over the pictures of `chunks`, of which `facts` has a row each with `FACTS`.

    What was compared is kept in the file `store`, and only what is new is compared again.
    """
    thinned = thin(facts, settings.cine)
    pairs = PAIRS.empty_table()
    if settings.near != "off":
        pairs = near_copies(chunks, store, engine, report)
    return conclude(facts, thinned, pairs, settings)


def chunk_of(spec: ChunkSpec, table: pa.Table) -> Chunk:
    """A finished chunk, with its rows, as the search for near-copies wants it."""
    columns = (table[name].to_pylist() for name in ("key", "clip", "at", "length", "pixel_sha256"))
    keys, clips, at, length, exact = columns
    path = spec.bytes_path
    return Chunk(
        name=f"{spec.source}/{spec.name}",
        prints=spec.folder / f"{spec.name}.{code_version()}.prints",
        keys=tuple(keys),
        clips=tuple(clip and f"{spec.source}/{clip}" for clip in clips),
        places=tuple(Place(path, *where) for where in zip(at, length, strict=True)),
        exact=tuple(exact),
    )


def thin(facts: pd.DataFrame, settings: CineSettings | None) -> dict[int, str]:
    """Rows that thinning inside clips leaves out, and why; frames of a clip in the order of the rows."""
    gone: dict[int, str] = {}
    if settings is None:
        return gone
    clips = facts[(facts["clip"] != "") & (facts["set"] == PRETRAIN)]
    for _, part in clips.groupby(["source", "clip"], sort=False):
        places = part.index.to_numpy()
        kept = []
        for place, (stays, distance, reference) in zip(
            places, thin_clip(pack(part["phash"].tolist()), settings), strict=True
        ):
            if stays:
                kept.append(place)
            else:
                gone[place] = f"{distance} bits from {_name(facts, places[reference])}"
        stay = spread(len(kept), settings.cap)
        nearest = np.asarray(kept)[stay]
        for place in np.asarray(kept)[~stay]:
            before = nearest[np.searchsorted(nearest, place) - 1]
            gone[place] = f"more than {settings.cap} frames of one clip, after {_name(facts, before)}"
    return gone


def _name(facts: pd.DataFrame, place: int) -> str:
    source, member, index = (str(facts[column].iat[place]) for column in ("source", "member", "index"))
    return f"{source}/{member}#{index}"


@dataclass(frozen=True)
class Conclusion:
    """bool [N], str [N] three times, and the joins as a table of the duplicates schema."""

    keep: NDArray[np.bool_]
    cluster: NDArray[np.object_]
    reason: NDArray[np.object_]
    detail: NDArray[np.object_]
    joins: pa.Table


def conclude(
    facts: pd.DataFrame, thinned: Mapping[int, str], pairs: pa.Table, settings: DedupSettings
) -> Conclusion:
    """The decision over all rows: what is thinned goes first, copies are judged among the rest."""
    keep = np.ones(len(facts), bool)
    keep[list(thinned)] = False
    rest = np.flatnonzero(keep)
    candidates = facts.iloc[rest].reset_index(drop=True)
    near = _joins(candidates["key"], pairs, settings.score)
    decisions = decide(
        candidates,
        Joins(near["a"].to_numpy(), near["b"].to_numpy(), near["score"].to_numpy(np.float64)),
        exact=settings.exact,
        near=settings.near == "drop",
        reuploads=settings.reuploads,
    )
    cluster, reason, detail = (np.full(len(facts), "", object) for _ in range(3))
    cluster[rest], reason[rest], detail[rest] = decisions.cluster, decisions.reason, decisions.detail
    keep[rest] = decisions.keep
    for place, why in thinned.items():
        reason[place], detail[place] = "cine", why
    return Conclusion(keep, cluster, reason, detail, _table(candidates, decisions, near))


def _joins(keys: pd.Series, pairs: pa.Table, least: float) -> pd.DataFrame:
    """Pairs of a sufficient score as places among the candidates."""
    table: pd.DataFrame = pairs.to_pandas(use_threads=False)
    place = pd.Series(np.arange(len(keys)), index=keys.to_numpy(object))
    table["a"], table["b"] = (
        place.reindex(table[name].to_numpy(object)).to_numpy(float) for name in ("a", "b")
    )
    table = table[(table["score"] >= least) & table["a"].notna() & table["b"].notna()]
    whole: pd.DataFrame = table.astype({"a": "int64", "b": "int64"})
    return whole


def _table(candidates: pd.DataFrame, decisions: Decisions, near: pd.DataFrame) -> pa.Table:
    """All joins, exact ones to the preferred copy; `a` is the preferred one of each pair."""
    numbers, _ = pd.factorize(candidates["pixel_sha256"])
    best = pd.Series(decisions.rank).groupby(numbers).transform("idxmin").to_numpy()
    repeats = np.flatnonzero(best != np.arange(len(best)))
    whole = [[0.0, 1.0, 0.0, 1.0]] * len(repeats)
    turned = decisions.rank[near["a"].to_numpy()] > decisions.rank[near["b"].to_numpy()]
    first = np.concatenate([best[repeats], np.where(turned, near["b"], near["a"])]).astype(np.int64)
    second = np.concatenate([repeats, np.where(turned, near["a"], near["b"])]).astype(np.int64)
    windows = [
        whole + [list(two if swap else one) for one, two, swap in zip(near[x], near[y], turned, strict=True)]
        for x, y in (("window_a", "window_b"), ("window_b", "window_a"))
    ]
    name = (
        candidates["source"] + "/" + candidates["member"] + "#" + candidates["index"].astype(str)
    ).to_numpy(object)
    said = np.where(decisions.keep, "kept", decisions.reason)
    columns: dict[str, Any] = {
        "a": candidates["key"].to_numpy(object)[first],
        "b": candidates["key"].to_numpy(object)[second],
        "source_a": candidates["source"].to_numpy(object)[first],
        "source_b": candidates["source"].to_numpy(object)[second],
        "name_a": name[first],
        "name_b": name[second],
        "kind": np.array(["exact"] * len(repeats) + ["near"] * len(near), object),
        "distance": np.concatenate([np.zeros(len(repeats)), near["distance"]]).astype(np.int32),
        "score": np.concatenate([np.ones(len(repeats)), near["score"]]).astype(np.float32),
        "window_a": pa.array(windows[0], pa.list_(pa.float32(), 4)),
        "window_b": pa.array(windows[1], pa.list_(pa.float32(), 4)),
        "cluster": decisions.cluster[second],
        "decision_a": said[first],
        "decision_b": said[second],
    }
    return pa.table(columns).cast(DUPLICATES).sort_by([("a", "ascending"), ("b", "ascending")])
