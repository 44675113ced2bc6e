"""What `openus verify` finds where all hashes are right: rows, members, pictures and accounts that do not agree."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from openus.dedup.hashes import pixel_sha256
from openus.shards.schema import REJECTED
from openus.shards.verify import verify
from openus.shards.writer import write_shard
from openus.storage.depot import Depot
from openus.storage.files import read_parquet, write_parquet
from tests.helpers.corpus import encode, make_corpus

Rows = list[dict[str, Any]]
OTHER = np.arange(64 * 70, dtype=np.uint8).reshape(64, 70)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("sound"), {"pretrain": 6, "bench": 4}, fmt="png")


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "corpus"))


def summary_of(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    summary = json.loads((root / "corpus.json").read_text())
    change(summary)
    (root / "corpus.json").write_text(json.dumps(summary))


def paths(root: Path, name: str) -> tuple[Path, Path]:
    return root / name / f"{name}-000000.tar", root / "manifest" / f"{name}-000000.parquet"


def repack(root: Path, name: str, number: int, data: bytes, **facts: Any) -> None:
    """Write a set's shard anew with another picture in place of one, and record it as if it were right."""
    tar, manifest = paths(root, name)
    whole, rows = tar.read_bytes(), read_parquet(manifest).to_pylist()
    samples = [(row, whole[row["offset"] : row["offset"] + row["size"]]) for row in rows]
    row = rows[number] | {"sha256": hashlib.sha256(data).hexdigest()} | facts
    samples[number] = row, data
    info = write_shard(tar, manifest, samples, "png")
    summary_of(root, lambda summary: summary["sets"][name].update(shards=[asdict(info)]))


def relist(root: Path, change: Callable[[Rows], Rows]) -> None:
    """Other rows for the same shard, with the right hash of the manifest."""
    manifest = paths(root, "pretrain")[1]
    table = read_parquet(manifest)
    rows = change(table.to_pylist())
    digest = write_parquet(manifest, pa.Table.from_pylist(rows, schema=table.schema))
    summary_of(root, lambda summary: summary["sets"]["pretrain"]["shards"][0].update(manifest_sha256=digest))


def record(root: Path, source: dict[str, Any]) -> None:
    """One source in the accounts, of which two files were excluded and one frame rejected."""
    rows = [("bench", "a", -1, "select"), ("bench", "b", -1, "select"), ("bench", "c", 0, "clean")]
    table = pa.Table.from_pylist(
        [dict(zip(REJECTED.names, (*row, "why", ""), strict=True)) for row in rows], schema=REJECTED
    )
    digest = write_parquet(root / "manifest" / "rejected.parquet", table)
    entry = {
        "members": {"found": 6, "selected": 4, "excluded": 2} | source.get("members", {}),
        "frames": {"decoded": 5, "kept": 4} | source.get("frames", {}),
    }
    other = {"members": {"found": 1, "selected": 1, "excluded": 0}, "frames": {"decoded": 1, "kept": 1}}
    sources = {"bench": entry, "stu-hospital": other}
    summary_of(root, lambda s: s.update(sources=sources, rejected={"rows": 3, "sha256": digest}))


def test_a_sound_corpus_has_no_problem(root: Path) -> None:
    """Masks have the keys of their pictures."""
    record(root, {})
    said: list[tuple[str, int, int | None]] = []
    verdict = verify(root, deep=True, report=lambda *told: said.append(told))
    assert (verdict.problems, verdict.shards, verdict.samples) == ([], 3, 14)
    assert verdict.bytes == sum(path.stat().st_size for path in root.glob("*/*.tar"))
    assert [told[1] for told in said] == [0, 6, 4, 4] and {told[2] for told in said} == {14}


@pytest.mark.parametrize(
    ("data", "facts", "problem"),
    [
        (b"no picture", {}, "cannot be decoded"),
        (encode(OTHER, "png"), {"width": 71, "height": 64}, "is 70x64, its row says otherwise"),
        (encode(OTHER, "png"), {"width": 70, "height": 64}, "does not hold the pixels its row describes"),
    ],
)
def test_pictures_are_looked_at_where_it_is_asked_for(
    root: Path, data: bytes, facts: dict[str, Any], problem: str
) -> None:
    repack(root, "pretrain", 2, data, **facts)
    assert verify(root).problems == []
    (found,) = verify(root, deep=True).problems
    assert found.startswith("pretrain/pretrain-000000.tar: sample ") and found.endswith(problem)


