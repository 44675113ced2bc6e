"""`openus dedup`: copies in a built corpus, or in any folder, archive or list of pictures; nothing is deleted."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from openus import console
from openus.archives import Tree
from openus.commands.progress import reporter
from openus.dedup.near import Chunk, Place, code_version
from openus.engine.base import Report
from openus.engine.local import LocalEngine
from openus.errors import CorpusError, UsageError
from openus.fetch import default_cache
from openus.manifest import PRETRAIN, DedupSettings
from openus.report.copies import render
from openus.shards.corpus import NAME, read_corpus, shard_path
from openus.shards.pack import MASK
from openus.stages.dedup import FACTS, Conclusion, chunk_of, judge
from openus.stages.folder import Listed, files_of, read_pictures
from openus.storage.depot import Depot
from openus.storage.files import read_parquet, write_bytes
from openus.storage.locks import one_builder

TABLES = (".csv", ".tsv", ".parquet")
_SHOWN = 20
_OF_A_LIST = {"path", "patient", "clip", "set"}


@dataclass(frozen=True)
class Pictures:
    """What is searched: chunks, and a row of `FACTS` for each of their pictures, with `shown`, its name for people."""

    chunks: list[Chunk]
    facts: pd.DataFrame
    rejected: list[dict[str, Any]]
    left_out: int = 0

    def places(self) -> dict[str, Place]:
        """Where the bytes of each key lie."""
        return {
            key: place for chunk in self.chunks for key, place in zip(chunk.keys, chunk.places, strict=True)
        }


def dedup(
    where: Path,
    *,
    score: float | None,
    exclude: Sequence[str],
    held_out: Sequence[str],
    index: Path | None,
    out: Path | None,
    page: Path | None,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Look for copies and say what is one and the same; raises `UsageError` before any work."""
    where = where.expanduser()
    if not where.exists():
        raise UsageError(f"{where}: there is no such folder, archive or list")
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: expected a name ending in .csv or .parquet")
    corpus = (where / NAME).exists()
    if corpus and (exclude or held_out):
        raise UsageError("--exclude and --held-out are for folders: a corpus says itself what is held out")
    settings = _settings(where if corpus else None, score)
    index = index or _index(where, corpus)
    engine = LocalEngine(workers, Depot(index))
    with one_builder(index), reporter(quiet or as_json, "pictures") as report:
        if corpus:
            pictures = _of_corpus(where, index)
        else:
            pictures = _of_files(where, exclude, held_out, index, workers, report)
        found = judge(pictures.facts, pictures.chunks, settings, index / "pairs.parquet", engine, report)
        _sweep_prints(index, pictures.chunks)
    table = joins(pictures, found)
    if out is not None:
        write_bytes(out, _file(table, out.suffix))
    if page is not None:
        write_bytes(
            page, render(where.name or str(where), summary(pictures, found), table, pictures.places())
        )
    if as_json:
        console.print_json(summary(pictures, found) | {"copies": _records(table)})
    else:
        _show(summary(pictures, found), table, [path for path in (out, page) if path is not None])


def _settings(corpus: Path | None, score: float | None) -> DedupSettings:
    """Those of the corpus, where there is one, with near-copies looked for in any case."""
    known = DedupSettings()
    if corpus is not None:
        known = DedupSettings.model_validate(read_corpus(corpus)["corpus"].get("dedup", {}))
    changes: dict[str, Any] = {"near": "drop", "cine": None}
    if score is not None:
        changes["score"] = score
    return known.model_copy(update=changes)


def _index(where: Path, corpus: bool) -> Path:
    if corpus and os.access(where, os.W_OK):
        return where / ".work" / "copies"  # the build keeps its own comparisons beside it
    place = str(where.resolve())
    digest = hashlib.sha256(place.encode()).hexdigest()[:12]
    return default_cache() / "dedup" / f"{_slug(where)}-{digest}"


