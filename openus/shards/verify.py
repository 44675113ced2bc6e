"""`openus verify`: every byte of a corpus against what its manifests and `corpus.json` say."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openus.dedup.hashes import pixel_sha256
from openus.engine.base import Report
from openus.engine.local import LocalEngine
from openus.errors import CorpusError
from openus.shards.corpus import read_corpus
from openus.shards.pack import MASK
from openus.shards.schema import REJECTED, ROW, sample_json
from openus.storage.depot import Depot, Files
from openus.storage.files import read_parquet
from openus.storage.places import open_url

_TOLD = 3
"""Samples of a damaged shard that are named; the others are counted."""


@dataclass(frozen=True)
class ShardCheck:
    """One shard to check against the entry `corpus.json` holds for it."""

    root: Path
    set: str
    entry: dict[str, Any]
    deep: bool

    @property
    def paths(self) -> tuple[Path, Path]:
        """The shard and its manifest."""
        return self.root / self.set / self.entry["file"], self.root / "manifest" / self.entry["manifest"]


def check_files(check: ShardCheck) -> Files:
    """What `check_shard` reads."""
    return Files(needs=check.paths)


@dataclass
class Verdict:
    """What was checked and what is wrong; `problems` is empty for a sound corpus."""

    shards: int = 0
    samples: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    root: Path,
    *,
    deep: bool = False,
    workers: int = 0,
    report: Report | None = None,
    home: Depot | None = None,
) -> Verdict:
    """Check a corpus folder: hashes of all files, each sample's byte range, the accounting of each source.

    With `deep` every picture is decoded too, and lossless ones are compared with their pixel hash.

    `home` is where a corpus lies that `root` only stands in for (a `Depot` that is being read).

    Raises:
        CorpusError: `root` holds no corpus this version can read.
    """
    home = home or Depot(root)
    summary = read_corpus(root)
    checks = [
        ShardCheck(root, name, entry, deep)
        for name, part in summary["sets"].items()
        for entry in part["shards"]
    ]
    verdict = Verdict()
    total = sum(check.entry["samples"] for check in checks)
    if report:
        report("verify", 0, total)
    keys: Counter[tuple[bool, str]] = Counter()
    kept: Counter[str] = Counter()
    if home.remote:  # what is not there cannot be brought here
        gone = [check for check in checks if any(home.size(path) is None for path in check.paths)]
        verdict.problems += [f"{check.set}/{check.entry['file']}, or its manifest: missing" for check in gone]
        checks = [check for check in checks if check not in gone]
    for check, found in LocalEngine(workers, home).run(check_shard, checks, files=check_files):
        problems, shard_keys, sources = found
        verdict.problems += problems
        verdict.shards += 1
        verdict.samples += len(shard_keys)
        verdict.bytes += check.entry["bytes"]
        mask = check.set.endswith(MASK)
        keys.update((mask, key) for key in shard_keys)
        if not mask:
            kept.update(sources)
        if report:
            report("verify", check.entry["samples"], total)
    verdict.problems += [f"key {key} stands {n} times in the corpus" for (_, key), n in keys.items() if n > 1]
    verdict.problems += _strays(home, summary)
    verdict.problems += _accounting(root, summary, kept)
    verdict.problems.sort()
    return verdict


def check_shard(check: ShardCheck) -> tuple[list[str], list[str], Counter[str]]:
    """Check one shard; returns its problems, its keys and its samples per source."""
    entry, manifest = check.entry, check.paths[1]
    where = f"{check.set}/{entry['file']}"
    try:
        data = _bytes(check)
        listed = manifest.read_bytes()
    except OSError as error:
        way = (
            "give its place anew with 'openus index'" if "url" in entry else "'openus repair' writes it anew"
        )
        return [f"{error.filename}: missing; {way}"], [], Counter()
    except CorpusError as error:  # an address that does not answer
        return [str(error)], [], Counter()
    problems: list[str] = []
    if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        problems.append(f"{where}: its bytes are not the ones corpus.json records (altered or damaged)")
    if hashlib.sha256(listed).hexdigest() != entry["manifest_sha256"]:
        problems.append(f"manifest/{entry['manifest']}: its bytes are not the ones corpus.json records")
    try:
        table = read_parquet(listed)
    except ValueError as error:
        return [*problems, f"manifest/{entry['manifest']}: not a Parquet file ({error})"], [], Counter()
    if not table.schema.equals(ROW):
        return (
            [*problems, f"manifest/{entry['manifest']}: its columns are not those of the row schema"],
            [],
            Counter(),
        )
    rows = table.to_pylist()
    found = [problem for row in rows for problem in _check_row(row, data, where, check.deep)]
    problems += found[:_TOLD]
    if len(found) > _TOLD:
        problems.append(f"{where}: and so are {len(found) - _TOLD:,} more of its {len(rows):,} samples")
    if "url" not in entry:  # shards of others hold what they please
        problems += _check_members(rows, check.paths[0], where)
    if len(rows) != entry["samples"]:
        problems.append(f"{where}: {len(rows)} rows, corpus.json says {entry['samples']}")
    return problems, [row["key"] for row in rows], Counter(row["source"] for row in rows)


def _bytes(check: ShardCheck) -> bytes:
    """A shard, where it lies: in the corpus, or at the place an index names."""
    url = check.entry.get("url")
    if url is None or "://" not in url:
        return (check.paths[0] if url is None else Path(url)).read_bytes()
    with open_url(url) as stream:
        return stream.read(-1)


def _check_row(row: dict[str, Any], data: bytes, where: str, deep: bool) -> list[str]:
    piece = data[row["offset"] : row["offset"] + row["size"]]
    if hashlib.sha256(piece).hexdigest() != row["sha256"]:
        return [f"{where}: sample {row['key']} is not the one its row describes"]
    if not deep:
        return []
    decoded = cv2.imdecode(np.frombuffer(piece, np.uint8), cv2.IMREAD_GRAYSCALE)
    if decoded is None:
        return [f"{where}: sample {row['key']} cannot be decoded"]
    pixels = np.asarray(decoded, np.uint8)
    if pixels.shape != (row["height"], row["width"]):
        return [
            f"{where}: sample {row['key']} is {pixels.shape[1]}x{pixels.shape[0]}, its row says otherwise"
        ]
    lossless = not piece.startswith(b"\xff\xd8") and not row["set"].endswith(MASK)
    if lossless and pixel_sha256(pixels) != row["pixel_sha256"]:
        return [f"{where}: sample {row['key']} does not hold the pixels its row describes"]
    return []


def _check_members(rows: list[dict[str, Any]], path: Path, where: str) -> list[str]:
    """Each sample is exactly two members, picture then JSON, in the order of the rows."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            texts = [tar.extractfile(m) if m.name.endswith(".json") else None for m in members]
            if len(members) != 2 * len(rows):
                return [f"{where}: {len(members)} members for {len(rows)} samples"]
            for row, picture, text, content in zip(
                rows, members[::2], members[1::2], texts[1::2], strict=True
            ):
                same_place = picture.offset_data == row["offset"] and picture.size == row["size"]
                same_name = picture.name.rsplit(".", 1)[0] == row["key"] and text.name == row["key"] + ".json"
                if not same_place or not same_name:
                    return [f"{where}: member {picture.name} does not stand where its row says"]
                if content is None or json.loads(content.read()) != json.loads(sample_json(row)):
                    return [f"{where}: {text.name} differs from its row"]
    except (tarfile.TarError, OSError, ValueError) as error:
        return [f"{where}: not a readable tar ({error})"]
    return []