def test_pixels_are_compared_only_where_nothing_was_lost(root: Path) -> None:
    size = {"width": 70, "height": 64}
    repack(root, "pretrain", 0, encode(OTHER, "jpg"), **size)
    repack(root, "bench-mask", 0, encode(OTHER, "png"), **size)  # a mask has the hash of its picture's pixels
    repack(root, "bench", 0, encode(OTHER, "png"), pixel_sha256=pixel_sha256(OTHER), **size)
    assert verify(root, deep=True).problems == []


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda rows: [rows[0] | {"anatomy": "moon"}, *rows[1:]], ["json differs from its row"]),
        (lambda rows: [rows[1], rows[0], *rows[2:]], ["does not stand where its row says"]),
        (lambda rows: [rows[0] | {"key": "other"}, *rows[1:]], ["does not stand where its row says"]),
        (lambda rows: rows[1:], ["12 members for 5 samples", "5 rows, corpus.json says 6"]),
        (
            lambda rows: [rows[0] | {"size": 10}, *rows[1:]],
            ["does not stand where", "is not the one its row"],
        ),
    ],
)
def test_rows_and_members_agree(root: Path, change: Callable[[Rows], Rows], problems: list[str]) -> None:
    relist(root, change)
    found = verify(root).problems
    assert len(found) == len(problems)
    assert all(any(words in problem for problem in found) for words in problems), found