def _slug(where: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", where.resolve().stem.lower()).strip("-") or "pictures"


# ── what is searched ───────────────────────────────────────────────────────────────────────────────────────


def _of_corpus(root: Path, index: Path) -> Pictures:
    """The samples of a corpus, in place in its shards; each shard is a chunk."""
    columns = list(dict.fromkeys([*FACTS, "offset", "size"]))
    chunks, tables = [], []
    for name, part in read_corpus(root)["sets"].items():
        if name.endswith(MASK):
            continue
        for shard in part["shards"]:
            path, manifest = shard_path(root, name, shard), root / "manifest" / shard["manifest"]
            if not manifest.exists():
                raise CorpusError(f"{manifest}: missing; run 'openus repair {root}', or build again")
            table = read_parquet(manifest, columns)
            chunks.append(_shard(path, shard["sha256"], table, index))
            tables.append(table.select(list(FACTS)).to_pandas(use_threads=False))
    facts = pd.concat(tables, ignore_index=True)
    facts["shown"] = facts["source"] + "/" + facts["member"] + "#" + facts["index"].astype(str)
    return Pictures(chunks, facts, [])


def _shard(path: Path, digest: str, table: pa.Table, index: Path) -> Chunk:
    names = ("key", "source", "clip", "offset", "size", "pixel_sha256")
    keys, sources, clips, at, length, exact = (table[name].to_pylist() for name in names)
    return Chunk(
        name=digest,
        prints=index / f"{digest[:20]}.{code_version()}.prints",
        keys=tuple(keys),
        clips=tuple(clip and f"{source}/{clip}" for source, clip in zip(sources, clips, strict=True)),
        places=tuple(Place(path, *where) for where in zip(at, length, strict=True)),
        exact=tuple(exact),
    )


def _of_files(
    where: Path, exclude: Sequence[str], held_out: Sequence[str], index: Path, workers: int, report: Report
) -> Pictures:
    left_out: list[str] = []
    if where.is_file() and where.suffix.lower() in TABLES:
        tree, files = _list(where, index)
    else:
        tree = Tree([where], work=index / "unpacked")
        files, left_out = files_of(tree, exclude, held_out)
    read = read_pictures(tree, files, _slug(where), index, workers, report)
    tables = [read_parquet(spec.rows_path) for spec in read.specs]
    chunks = [chunk_of(spec, table) for spec, table in zip(read.specs, tables, strict=True)]
    facts = pa.concat_tables(table.replace_schema_metadata(None).select(list(FACTS)) for table in tables)
    frame = facts.to_pandas(use_threads=False)
    if not len(frame):
        reasons = Counter(str(row["reason"]) for row in read.rejected)
        raise UsageError(f"{where}: not one picture could be read ({dict(reasons)})")
    several = frame["member"].duplicated(keep=False)
    frame["shown"] = frame["member"].where(~several, frame["member"] + "#" + frame["index"].astype(str))
    return Pictures(chunks, frame, read.rejected, len(left_out))


def _list(path: Path, index: Path) -> tuple[Tree, list[Listed]]:
    """A table with a column `path`, and perhaps `patient`, `clip` and `set` (whatever is not pretrain is held out)."""
    if path.suffix == ".parquet":
        table = read_parquet(path).to_pandas(use_threads=False)
    else:
        table = pd.read_csv(
            path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False
        )
    if "path" not in table:
        raise UsageError(
            f"{path}: expected a column 'path', and perhaps {', '.join(sorted(_OF_A_LIST - {'path'}))}; "
            f"it has {', '.join(map(str, table.columns))}"
        )
    if not len(table):
        raise UsageError(f"{path}: the list is empty")
    places = [os.path.normpath(path.resolve().parent / text) for text in table["path"].astype(str)]
    missing = [text for text, place in zip(table["path"], places, strict=True) if not Path(place).is_file()]
    if missing:
        raise UsageError(
            f"{path}: {missing[0]} is not there, nor are {len(missing) - 1:,} others; paths are taken from the "
            "folder of the list"
        )
    root = Path(os.path.commonpath([Path(place).parent for place in places]))
    columns = {
        name: table[name].fillna("").astype(str) if name in table else pd.Series([""] * len(table))
        for name in ("patient", "clip", "set")
    }
    files = [
        Listed(Path(place).relative_to(root).as_posix(), patient, clip, group or PRETRAIN)
        for place, patient, clip, group in zip(places, *columns.values(), strict=True)
    ]
    return Tree([root], work=index / "unpacked"), files


def _sweep_prints(index: Path, chunks: Sequence[Chunk]) -> None:
    """Remove fingerprints of shards that are there no more."""
    wanted = {chunk.prints for chunk in chunks}
    for path in index.glob("*.prints"):
        if path not in wanted:
            path.unlink()


# ── what was found ─────────────────────────────────────────────────────────────────────────────────────────


def joins(pictures: Pictures, found: Conclusion) -> pd.DataFrame:
    """All joins, surest first: kind, score, distance, names and decisions of both, and what the page needs."""
    table: pd.DataFrame = found.joins.to_pandas(use_threads=False)
    shown = pd.Series(pictures.facts["shown"].to_numpy(object), index=pictures.facts["key"])
    table["name_a"], table["name_b"] = (shown.reindex(table[side]).to_numpy(object) for side in ("a", "b"))
    return table.sort_values(["score", "name_a", "name_b"], ascending=[False, True, True], ignore_index=True)


def summary(pictures: Pictures, found: Conclusion) -> dict[str, Any]:
    """Counts: pictures, joins by kind, groups of copies, what would stay and go, leaks, what could not be read."""
    kinds = Counter(found.joins["kind"].to_pylist())
    sizes = pd.Series(found.cluster[found.cluster != ""]).value_counts()
    held = (pictures.facts["set"] != PRETRAIN).to_numpy()
    return {
        "pictures": len(pictures.facts),
        "held_out": int(held.sum()),
        "exact": kinds["exact"],
        "near": kinds["near"],
        "groups": int((sizes > 1).sum()),
        "largest_group": int(sizes.max()) if len(sizes) else 0,
        "stay": int(np.count_nonzero(found.keep)),
        "go": int(np.count_nonzero(~found.keep)),
        "leaks": int((found.reason == "leak").sum()),
        "unreadable": len(pictures.rejected),
        "not_pictures": pictures.left_out,
        "reasons": dict(Counter(str(row["reason"]) for row in pictures.rejected)),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["kind", "score", "distance", "name_a", "decision_a", "name_b", "decision_b"]
    return [
        {str(name): value for name, value in row.items()} | {"score": round(float(row["score"]), 4)}
        for row in table[columns].to_dict("records")
    ]


def _file(table: pd.DataFrame, suffix: str) -> bytes:
    if suffix == ".parquet":
        sink = io.BytesIO()
        table.drop(columns=["a", "b"]).to_parquet(sink, index=False)
        return sink.getvalue()
    text = io.StringIO()
    rows = _records(table)
    columns = ["kind", "score", "distance", "name_a", "decision_a", "name_b", "decision_b"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _show(counts: dict[str, Any], table: pd.DataFrame, written: Sequence[Path]) -> None:
    out = console.out
    out.print(
        f"{counts['pictures']:,} pictures: {counts['exact']:,} exact and {counts['near']:,} near copies "
        f"in {counts['groups']:,} groups; {counts['stay']:,} would stay, {counts['go']:,} go"
    )
    if counts["held_out"]:
        out.print(f"held out: {counts['held_out']:,} pictures; {counts['leaks']:,} others are copies of them")
    for row in table.head(_SHOWN).itertuples():
        sure = "same pixels" if row.kind == "exact" else f"score {row.score:.3f}"
        out.print(f"  {row.name_b} ({row.decision_b}) = {row.name_a}  {sure}", markup=False, soft_wrap=True)
    if len(table) > _SHOWN:
        out.print(f"  … and {len(table) - _SHOWN:,} more: see them with --out or --report")
    if counts["unreadable"]:
        why = ", ".join(f"{reason} {count:,}" for reason, count in counts["reasons"].items())
        out.print(f"not compared: {counts['unreadable']:,} ({why})", style="yellow")
    if counts["not_pictures"]:
        out.print(f"left out as no pictures: {counts['not_pictures']:,}", style="dim")
    for path in written:
        out.print(f"written: {path}", markup=False, soft_wrap=True)
