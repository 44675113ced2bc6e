"""`corpus.json` and the notes beside it: what a corpus is, and where every input went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openus import __version__
from openus.errors import NeedsPersonError
from openus.manifest import PRETRAIN, Corpus
from openus.shards.corpus import save_corpus, sets_of
from openus.shards.leaks import official_leaks
from openus.shards.schema import SCHEMA_VERSION
from openus.shards.writer import ShardInfo
from openus.stages.results import SourceResult
from openus.storage.files import write_bytes, write_parquet


def write_corpus(
    out: Path,
    corpus: Corpus,
    results: Sequence[SourceResult],
    shards: dict[str, list[ShardInfo]],
    kept: pa.Table,
    tables: Mapping[str, pa.Table],
) -> dict[str, Any]:
    """Write the `tables` beside the manifests, README.md, LICENSES.md, and last `corpus.json`: it means a whole corpus.

    Nothing in it depends on the time, the machine's name or the number of workers.
    """
    digests = {
        name: write_parquet(out / "manifest" / f"{name}.parquet", table) for name, table in tables.items()
    }
    rejected = tables["rejected"]
    counts = Counter(kept["source"].to_pylist())
    reasons: dict[str, Counter[str]] = {}
    frames: Counter[str] = Counter()
    for source, index, stage, reason in zip(
        *(rejected[name].to_pylist() for name in ("source", "index", "stage", "reason")), strict=True
    ):
        frames[source] += index >= 0
        if stage != "select":
            reasons.setdefault(source, Counter())[reason] += 1
    summary: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "openus": __version__,
        "corpus": corpus.model_dump(mode="json", by_alias=True),
        "sources": {
            result.source.slug: _source(result, counts, reasons, frames, kept)
            for result in results
            if result.problem is None
        },
        "missing": told_missing(results),
        "sets": sets_of(shards),
        **{name: {"rows": len(table), "sha256": digests[name]} for name, table in tables.items()},
    }
    write_bytes(out / "README.md", _readme(corpus, summary).encode())
    write_bytes(out / "LICENSES.md", _licences(results).encode())
    save_corpus(out, summary)
    return summary


def _source(
    result: SourceResult,
    counts: Counter[str],
    reasons: dict[str, Counter[str]],
    frames: Counter[str],
    rows: pa.Table,
) -> dict[str, Any]:
    source, selection, tally = result.source, result.selection, result.tally
    assert selection is not None
    kept = counts[source.slug]
    held_out = result.set != PRETRAIN
    leaks = official_leaks(rows.filter(pc.equal(rows["source"], source.slug))) if held_out else []
    return {
        "set": result.set,
        "manifest": source.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "route": result.route,
        "licence": source.licence.name,
        "redistribution": source.licence.redistribution,
        "members": {
            "found": len(selection.images) + len(selection.excluded),
            "selected": len(selection.images),
            "excluded": len(selection.excluded),
        },
        "frames": {
            "announced": tally.announced,
            "decoded": tally.decoded,
            "kept": kept,
            "rejected": frames[source.slug],
        },
        "rejected": dict(sorted(reasons.get(source.slug, Counter()).items())),
        "notes": [*selection.notes, *_surprises(result), *leaks],
    }


def _surprises(result: SourceResult) -> list[str]:
    """Where the data differ from what the manifest expects: said, never repaired."""
    expected, selection = result.source.expected, result.selection
    assert selection is not None
    found: list[str] = []
    if expected.members is not None and expected.members != len(selection.images):
        found.append(f"expected {expected.members} files, found {len(selection.images)}")
    if expected.frames is not None and expected.frames != result.tally.announced:
        found.append(f"expected {expected.frames} frames, found {result.tally.announced}")
    patients = {image.patient for image in selection.images} - {""}
    if expected.patients is not None and expected.patients != len(patients):
        found.append(f"expected {expected.patients} patients, found {len(patients)}")
    for label, classes in expected.labels.items():
        seen = Counter(image.labels.get(label, "") for image in selection.images)
        for name, count in classes.items():
            if seen[name] != count:
                found.append(f"label {label}: expected {count} of '{name}', found {seen[name]}")
    return found


def told_missing(results: Sequence[SourceResult]) -> dict[str, dict[str, Any]]:
    """The sources that could not be had, by slug: the `reason`, and the `steps` of what a person can do."""
    return {
        result.source.slug: {
            "reason": str(result.problem),
            "steps": list(result.problem.steps) if isinstance(result.problem, NeedsPersonError) else [],
        }
        for result in results
        if result.problem is not None
    }


def _readme(corpus: Corpus, summary: dict[str, Any]) -> str:
    first = next(iter(summary["sets"].items()))
    last = len(first[1]["shards"]) - 1
    sets = "\n".join(
        f"| {name} | {entry['samples']:,} | {len(entry['shards'])} | "
        f"{sum(shard['bytes'] for shard in entry['shards']) / 1e6:,.1f} |"
        for name, entry in summary["sets"].items()
    )
    sources = "\n".join(
        f"| {slug} | {entry['set']} | {entry['frames']['kept']:,} | {entry['licence']} | {entry['redistribution']} |"
        for slug, entry in summary["sources"].items()
    )
    missing = ", ".join(summary["missing"]) or "none"
    return f"""# {corpus.title or corpus.name}

Built by openus {__version__} from the corpus `{corpus.name}`, seed {corpus.seed}.

| set | samples | shards | MB |
|---|---:|---:|---:|
{sets}

| source | set | samples | licence | redistribution |
|---|---|---:|---|---|
{sources}

Sources left out: {missing}.

Each sample is two members of a tar: `KEY.{corpus.pack.pretrain.format}` (grey) and `KEY.json`. The Parquet files
under `manifest/` hold a row per sample; `manifest/rejected.parquet` a row per input that was not kept, with the
reason. `corpus.json` holds the recipe, the counts and the SHA-256 of every shard.

```python
import webdataset
data = webdataset.WebDataset("{first[0]}/{first[0]}-{{000000..{last:06d}}}.tar", shardshuffle=False).decode("l")
```

Check it with `openus verify`. Mind LICENSES.md before passing any of it on.
"""


def _licences(results: Sequence[SourceResult]) -> str:
    lines = ["# Licences of the sources", ""]
    for result in results:
        source = result.source
        cite = source.citation
        lines += [
            f"## {source.slug}: {source.title}",
            f"- licence: {source.licence.name}" + (f" ({source.licence.url})" if source.licence.url else ""),
            f"- redistribution: {source.licence.redistribution}",
            *([f"- note: {source.licence.note}"] if source.licence.note else []),
            *([f"- cite: {cite.title}" + (f", doi:{cite.doi}" if cite.doi else "")] if cite else []),
            "",
        ]
    return "\n".join(lines)