@pytest.mark.parametrize("member", [0, 1])
def test_members_are_called_after_their_key(root: Path, member: int) -> None:
    tar, _ = paths(root, "pretrain")
    with (
        tarfile.open(tar) as old,
        tarfile.open(tar.with_suffix(".new"), "w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for number, info in enumerate(old.getmembers()):
            data = old.extractfile(info)
            info.name = f"other.{info.name.rpartition('.')[2]}" if number == member else info.name
            new.addfile(info, data)
    tar.with_suffix(".new").replace(tar)
    facts = {"sha256": hashlib.sha256(tar.read_bytes()).hexdigest(), "bytes": tar.stat().st_size}
    summary_of(root, lambda summary: summary["sets"]["pretrain"]["shards"][0].update(facts))
    (found,) = verify(root).problems
    assert "does not stand where its row says" in found


def test_equal_pictures_have_their_own_places(root: Path) -> None:
    for number in (0, 1):
        repack(root, "pretrain", number, encode(OTHER, "png"))
    assert verify(root).problems == []
    relist(root, lambda rows: [rows[0] | {"offset": rows[1]["offset"]}, *rows[1:]])
    (found,) = verify(root).problems
    assert "does not stand where its row says" in found


def test_a_manifest_of_other_columns_or_none(root: Path) -> None:
    manifest = paths(root, "pretrain")[1]
    for data, problem in (
        (read_parquet(manifest).drop_columns(["split"]), "its columns are not those of the row schema"),
        (b"PAR1", "not a Parquet file"),
    ):
        if isinstance(data, bytes):
            manifest.write_bytes(data)
        else:
            write_parquet(manifest, data)
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
        summary_of(
            root, lambda s, digest=digest: s["sets"]["pretrain"]["shards"][0].update(manifest_sha256=digest)
        )
        (found,) = verify(root).problems
        assert problem in found


def test_bytes_that_no_row_speaks_of_count_too(root: Path) -> None:
    tar, manifest = paths(root, "pretrain")
    for path in (tar, paths(root, "bench")[0]):
        path.write_bytes(path.read_bytes()[:-1] + b"x")  # behind the last member
    write_parquet(manifest, read_parquet(manifest).replace_schema_metadata({"other": "words"}))
    summary_of(root, lambda s: s["sets"]["bench-mask"]["shards"][0].update(bytes=1))
    assert verify(root).problems == [
        "bench-mask/bench-mask-000000.tar: its bytes are not the ones corpus.json records (altered or damaged)",
        "bench/bench-000000.tar: its bytes are not the ones corpus.json records (altered or damaged)",
        "manifest/pretrain-000000.parquet: its bytes are not the ones corpus.json records",
        "pretrain/pretrain-000000.tar: its bytes are not the ones corpus.json records (altered or damaged)",
    ]


@pytest.mark.parametrize(("wrong", "more"), [(3, 0), (4, 1)])
def test_of_many_damaged_samples_a_few_are_named(root: Path, wrong: int, more: int) -> None:
    relist(root, lambda rows: [row | {"sha256": "0"} for row in rows[:wrong]] + rows[wrong:])
    named = [problem for problem in verify(root).problems if "is not the one its row describes" in problem]
    rest = [problem for problem in verify(root).problems if f"and so are {more} more of its 6" in problem]
    assert (len(named), len(rest)) == (3, bool(more))


def test_what_storage_lacks_is_not_fetched(root: Path) -> None:
    class Away(Depot):
        remote = True

        def size(self, path: Path) -> int | None:
            return None if path == paths(root, "bench")[1] else super().size(path)

    verdict = verify(root, home=Away(root))
    assert verdict.problems == ["bench/bench-000000.tar, or its manifest: missing"]
    assert (verdict.shards, verdict.samples) == (2, 10)


def test_shards_of_others_are_followed_by_path_and_address(root: Path, tmp_path: Path) -> None:
    tar, _ = paths(root, "pretrain")
    theirs = tar.rename(tmp_path / "theirs.tar")
    system = fsspec.filesystem("memory")
    system.pipe_file("/verify/theirs.tar", theirs.read_bytes()[:-512] + b"x" * 512)
    for url, problems in (
        (str(theirs), 0),
        ("memory://verify/theirs.tar", 1),
        ("memory://verify/none.tar", 1),
    ):
        facts = {"url": url}
        summary_of(root, lambda s, facts=facts: s["sets"]["pretrain"]["shards"][0].update(facts))
        assert len(verify(root).problems) == problems, url
    theirs.unlink()
    summary_of(root, lambda s: s["sets"]["pretrain"]["shards"][0].update(url=str(theirs)))
    assert verify(root).problems == [f"{theirs}: missing; give its place anew with 'openus index'"]


def test_a_missing_shard_can_be_repaired(root: Path) -> None:
    tar, _ = paths(root, "bench")
    tar.unlink()
    assert verify(root).problems == [f"{tar}: missing; 'openus repair' writes it anew"]


def test_what_is_no_tar_is_said(root: Path) -> None:
    tar, _ = paths(root, "pretrain")
    tar.write_bytes(b"x" * 512 + tar.read_bytes()[512:])  # its first header; all pictures are in their places
    facts = {"sha256": hashlib.sha256(tar.read_bytes()).hexdigest()}
    summary_of(root, lambda summary: summary["sets"]["pretrain"]["shards"][0].update(facts))
    (found,) = verify(root).problems
    assert "not a readable tar" in found


def test_a_key_stands_once(root: Path) -> None:
    shutil.copytree(root / "pretrain", root / "again")
    summary_of(root, lambda s: s["sets"].update(again=s["sets"]["pretrain"]))
    found = verify(root).problems
    assert len(found) == 6 and all("stands 2 times in the corpus" in problem for problem in found)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"members": {"found": 7}}, "7 files found, 4 selected, 2 excluded"),
        ({"members": {"found": 7, "excluded": 3}}, "7 files found, 4 selected, 2 excluded"),
        ({"frames": {"kept": 5}}, "5 frames decoded, 4 in the shards, 1 rejected"),
        ({"frames": {"decoded": 6}}, "6 frames decoded, 4 in the shards, 1 rejected"),
    ],
)
def test_every_input_is_accounted_for(root: Path, source: dict[str, Any], problem: str) -> None:
    record(root, source)
    assert verify(root).problems == [f"bench: {problem}"]


def test_tables_beside_the_rows(root: Path) -> None:
    def expect(problem: str) -> None:
        (found,) = verify(root).problems
        assert problem in found

    summary_of(root, lambda summary: summary.update(duplicates={"rows": 0, "sha256": "0"}))
    expect("duplicates.parquet: unreadable")
    (root / "manifest" / "duplicates.parquet").write_bytes(b"other")
    expect("duplicates.parquet: not the file corpus.json records")
    summary_of(root, lambda s: s["duplicates"].update(sha256=hashlib.sha256(b"other").hexdigest()))
    assert verify(root).problems == []
    digest = write_parquet(root / "manifest" / "rejected.parquet", pa.table({"source": ["bench"]}))
    summary_of(root, lambda summary: summary["rejected"].update(sha256=digest))
    expect("rejected.parquet: not the file corpus.json records")
    (root / "manifest" / "rejected.parquet").unlink()
    expect("rejected.parquet: unreadable")
