"""The build: fetch, select, decode and clean, deduplicate, pack. Each stage resumes where it was stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.clean.before import shares
from openus.engine.base import Engine, Report
from openus.engine.local import LocalEngine, kept_workers
from openus.errors import OpenUSError, SourceError, UsageError, did_you_mean
from openus.fetch import obtain
from openus.manifest import PRETRAIN, Corpus, Source
from openus.report import write_before, write_report
from openus.select import Selected, select
from openus.shards.keep import DIGESTS, copies, keep
from openus.shards.pack import MASK, ShardTask, finished, plan_set, write_again
from openus.shards.schema import REJECTED
from openus.shards.writer import ShardInfo
from openus.sources import mask_of
from openus.stages.chunks import run_chunk
from openus.stages.chunkspec import ChunkSpec, read_rejected, read_tally, without_culprit
from openus.stages.dedup import deduplicate, follow
from openus.stages.ledger import fingerprint, inputs_state
from openus.stages.record import write_corpus
from openus.stages.results import BuildResult, EmptyBuildError, SourceResult
from openus.stages.travel import chunk_files, shard_files
from openus.storage.depot import Depot
from openus.storage.locks import disk_told

_CHUNK_FILES = {"image": 256, "video": 8, "volume": 2}
_CHUNK_BYTES = 128 << 20


@dataclass(frozen=True)
class BuildOptions:
    """How to build, as opposed to what (which is the corpus's manifest)."""

    cache: Path
    mirrors: tuple[str, ...] = ()
    local: dict[str, Path] = field(default_factory=dict)
    offline: bool = False
    workers: int = 0
    retry_failed: bool = False
    clusters: Mapping[str, str] | None = None
    """Key of each sample to keep, and its duplicate cluster, where a recipe has decided; None: decide."""
    timeout: float = 600.0
    """Seconds that decoding one file may take (and one more for each of its frames); 0 for no limit."""
    absent: dict[str, OpenUSError] | None = None
    """Where a corpus is built once more: the sources it lacks, and why. All others must be had."""


def build(
    out: Path,
    corpus: Corpus,
    catalogue: Catalogue,
    options: BuildOptions,
    slugs: Sequence[str] = (),
    report: Report = lambda stage, done, total: None,
    engine: Engine | None = None,
) -> BuildResult:
    """Build `corpus` (or only the sources `slugs` of it) into `out`; called again, it goes on.

    `engine` does the work, and its depot says where `out` is kept; without one it is done by processes of this
    machine. The folder `out` is the depot's.

    Sources that cannot be had, or do not look as their manifest says, are left out and come back in
    `BuildResult.missing`; everything else is finished.

    Raises:
        UsageError: unknown slugs, nothing to do.
        CorpusError: another build is at work in `out`; its disk is full, or read-only.
    """
    sources = list(chosen_sources(corpus, catalogue, slugs))
    _check(corpus, sources, options)
    engine = engine or LocalEngine(options.workers, Depot(out))
    depot, work = engine.depot, out / ".work"
    with disk_told(out), depot.builder(), kept_workers():
        report("sources", 0, len(sources))
        results = []
        for source in sources:
            results.append(_prepare(source, corpus, options, work, engine, report))
            report("sources", 1, len(sources))
        ready = [result for result in results if result.problem is None]
        if options.absent is not None:
            _require(results, options.absent)
        _decode(ready, options, engine, report)
        if not any(result.tally.kept for result in ready):
            raise EmptyBuildError(results)
        specs = [spec for result in ready for spec in result.chunks]
        if options.clusters is None:
            unique = deduplicate(specs, corpus.dedup, work, engine, report)
        else:
            unique = follow(specs, options.clusters)
        if not len(unique.kept):
            raise EmptyBuildError(results)
        kept = unique.kept.drop_columns(["before"])
        depot.send(*(work / "dedup").glob("*.parquet"))
        tasks = _plan(out, kept, corpus)
        depot.remove(out / DIGESTS, out / "corpus.json")
        shards = _pack(tasks, engine, report)
        _sweep(depot, tasks, ready)
        rejected = _rejected_table(ready, unique.dropped)
        tables = {"rejected": rejected, "duplicates": unique.duplicates}
        summary = write_corpus(out, corpus, results, shards, kept, tables)
        write_before(out, unique.kept)
        write_report(out)
        keep(out)
        depot.publish(sent=[task.manifest_path for task in tasks], after=copies(out))
    return BuildResult(out, results, shards, summary)


def chosen_sources(corpus: Corpus, catalogue: Catalogue, slugs: Sequence[str]) -> Iterator[Source]:
    """The sources of a corpus, or those named by `slugs`; raise `UsageError` for one that is not part of it."""
    known = catalogue.slugs if corpus.sources == "all" else corpus.sources
    for slug in slugs:
        source = catalogue.source(slug)  # an unknown slug is refused here, with a suggestion
        if slug not in known:
            raise UsageError(f"source '{source.slug}' is not part of the corpus '{corpus.name}'")
    wanted = set(slugs or known)
    yield from catalogue.sources(slug for slug in known if slug in wanted)


def _check(corpus: Corpus, sources: Sequence[Source], options: BuildOptions) -> None:
    names = {source.slug for source in sources}
    for slug in options.local:
        if slug not in names:
            raise UsageError(
                f"--local {slug}=…: not a source of this build ({', '.join(sorted(names))}){did_you_mean(slug, names)}"
            )
    if not sources:
        raise UsageError(f"the corpus '{corpus.name}' has no sources")


def _prepare(
    source: Source, corpus: Corpus, options: BuildOptions, work: Path, engine: Engine, report: Report
) -> SourceResult:
    """Obtain a source, look through it, and cut its files into chunks."""
    started = time.monotonic()
    result = SourceResult(source, corpus.held_out.get(source.slug, PRETRAIN))
    if options.absent and source.slug in options.absent:
        result.problem = options.absent[source.slug]
        return result
    try:
        got = obtain(
            source,
            cache=options.cache,
            mirrors=options.mirrors,
            local=options.local.get(source.slug),
            offline=options.offline,
            on_bytes=lambda file, done, total: report(f"fetch {source.slug}", done, total),
        )
        result.route, result.roots = got.route, engine.inputs(source.slug, got.roots)
        result.tree = Tree(got.roots, work=work / "unpacked" / source.slug)
        entries = result.tree.entries()
        result.selection = select(source, entries, result.tree.open, corpus.salt)
        result.chunks = list(_chunks(result, corpus, work, options.timeout))
    except OpenUSError as error:
        result.problem = error
    result.seconds = time.monotonic() - started
    return result


def _require(results: Sequence[SourceResult], absent: Mapping[str, OpenUSError]) -> None:
    """Nothing is touched when a source that the corpus has cannot be had now."""
    lacking = [r for r in results if r.problem is not None and r.source.slug not in absent]
    if lacking:
        why = "; ".join(f"{result.source.slug}: {result.problem}" for result in lacking)
        raise SourceError(
            f"the damaged parts must be decoded again, and their sources are not here: {why}; give the options "
            "(--local, --mirror, --cache) that the corpus was built with"
        )


def _chunks(result: SourceResult, corpus: Corpus, work: Path, seconds: float) -> Iterator[ChunkSpec]:
    source, selection, tree = result.source, result.selection, result.tree
    assert selection is not None and tree is not None
    state = inputs_state(result.roots, {entry.path for entry in tree.entries()})
    held_out = result.set != PRETRAIN
    clean = corpus.clean_of(source)
    cleaned = clean.level != "none"
    shown = shares((image.member for image in selection.images), corpus.seed) if cleaned else {}
    for number, members in enumerate(_groups(selection.images, _CHUNK_FILES[source.kind])):
        yield ChunkSpec(
            source=source.slug,
            set=result.set,
            anatomy=source.anatomy,
            licence=source.licence.name,
            redistribution=source.licence.redistribution,
            tree=tree,
            members=members,
            policy=corpus.frames.get(source.slug, source.frames),
            clean=clean,
            encoding=corpus.pack.held_out if held_out else corpus.pack.pretrain,
            masks=held_out and (source.masks is not None or mask_of(source.code) is not None),
            mask_threshold=source.masks.threshold if source.masks else None,
            code=source.code,
            folder=work / "sources" / source.slug,
            number=number,
            stack=source.stack,
            shown={m.member: shown[m.member] for m in members if m.member in shown},
            seed=corpus.seed,
            seconds=seconds,
            fingerprint=fingerprint(state, result.roots, members),
        )


def _groups(images: Sequence[Selected], most: int) -> Iterator[tuple[Selected, ...]]:
    """Files that one worker takes: so many, or so many bytes; an archive that must be read in order, whole."""
    units: dict[str, list[Selected]] = {}
    for image in images:
        units.setdefault("" if image.random else image.unit, []).append(image)
    for unit in sorted(units):
        if unit:
            yield tuple(units[unit])
            continue
        group: list[Selected] = []
        size = 0
        for image in units[unit]:
            if group and (len(group) >= most or size + image.size > _CHUNK_BYTES):
                yield tuple(group)
                group, size = [], 0
            group.append(image)
            size += image.size
        if group:
            yield tuple(group)


def _decode(ready: Sequence[SourceResult], options: BuildOptions, engine: Engine, report: Report) -> None:
    by_slug = {result.source.slug: result for result in ready}
    specs = [spec for result in ready for spec in result.chunks]
    total = sum(len(spec.members) for spec in specs)
    report("decode", 0, total)
    for result in ready:
        for spec in result.chunks:
            if options.retry_failed and spec.rows_path.exists() and _failed(spec):
                engine.depot.remove(spec.rows_path)
    done = [spec for spec in specs if spec.rows_path.exists()]
    todo = [spec for spec in specs if not spec.rows_path.exists()]
    known = ((spec, read_tally(spec.rows_path)) for spec in done)
    for spec, tally in chain(known, engine.run(run_chunk, todo, without_culprit, chunk_files)):
        by_slug[spec.source].tally.add(tally)
        report("decode", len(spec.members), total)
    for result in ready:
        result.rejected = [row for spec in result.chunks for row in read_rejected(spec.rows_path)]


def _failed(spec: ChunkSpec) -> bool:
    return any(row["stage"] == "decode" for row in read_rejected(spec.rows_path))


def _plan(out: Path, kept: pa.Table, corpus: Corpus) -> list[ShardTask]:
    tasks: list[ShardTask] = []
    for name in sorted(set(kept["set"].to_pylist()), key=lambda n: (n != PRETRAIN, n)):
        rows = kept.filter(pa.compute.equal(kept["set"], name))
        encoding = corpus.pack.pretrain if name == PRETRAIN else corpus.pack.held_out
        tasks += plan_set(
            out, name, rows, seed=corpus.seed, shard_bytes=corpus.pack.shard_bytes, extension=encoding.format
        )
        if pa.compute.sum(rows["mask_length"]).as_py():
            tasks += plan_set(
                out,
                name + MASK,
                rows,
                seed=corpus.seed,
                shard_bytes=corpus.pack.shard_bytes,
                extension="png",
                mask=True,
            )
    return tasks


def _pack(tasks: list[ShardTask], engine: Engine, report: Report) -> dict[str, list[ShardInfo]]:
    total = sum(task.samples for task in tasks)
    report("pack", 0, total)
    shards: dict[str, list[ShardInfo]] = {}
    known = [(task, info) for task in tasks if (info := finished(task, engine.depot)) is not None]
    there = {task.stem for task, _ in known}
    todo = [task for task in tasks if task.stem not in there]
    engine.depot.fetch(*(task.manifest_path for task, _ in known))
    engine.depot.send(*(task.plan for task in todo))
    for task, info in chain(known, engine.run(write_again, todo, files=shard_files)):
        shards.setdefault(task.set, []).append(info)
        report("pack", task.samples, total)
    order = {task.set: position for position, task in reversed(list(enumerate(tasks)))}
    return {
        name: sorted(shards[name], key=lambda info: info.file)
        for name in sorted(shards, key=lambda n: order[n])
    }


def _sweep(depot: Depot, tasks: Sequence[ShardTask], ready: Sequence[SourceResult]) -> None:
    """Remove what an earlier plan, or a build that was killed, left behind and no longer belongs."""
    out = depot.folder
    wanted = {path for task in tasks for path in (task.tar_path, task.manifest_path)}
    wanted |= {out / "manifest" / f"{name}.parquet" for name in ("rejected", "duplicates")}
    stems = {task.stem for task in tasks}
    names = {result.source.slug: {spec.name for spec in result.chunks} for result in ready}

    def stale(path: Path) -> bool:
        match path.relative_to(out).parts:
            case (".work", "pack", _):
                return path.stem not in stems
            case (".work", "sources", slug, name) if slug in names:
                return name.split(".")[0] not in names[slug] or path.suffix == ".part"
            case (".work", *_):
                return False
            case ("manifest", _) if path.suffix == ".parquet":
                return path not in wanted
            case (_, _) if path.suffix == ".tar":
                return path not in wanted
            case (_,) | (_, _):
                return path.suffix == ".part" and path.name.startswith(".")
        return False

    depot.remove(*(path for path in depot.files() if stale(path)))
    for folder in out.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(out / ".work" / "tmp", ignore_errors=True)


def _rejected_table(ready: Sequence[SourceResult], dropped: pa.Table) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for result in ready:
        assert result.selection is not None
        rows += [
            {
                "source": result.source.slug,
                "member": item.member,
                "index": -1,
                "stage": "select",
                "reason": item.reason,
                "detail": item.detail,
            }
            for item in result.selection.excluded
        ]
        rows += result.rejected
    table = pa.concat_tables([pa.Table.from_pylist(rows, schema=REJECTED), dropped])
    return table.sort_by([(name, "ascending") for name in ("source", "member", "index", "stage", "reason")])