def _strays(home: Depot, summary: dict[str, Any]) -> list[str]:
    """Shards that nobody lists: a reader with a wild card would take them for samples."""
    known = {f"{name}/{e['file']}" for name, part in summary["sets"].items() for e in part["shards"]}
    places = (path.relative_to(home.folder) for path in home.files())
    found = {path.as_posix() for path in places if path.match("*/*.tar") and len(path.parts) == 2}
    return [f"{name}: a shard that corpus.json does not know; remove it" for name in sorted(found - known)]


def _duplicates(root: Path, summary: dict[str, Any]) -> list[str]:
    """The table of duplicates, where the corpus was written with one."""
    path = root / "manifest" / "duplicates.parquet"
    known = summary.get("duplicates")
    if known is None:
        return []
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == known["sha256"]
    except OSError as error:
        return [f"manifest/duplicates.parquet: unreadable ({error})"]
    return [] if same else ["manifest/duplicates.parquet: not the file corpus.json records"]


def _accounting(root: Path, summary: dict[str, Any], kept: Counter[str]) -> list[str]:
    path = root / "manifest" / "rejected.parquet"
    try:
        data = path.read_bytes()
        rejected = read_parquet(data)
    except (OSError, ValueError) as error:
        return [f"manifest/rejected.parquet: unreadable ({error})"]
    if hashlib.sha256(data).hexdigest() != summary["rejected"]["sha256"] or not rejected.schema.equals(
        REJECTED
    ):
        return ["manifest/rejected.parquet: not the file corpus.json records"]
    excluded: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for source, index, stage in zip(
        *(rejected[n].to_pylist() for n in ("source", "index", "stage")), strict=True
    ):
        excluded[source] += stage == "select"
        frames[source] += index >= 0
    problems = _duplicates(root, summary)
    for slug, entry in summary["sources"].items():
        members, counts = entry["members"], entry["frames"]
        if (
            members["found"] != members["selected"] + members["excluded"]
            or members["excluded"] != excluded[slug]
        ):
            problems.append(
                f"{slug}: {members['found']} files found, {members['selected']} selected, {excluded[slug]} excluded"
            )
        if counts["kept"] != kept[slug] or counts["decoded"] != kept[slug] + frames[slug]:
            problems.append(
                f"{slug}: {counts['decoded']} frames decoded, {kept[slug]} in the shards, {frames[slug]} rejected"
            )
    return problems
