"""`openus repair`: rebuild what is damaged in a corpus, and nothing else, to the very bytes it was recorded with.

A build leaves all that is needed in OUT/.work: the encoded samples, the plan of each shard, and copies of the few
files that describe the corpus. Only where these are damaged too are the sources decoded again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openus.build import BuildOptions, build
from openus.catalogue import Catalogue
from openus.engine.local import run_tasks
from openus.errors import CorpusError, NeedsPersonError, OpenUSError, SourceError
from openus.ledger import disk_told, one_builder
from openus.manifest import Corpus
from openus.pack import MASK, DamagedWorkError, ShardTask, chunks_of, forget_chunk, planned, write_again
from openus.report import write_report
from openus.shards.corpus import NAME, read_corpus
from openus.shards.keep import is_page, keep, kept_digests, restore
from openus.shards.writer import write_bytes

Report = Callable[[str, int, int | None], None]


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
class _FileCheck:
    path: Path
    sha256: str


def repair(
    root: Path,
    catalogue: Catalogue,
    options: BuildOptions,
    *,
    dry_run: bool = False,
    report: Report = lambda stage, done, total: None,
) -> Repair:
    """Compare every file of a corpus with its recorded hash and rewrite those that differ, byte for byte.

    `options` say where the sources lie; they are looked at only if the work folder cannot help.

    Raises:
        CorpusError: `root` holds no corpus, or none that can be recognised; another build is at work in it.
        OpenUSError: sources must be decoded again and one of them cannot be had.
    """
    result = Repair()
    if not root.is_dir():
        read_corpus(root)  # raises, saying how to build one
    with disk_told(root), one_builder(root / ".work"):
        _find_described(root, result)
        if dry_run and any(damage.file == NAME for damage in result.damaged):
            return result
        if not dry_run:
            result.mended += restore(root, [damage.file for damage in result.damaged])
        summary = read_corpus(root)
        tasks = _find_recorded(root, summary, options.workers, result, report)
        if dry_run:
            return result
        result.mended += restore(root, [damage.file for damage in result.left])
        _rewrite(root, tasks, options.workers, result, report)
    if any(not is_page(damage.file) for damage in result.left):
        _rebuild(root, summary, catalogue, options, result, report)
    if result.left:
        write_report(root)
        digests = kept_digests(root)
        for damage in result.left:
            if not _problem(_FileCheck(root / damage.file, digests.get(damage.file, ""))):
                result.mended.append(damage.file)
    return result


def _find_described(root: Path, result: Repair) -> None:
    """The files whose hashes only the work folder knows: corpus.json and what lies beside it."""
    for name, digest in kept_digests(root).items():
        problem = _problem(_FileCheck(root / name, digest))
        if problem:
            result.damaged.append(Damage(name, problem))


def _find_recorded(
    root: Path, summary: dict[str, Any], workers: int, result: Repair, report: Report
) -> list[tuple[ShardTask, str]]:
    """Check all files that corpus.json records; returns the shards to write, each with the hash it must have."""
    known = {damage.file for damage in result.damaged}
    shards = [(name, entry) for name, part in summary["sets"].items() for entry in part["shards"]]
    checks = {
        _FileCheck(root / f"manifest/{table}.parquet", summary[table]["sha256"]): None
        for table in ("rejected", "duplicates")
        if table in summary and f"manifest/{table}.parquet" not in known
    }
    wanted: dict[_FileCheck, tuple[ShardTask, str]] = {}
    for name, entry in shards:
        task = planned(root, name, Path(entry["file"]).stem, _extension(summary, name), entry["samples"])
        for path, digest in ((task.tar_path, "sha256"), (task.manifest_path, "manifest_sha256")):
            check = _FileCheck(path, entry[digest])
            checks[check], wanted[check] = None, (task, entry["sha256"])
    tasks: dict[ShardTask, str] = {}
    report("check", 0, len(checks))
    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing needs no interpreter, so threads are enough
        for check, problem in zip(checks, pool.map(_problem, checks), strict=True):
            report("check", 1, len(checks))
            if problem:
                result.damaged.append(Damage(check.path.relative_to(root).as_posix(), problem))
                if check in wanted:
                    tasks.setdefault(*wanted[check])
    result.damaged.sort(key=lambda damage: damage.file)
    return sorted(tasks.items(), key=lambda item: item[0].stem)


def _problem(check: _FileCheck) -> str:
    try:
        with check.path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == check.sha256
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
    return "" if same else "its bytes are not the ones that were written"


def _extension(summary: dict[str, Any], name: str) -> str:
    if name.endswith(MASK):
        return "png"
    return str(summary["corpus"]["pack"]["pretrain" if name == "pretrain" else "held_out"]["format"])


def _rewrite(
    root: Path, tasks: Sequence[tuple[ShardTask, str]], workers: int, result: Repair, report: Report
) -> None:
    """Write shards anew from the work folder, as far as that is whole."""
    report("pack", 0, sum(task.samples for task, _ in tasks))
    for (task, _), whole in run_tasks(_write, tasks, workers):
        report("pack", task.samples, None)
        if whole:
            files = (task.tar_path, task.manifest_path)
            result.mended += [path.relative_to(root).as_posix() for path in files]


def _write(job: tuple[ShardTask, str]) -> bool:
    """Write one shard from the work folder; False where that is damaged, which the next build then sees."""
    task, digest = job
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
    root: Path, summary: dict[str, Any], catalogue: Catalogue, options: BuildOptions, result: Repair, report: Report
) -> None:  # fmt: skip
    """Decode again what the work folder lacks, by the recipe in corpus.json; what is whole is left alone.

    Where that does not lead back to the recorded bytes, the work folder is damaged unseen, and all is done anew.
    """
    recorded = (root / NAME).read_bytes()
    corpus = Corpus.model_validate(summary["corpus"])
    absent: dict[str, OpenUSError] = {
        slug: NeedsPersonError(entry["reason"], entry["steps"])
        if entry["steps"]
        else SourceError(entry["reason"])
        for slug, entry in summary["missing"].items()
    }
    slugs = [*summary["sources"], *absent]
    for fresh in (False, True):
        if fresh:
            for name in ("sources", "dedup", "pack"):
                shutil.rmtree(root / ".work" / name, ignore_errors=True)
        before = _chunks(root)
        try:
            build(root, corpus, catalogue, replace(options, absent=absent), slugs, report)
        except (DamagedWorkError, ValueError) as error:
            if fresh:
                raise CorpusError(f"{root}: cannot be rebuilt: {error}") from error
            continue
        finally:
            if not (root / NAME).exists():
                write_bytes(root / NAME, recorded)
        result.redone = sorted({path.parent.name for path in _chunks(root) - before})
        if _same(read_corpus(root), summary):
            write_bytes(root / NAME, recorded)  # it also tells by which route the sources came, at the time
            keep(root)
            result.mended += [damage.file for damage in result.left if (root / damage.file).exists()]
            return
    raise CorpusError(
        f"{root}: rebuilt, but not to the same bytes: the sources, or this version of openus, are not those the corpus "
        "was built with; what is there now is whole, check it with 'openus verify'"
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("sets", "rejected", "duplicates"))


def _chunks(root: Path) -> set[Path]:
    return set((root / ".work" / "sources").glob("*/*.parquet"))
