"""The repositories as folders, ready to be sent: shards of what is allowed, manifests, card, notices, sidecars.

A folder of a class with pixels is a corpus folder itself: `openus verify` checks it, `usfmae` trains on it. The
shards are packed as a build packs them, so that a build from the recipe gives the same bytes. The folder of a
recipe holds rows only; its shards are measured, and written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from openus.checksum import sha256_of
from openus.engine.base import Report
from openus.engine.local import run_tasks
from openus.errors import CorpusError, OpenUSError
from openus.publish import recipe
from openus.publish.card import write_documents
from openus.publish.gate import judge
from openus.publish.plan import Plan, Repository, split_of
from openus.shards.corpus import NAME, save_corpus, sets_of
from openus.shards.pack import MASK, ShardTask, finished, plan_set, write_again
from openus.shards.schema import REJECTED, ROW, VERBATIM
from openus.shards.writer import ShardInfo, measure_shard, sample_footprint
from openus.storage.depot import Depot
from openus.storage.files import read_parquet, write_bytes, write_parquet

FOLDER = ".publish"
INDEX = "index.json"


@dataclass(frozen=True)
class Staged:
    """A folder to send: `files` are all there is to send of it, relative, each with bytes and SHA-256."""

    repository: Repository
    folder: Path
    files: dict[str, dict[str, Any]]

    @property
    def bytes(self) -> int:
        return sum(int(entry["bytes"]) for entry in self.files.values())


def stage(plan: Plan, repository: Repository, workers: int, report: Report) -> Staged:
    """Write the folder of one repository, below the corpus's `.publish`; what is there already is used again.

    Raises:
        CorpusError: a sample is not the one its row describes, or one got past the gate.
        OpenUSError: the disk has no room.
    """
    folder = plan.root / FOLDER / repository.name
    tasks = _tasks(plan, repository, folder)
    _need_room(folder, tasks, repository)
    total = sum(task.samples for task in tasks)
    label = f"pack {repository.to}"
    report(label, 0, total)
    shards: dict[str, list[ShardInfo]] = {}
    rows: dict[str, tuple[str, str]] = {}
    for task, (info, digest) in run_tasks(_copy if repository.pixels else _measure, tasks, workers):
        shards.setdefault(task.set, []).append(info)
        rows[info.file] = (
            task.rows_name if isinstance(task, MeasureTask) else f"manifest/{info.manifest}",
            digest,
        )
        report(label, task.samples, total)
    shards = {name: sorted(shards[name], key=lambda info: info.file) for name in repository.rows}
    files = [name for infos in shards.values() for info in infos for name in (rows[info.file][0],)]
    if repository.pixels:
        files += [f"{name}/{info.file}" for name, infos in shards.items() for info in infos]
        files += _corpus_files(plan, repository, folder, shards)
        _check_gate(plan, repository, folder, shards)
    parts = {name: [(info, *rows[info.file]) for info in infos] for name, infos in shards.items()}
    write_bytes(folder / recipe.NAME, recipe.recipe_json(plan.summary["corpus"], repository.sources, parts))
    files.append(recipe.NAME)
    files += write_documents(plan, repository, folder, shards)
    return Staged(repository, folder, _index(folder, files))


@dataclass(frozen=True)
class MeasureTask(ShardTask):
    """A shard that is measured and not written, but for its rows."""

    routes: tuple[tuple[str, str], ...] = ()

    @property
    def rows_name(self) -> str:
        return f"rows/{self.stem}.parquet"


def _tasks(plan: Plan, repository: Repository, folder: Path) -> list[ShardTask]:
    tasks: list[ShardTask] = []
    for name, table in repository.rows.items():
        places = [str(plan.root.resolve() / name / shard) for shard in table["shard"].to_pylist()]
        kept = table.append_column("bin", pa.array(places, pa.string()))
        kept = kept.append_column("at", table["offset"]).append_column("length", table["size"])
        tasks += plan_set(
            folder, name, kept, seed=plan.seed, shard_bytes=plan.shard_bytes, extension=plan.extension(name)
        )
    if repository.pixels:
        return tasks
    routes = tuple((slug, str(entry["route"])) for slug, entry in repository.sources.items())
    return [
        MeasureTask(**{n: getattr(task, n) for n in task.__dataclass_fields__}, routes=routes)
        for task in tasks
    ]


def _checked(task: ShardTask) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The samples of a shard out of the shards of the corpus, which are opened one after the other."""
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        reader = stack.enter_context(pa.ipc.open_file(str(task.plan)))
        for batch in range(reader.num_record_batches):
            for row in reader.get_batch(batch).to_pylist():
                if row["bin"] not in files:
                    for name in list(files):
                        files.pop(name).close()
                    files[row["bin"]] = stack.enter_context(Path(row["bin"]).open("rb"))
                files[row["bin"]].seek(row["at"])
                data = files[row["bin"]].read(row["length"])
                if hashlib.sha256(data).hexdigest() != row["sha256"]:
                    raise CorpusError(
                        f"{row['set']}/{row['shard']}: sample {row['key']} is not the one its row tells; run 'openus "
                        "verify'"
                    )
                yield {name: row[name] for name in ROW.names}, data


def _copy(task: ShardTask) -> tuple[ShardInfo, str]:
    info = finished(task, Depot(task.out)) or write_again(task, _checked)
    return info, info.manifest_sha256


