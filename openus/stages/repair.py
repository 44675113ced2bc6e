"""`openus repair`: rebuild what is damaged in a corpus, and nothing else, to the very bytes it was recorded with.

A build leaves all that is needed in OUT/.work: the encoded samples, the plan of each shard, and copies of the few
files that describe the corpus. Only where these are damaged too are the sources decoded again. Where the corpus lies
in object storage its files are hashed as they stream by, and only what is damaged is written here and sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openus.catalogue import Catalogue
from openus.engine.base import Report
from openus.engine.local import LocalEngine, run_tasks
from openus.errors import CorpusError, NeedsPersonError, OpenUSError, SourceError
from openus.manifest import Corpus
from openus.report import write_report
from openus.shards.corpus import NAME, extension_of, read_corpus
from openus.shards.keep import DIGESTS, copies, is_page, keep, kept_digests, restore
from openus.shards.pack import (
    DamagedWorkError,
    ShardTask,
    chunks_of,
    forget_chunk,
    planned,
    write_again,
)
from openus.stages.build import BuildOptions, build
from openus.storage.depot import Depot
from openus.storage.files import write_bytes
from openus.storage.locks import disk_told
from openus.storage.pieces import discard


@dataclass(frozen=True)
class Damage:
    """One file, below the corpus folder, that is missing or not the one that was written."""

    file: str
    problem: str


@dataclass
class Repair:
    """damaged: what was found; mended: the files of it that are whole again; redone: sources decoded again."""

    damaged: list[Damage] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[Damage]:
        return [damage for damage in self.damaged if damage.file not in self.mended]


@dataclass(frozen=True)
class _Shard:
    """A shard as corpus.json records it."""

    set: str
    stem: str
    extension: str
    samples: int
    sha256: str


def repair(
    root: Path,
    catalogue: Catalogue,
    options: BuildOptions,
    *,
    dry_run: bool = False,
    report: Report = lambda stage, done, total: None,
    home: Depot | None = None,
) -> Repair:
    """Compare every file of a corpus with its recorded hash and rewrite those that differ, byte for byte.

    `options` say where the sources lie; they are looked at only if the work folder cannot help. `home` is where a
    corpus lies that `root` only stands in for.

    Raises:
        CorpusError: `root` holds no corpus, or none that can be recognised; another build is at work in it.
        OpenUSError: sources must be decoded again and one of them cannot be had.
    """
    result = Repair()
    home = home or Depot(root)
    if not home.remote and not root.is_dir():
        read_corpus(root)  # raises, saying how to build one
    with _held(home, reading=dry_run):
        root = home.folder
        _find_described(home, result)
        if dry_run and any(damage.file == NAME for damage in result.damaged):
            return result
        if not dry_run:
            _restore(home, result)
        home.have(root / NAME)
        summary, recorded = read_corpus(root), (root / NAME).read_bytes()
        shards = _find_recorded(home, summary, options.workers, result, report)
        if dry_run:
            return result
        _restore(home, result)
        _rewrite(home, shards, options.workers, result, report)
    if any(not is_page(damage.file) for damage in result.left):
        _rebuild(home, summary, recorded, catalogue, options, result, report)
    if result.left:
        _write_pages(home, result)
    return result


@contextmanager
def _held(home: Depot, reading: bool = False) -> Iterator[None]:
    """The corpus for this repair alone, with its copies and its rows here; a mere look at storage holds nothing."""
    with disk_told(home.folder), home.reader() if reading and home.remote else home.builder():
        home.have(*copies(home.folder), *(path for path in home.files() if path.match(".work/kept/*")))
        yield


def _find_described(home: Depot, result: Repair) -> None:
    """The files whose hashes only the work folder knows: corpus.json and what lies beside it."""
    for name, digest in kept_digests(home.folder).items():
        problem = _problem(home, home.folder / name, digest)
        if problem:
            result.damaged.append(Damage(name, problem))


def _restore(home: Depot, result: Repair) -> None:
    names = restore(home.folder, [damage.file for damage in result.left])
    home.send(*(home.folder / name for name in names))
    result.mended += names


def _find_recorded(
    home: Depot, summary: dict[str, Any], workers: int, result: Repair, report: Report
) -> list[_Shard]:
    """Check all files that corpus.json records; returns the shards to write."""
    known = {damage.file for damage in result.damaged}
    checks: dict[str, tuple[str, _Shard | None]] = {
        f"manifest/{table}.parquet": (summary[table]["sha256"], None)
        for table in ("rejected", "duplicates")
        if table in summary and f"manifest/{table}.parquet" not in known
    }
    for name, part in summary["sets"].items():
        for entry in part["shards"]:
            stem = Path(entry["file"]).stem
            shard = _Shard(name, stem, extension_of(summary, name), entry["samples"], entry["sha256"])
            task = planned(home.folder, name, stem, shard.extension, shard.samples)
            for path, digest in ((task.tar_path, "sha256"), (task.manifest_path, "manifest_sha256")):
                checks[path.relative_to(home.folder).as_posix()] = entry[digest], shard
    damaged: set[_Shard] = set()
    report("check", 0, len(checks))

    def look(name: str) -> str:
        return _problem(home, home.folder / name, checks[name][0])

    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing needs no interpreter, so threads are enough
        for (name, (_, of)), problem in zip(checks.items(), pool.map(look, checks), strict=True):
            report("check", 1, len(checks))
            if problem:
                result.damaged.append(Damage(name, problem))
                if of is not None:
                    damaged.add(of)
    result.damaged.sort(key=lambda damage: damage.file)
    return sorted(damaged, key=lambda shard: shard.stem)


def _problem(home: Depot, path: Path, sha256: str) -> str:
    try:
        same = home.sha256(path) == sha256
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
    return "" if same else "its bytes are not the ones that were written"


def _rewrite(home: Depot, shards: Sequence[_Shard], workers: int, result: Repair, report: Report) -> None:
    """Write shards anew from the work folder, as far as that is whole."""
    root = home.folder
    home.have(*(root / ".work" / "pack" / f"{shard.stem}.arrow" for shard in shards))
    jobs = [
        (planned(root, shard.set, shard.stem, shard.extension, shard.samples), shard.sha256)
        for shard in shards
    ]
    report("pack", 0, sum(shard.samples for shard in shards))
    for (task, _), whole in run_tasks(home.around(_write, None), jobs, workers):
        report("pack", task.samples, sum(shard.samples for shard in shards))
        if whole:
            files = (task.tar_path, task.manifest_path)
            home.send(*files, task.marker)
            result.mended += [path.relative_to(root).as_posix() for path in files]


def _write(job: tuple[ShardTask, str]) -> bool:
    """Write one shard from the work folder; False where that is damaged, which the next build then sees."""
    task, digest = job
    discard(task.marker)
    if not task.digest:
        return False
    try:
        info = write_again(task)
    except (DamagedWorkError, ValueError):  # ValueError: Arrow's, of a plan that is none
        return False
    if info.sha256 == digest:
        return True
    task.marker.unlink()
    for chunk in chunks_of(task):
        forget_chunk(chunk)
    return False


def _rebuild(
    home: Depot, summary: dict[str, Any], recorded: bytes, catalogue: Catalogue, options: BuildOptions,
    result: Repair, report: Report,
) -> None:  # fmt: skip
    """Decode again what the work folder lacks, by the recipe in corpus.json; what is whole is left alone.

    Where that does not lead back to the recorded bytes, the work folder is damaged unseen, and all is done anew.
    """
    corpus = Corpus.model_validate(summary["corpus"])
    absent: dict[str, OpenUSError] = {
        slug: NeedsPersonError(entry["reason"], entry["steps"])
        if entry["steps"]
        else SourceError(entry["reason"])
        for slug, entry in summary["missing"].items()
    }
    slugs = [*summary["sources"], *absent]
    engine = LocalEngine(options.workers, home)
    for fresh in (False, True):
        with _held(home):
            if fresh:
                home.remove(*(path for path in home.files() if _of_stages(path.relative_to(home.folder))))
            before = _chunks(home)
        try:
            built = build(
                home.folder, corpus, catalogue, replace(options, absent=absent), slugs, report, engine
            )
        except (DamagedWorkError, ValueError) as error:
            if fresh:
                raise CorpusError(f"{home}: cannot be rebuilt: {error}") from error
            continue
        finally:
            with _held(home):
                if home.size(home.folder / NAME) is None:
                    _put(home, recorded)
                result.redone = sorted({path.parent.name for path in _chunks(home) - before})
        if _same(json.loads(json.dumps(built.summary)), summary):
            with _held(home):
                home.have(*(home.folder / name for name in kept_digests(home.folder)))
                _put(home, recorded)  # it also tells by which route the sources came, at the time
                home.remove(home.folder / DIGESTS)
                keep(home.folder)
                home.send(*copies(home.folder))
                result.mended += [
                    damage.file for damage in result.left if home.size(home.folder / damage.file) is not None
                ]
            return
    raise CorpusError(
        f"{home}: rebuilt, but not to the same bytes: the sources, or this version of openus, are not those the corpus "
        "was built with; what is there now is whole, check it with 'openus verify'"
    )


def _of_stages(name: Path) -> bool:
    return name.parts[0] == ".work" and name.parts[1] in ("sources", "dedup", "pack")


def _put(home: Depot, recorded: bytes) -> None:
    write_bytes(home.folder / NAME, recorded)
    home.send(home.folder / NAME)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("sets", "rejected", "duplicates"))


def _chunks(home: Depot) -> set[Path]:
    return {path for path in home.files() if path.match(".work/sources/*/*.parquet")}


def _write_pages(home: Depot, result: Repair) -> None:
    """The report anew; what it should have been is known by its hash."""
    with _held(home):
        root = home.folder
        home.have(*(path for path in home.files() if path.match("manifest/*.parquet")))
        home.have(root / NAME, root / "report" / "before.parquet")
        write_report(root)
        digests = kept_digests(root)
        home.send(*(root / damage.file for damage in result.left if (root / damage.file).exists()))
        for damage in result.left:
            if not _problem(home, root / damage.file, digests.get(damage.file, "")):
                result.mended.append(damage.file)
