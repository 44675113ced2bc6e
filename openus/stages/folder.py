"""Pictures of any folder, archive or list of files, made ready for comparison; what was done before is used again.

A folder has no manifest, so its files are put into groups when they are first seen, and stay in them: files that
come later form groups of their own, and only a group with a file that changed or went is read anew. Each group is
a chunk of a build (`openus.stages.chunks`), with its pictures made small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from openus.archives import Entry, Tree
from openus.engine.base import Report
from openus.engine.local import run_tasks
from openus.errors import UsageError
from openus.glob import Glob, any_matches
from openus.manifest import PRETRAIN, CleanSettings, Encoding, FramePolicy
from openus.select import Selected
from openus.stages.chunks import run_chunk
from openus.stages.chunkspec import ChunkSpec, read_rejected, without_culprit
from openus.stages.ledger import fingerprint, inputs_state

HELD_OUT = "held-out"
_GROUP_FILES = 256
_GROUP_BYTES = 128 << 20
_NO_PICTURES = {
    ".txt", ".md", ".pdf", ".doc", ".docx", ".ppt", ".pptx", ".xls", ".xlsx", ".html", ".htm", ".xml", ".yaml", ".yml",
    ".json", ".csv", ".tsv", ".parquet", ".py", ".m", ".ipynb", ".log", ".rtf", ".db", ".ini",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list says of a file: its path in the tree, whose it is, which clip it belongs to, its set."""

    path: str
    patient: str = ""
    clip: str = ""
    set: str = PRETRAIN


@dataclass
class Read:
    """Finished chunks, in the order of the groups; rows of what could not be read; paths that are no pictures."""

    specs: list[ChunkSpec]
    rejected: list[dict[str, object]]
    left_out: list[str] = field(default_factory=list)


def files_of(tree: Tree, exclude: Sequence[str], held_out: Sequence[str]) -> tuple[list[Listed], list[str]]:
    """The files of a folder or archive that may be pictures, and those that are not looked at.

    Raises:
        ArchiveError: an archive is damaged or hostile.
        UsageError: there is not one file that may be a picture, or a pattern matches nothing.
    """
    skip, kept_apart = [Glob(text) for text in exclude], [Glob(text) for text in held_out]
    paths = [entry.path for entry in tree.entries()]
    for option, globs in (("--exclude", skip), ("--held-out", kept_apart)):
        for glob in globs:
            if not any(map(glob.matches, paths)):
                raise UsageError(f"{option} {glob.pattern}: no file here is called like that")
    found, left_out = [], []
    for entry in tree.entries():
        parts = PurePosixPath(entry.path)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts.parts)
        if hidden or parts.suffix.lower() in _NO_PICTURES or not entry.size or any_matches(skip, entry.path):
            left_out.append(entry.path)
        else:
            apart = any_matches(kept_apart, entry.path)
            found.append(Listed(entry.path, set=HELD_OUT if apart else PRETRAIN))
    if not found:
        where = ", ".join(str(root) for root in tree.roots)
        raise UsageError(f"{where}: no file here may be a picture ({len(left_out):,} others were left out)")
    return found, left_out


def read_pictures(
    tree: Tree, files: Sequence[Listed], name: str, index: Path, workers: int, report: Report
) -> Read:
    """Decode the pictures of `files` into the folder `index`, or find them there.

    Raises:
        ArchiveError: a file is not there, an archive is damaged.
        UsageError: a file is named twice.
    """
    entries = {entry.path: entry for entry in tree.entries()}
    for listed in files:
        if listed.path not in entries:
            tree.open(listed.path).close()  # raises, with the nearest name
    specs = _specs(tree, files, entries, name, index)
    total = sum(len(spec.members) for spec in specs)
    report("decode", 0, total)
    final = {spec.number: spec for spec in specs}

    def lost(spec: ChunkSpec) -> ChunkSpec | None:
        again = without_culprit(spec)
        if again is not None:
            final[spec.number] = again
        return again

    for spec, _ in run_tasks(run_chunk, specs, workers, lost):
        report("decode", len(spec.members), total)
    done = [final[spec.number] for spec in specs]
    _sweep(index / "pictures", {spec.name for spec in done})
    return Read(done, [row for spec in done for row in read_rejected(spec.rows_path)])


def _specs(
    tree: Tree, files: Sequence[Listed], entries: dict[str, Entry], name: str, index: Path
) -> list[ChunkSpec]:
    listed = {one.path: one for one in files}
    if len(listed) != len(files):
        twice = next(one.path for one in files if listed[one.path] is not one)
        raise UsageError(f"{twice}: named twice")
    state = inputs_state(tree.roots, entries.keys())
    specs = []
    for number, paths in _groups(listed, entries, index / "groups.json").items():
        members = tuple(_selected(entries[path], listed[path]) for path in paths)
        specs.append(
            ChunkSpec(
                source=name,
                set=listed[paths[0]].set,
                anatomy="",
                licence="",
                redistribution="recipe-only",
                tree=tree,
                members=members,
                policy=FramePolicy(),
                clean=CleanSettings(),
                encoding=Encoding(),
                masks=False,
                mask_threshold=None,
                code=None,
                folder=index / "pictures",
                number=number,
                fingerprint=fingerprint(state, tree.roots, members),
            )
        )
    return specs


def _selected(entry: Entry, listed: Listed) -> Selected:
    # A file is a clip of its own unless a list says more: its frames are no copies of one another.
    clip = listed.clip or entry.path
    return Selected(
        entry.path, entry.path, entry.size, entry.unit, entry.random, patient=listed.patient, clip=clip
    )


def _groups(listed: dict[str, Listed], entries: dict[str, Entry], memory: Path) -> dict[int, list[str]]:
    """Groups of paths by number: those of the last time, without what went; then those of new files."""
    try:
        known = {int(number): list(paths) for number, paths in json.loads(memory.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):  # none yet, or damaged: it is made anew
        known = {}
    groups: dict[int, list[str]] = {}
    for number, paths in sorted(known.items()):
        left = [path for path in paths if path in listed]
        if left and len({(listed[path].set, entries[path].unit) for path in left}) == 1:
            groups[number] = left
    seen = {path for paths in groups.values() for path in paths}
    number = max(groups, default=-1) + 1
    for paths in _cut((path for path in sorted(listed) if path not in seen), listed, entries):
        groups[number], number = paths, number + 1
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_suffix(".part")
    temporary.write_text(json.dumps(groups))
    temporary.replace(memory)
    return groups


def _cut(paths: Iterable[str], listed: dict[str, Listed], entries: dict[str, Entry]) -> Iterator[list[str]]:
    """New files in groups of one set and one archive, so many or so many bytes."""
    by_kind: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        by_kind.setdefault((listed[path].set, entries[path].unit), []).append(path)
    for (_, unit), together in sorted(by_kind.items()):
        group: list[str] = []
        size = 0
        for path in together:
            full = len(group) >= _GROUP_FILES or size + entries[path].size > _GROUP_BYTES
            if group and full and (not unit or entries[path].random):
                yield group
                group, size = [], 0
            group.append(path)
            size += entries[path].size
        yield group


def _sweep(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.split(".")[0] not in names:
            path.unlink()