def _measure(task: ShardTask) -> tuple[ShardInfo, str]:
    assert isinstance(task, MeasureTask)
    info, rows = measure_shard(task.tar_path.name, task.manifest_path.name, _checked(task), task.extension)
    sources = {slug: {"route": route} for slug, route in task.routes}
    return info, write_parquet(task.out / task.rows_name, recipe.recipe_rows(rows, sources))


def _need_room(folder: Path, tasks: list[ShardTask], repository: Repository) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not repository.pixels:
        return
    need = 0
    for name, table in repository.rows.items():
        if not any((folder / name).glob("*.tar")):
            need += sum(map(sample_footprint, table["size"].to_pylist()))
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OpenUSError(
            f"{folder}: {need / 1e9:.1f} GB are needed to pack {repository.name} and {free / 1e9:.1f} GB are free; "
            "make room and run it again"
        )


def _corpus_files(
    plan: Plan, repository: Repository, folder: Path, shards: dict[str, list[ShardInfo]]
) -> list[str]:
    """What makes the folder a corpus of its own, and what other readers look for; stale shards are removed."""
    known = {f"{name}/{info.file}" for name, infos in shards.items() for info in infos}
    known |= {f"manifest/{info.manifest}" for infos in shards.values() for info in infos}
    for path in [*folder.glob("*/*.tar"), *folder.glob("manifest/*.parquet")]:
        if path.relative_to(folder).as_posix() not in known and path.name != "rejected.parquet":
            path.unlink()
    rejected = _rejected(plan, repository)
    digest = write_parquet(folder / "manifest" / "rejected.parquet", rejected)
    sets = sets_of(shards)
    counts = repository.counts()
    summary = {
        "schema": plan.summary["schema"],
        "openus": plan.summary["openus"],
        "corpus": {**plan.summary["corpus"], "salt": ""},
        "sources": {slug: _entry(entry, counts[slug]) for slug, entry in repository.sources.items()},
        "missing": {},
        "sets": sets,
        "rejected": {"rows": len(rejected), "sha256": digest},
    }
    save_corpus(folder, summary)
    files = [NAME, "manifest/rejected.parquet"]
    for name, infos in shards.items():
        split = split_of(name)
        timm = {
            "name": split,
            "num_samples": sets[name]["samples"],
            "filenames": [info.file for info in infos],
            "shard_lengths": [info.samples for info in infos],
        }
        write_bytes(folder / name / "_info.json", json.dumps({"splits": {split: timm}}, indent=1).encode())
        sizes = {info.file: info.samples for info in infos}
        write_bytes(folder / name / "sizes.json", json.dumps(sizes, indent=1).encode())
        files += [f"{name}/_info.json", f"{name}/sizes.json"]
    return files


def _entry(entry: dict[str, Any], kept: int) -> dict[str, Any]:
    frames = entry["frames"]
    return entry | {"frames": frames | {"kept": kept, "rejected": frames["decoded"] - kept}}


def _rejected(plan: Plan, repository: Repository) -> pa.Table:
    """What was not kept of the sources of this repository; what its licence kept at home is named too."""
    table = read_parquet(plan.root / "manifest" / "rejected.parquet")
    wanted = set(repository.sources)
    here = table.filter(pa.array([slug in wanted for slug in table["source"].to_pylist()], pa.bool_()))
    others: list[dict[str, Any]] = []
    for other in plan.repositories:
        if other.name == repository.name or not wanted & set(other.sources):
            continue
        for name, rows in other.rows.items():
            if name.endswith(MASK):
                continue
            others += [
                {
                    **row,
                    "stage": "publish",
                    "reason": "licence",
                    "detail": f"not in the class {repository.to}",
                }
                for row in rows.select(["source", "member", "index"]).to_pylist()
                if row["source"] in wanted
            ]
    return pa.concat_tables([here, pa.Table.from_pylist(others, schema=REJECTED)])


def _check_gate(plan: Plan, repository: Repository, folder: Path, shards: dict[str, list[ShardInfo]]) -> None:
    """The last look before anything leaves: every row that was written is allowed in this repository."""
    for name, infos in shards.items():
        planned = repository.rows[name]
        hashes = dict(zip(planned["key"].to_pylist(), planned["sha256"].to_pylist(), strict=True))
        for info in infos:
            facts = ["key", "source", "licence", "redistribution", "flags", "sha256"]
            for row in read_parquet(folder / "manifest" / info.manifest, facts).to_pylist():
                if hashes.get(row["key"]) != row["sha256"]:
                    raise CorpusError(
                        f"{name}/{info.file}: sample {row['key']} is not the one its row describes"
                    )
                stated = plan.summary["sources"][row["source"]]["manifest"]["licence"]["redistribution"]
                verbatim = VERBATIM in row["flags"].split(",") and not name.endswith(MASK)
                level = row["redistribution"]
                verdict = judge(row["source"], row["licence"], level, stated, verbatim, plan.permits)
                if verdict.to != repository.to:
                    raise CorpusError(
                        f"{name}/{info.file}: sample {row['key']} must not go to {repository.name}"
                    )


def _index(folder: Path, files: list[str]) -> dict[str, dict[str, Any]]:
    """Every file to send with its bytes and SHA-256, also written as `index.json` and `SHA256SUMS`."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(files):
        path = folder / name
        found[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    sums = "".join(f"{entry['sha256']}  {name}\n" for name, entry in found.items())
    for name, text in ((INDEX, json.dumps({"files": found}, indent=1) + "\n"), ("SHA256SUMS", sums)):
        digits = write_bytes(folder / name, text.encode())
        found[name] = {"bytes": len(text.encode()), "sha256": digits}
    return found
