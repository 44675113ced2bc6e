"""The index of a corpus, and the readers others have."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from openus.errors import CorpusError, MissingExtraError, UsageError
from openus.shards.verify import verify
from tests.helpers.corpus import make_corpus
from tests.stream.conftest import Server
from usfmae.stream.index import Index, open_index


def copied(corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "copy")
    return tmp_path / "copy"


def same(first: Index, second: Index) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("shard_of", "offset", "size", "width", "height", "source_of", "anatomy_of")
    )


def test_rows_stand_in_manifest_order_and_bytes_are_those_of_the_row(corpus: Path) -> None:
    index = open_index(corpus)
    table = index.table.to_pylist()
    assert index.count == len(index) == len(table) == 40
    assert index.shards == [f"pretrain-{i:06d}.tar" for i in range(3)]
    for i, row in enumerate(table):
        assert hashlib.sha256(index.read(i)).hexdigest() == row["sha256"]
        assert index.shards[index.shard_of[i]] == row["shard"]
        assert index.sources[index.source_of[i]] == row["source"]
        assert index.anatomies[index.anatomy_of[i]] == row["anatomy"]
        assert index.row(i) == row
    assert index.bytes == sum(row["size"] for row in table)
    with pytest.raises(IndexError):
        index.read(40)


def test_the_helper_writes_what_openus_verifies(tmp_path: Path) -> None:
    for fmt in ("jpg", "png", "webp"):
        assert verify(make_corpus(tmp_path / fmt, fmt=fmt), deep=True).problems == []
    again = make_corpus(tmp_path / "again", fmt="png")
    for path in sorted(again.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "png" / path.relative_to(again)).read_bytes()


@pytest.mark.parametrize("kind", ["file", "http", "memory"])
def test_a_corpus_is_read_alike_from_any_place(corpus: Path, kind: str, serve: type[Server]) -> None:
    local = open_index(corpus)
    url = corpus.resolve().as_uri()
    if kind == "http":
        server = serve(corpus)
        url = server.url
    elif kind == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.put(str(corpus), "/corpus", recursive=True)
        url = "memory://corpus"
    index = open_index(url)
    assert same(index, local)
    assert [index.read(i) for i in (0, 17, 39)] == [local.read(i) for i in (0, 17, 39)]
    if kind == "http":  # by byte range, never the whole shard
        assert sum(server.ranged.values()) == 3 and not any(name.endswith(".tar") for name in server.served)


def test_wrong_places_and_sets_are_named(corpus: Path, tmp_path: Path, serve: type[Server]) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        open_index(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"no corpus\.json"):
        open_index(tmp_path)
    with pytest.raises(CorpusError, match="did you mean 'pretrain'"):
        open_index(corpus, "pretrian")
    with pytest.raises(CorpusError, match="answers 404"):
        open_index(serve(tmp_path).url)
    with pytest.raises(CorpusError, match="cannot be reached"):
        open_index("http://127.0.0.1:9")
    with pytest.raises(UsageError, match="not known"):
        open_index("gopher://somewhere/corpus")


def test_s3_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openus.storage.places.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"openus\[remote\]"):
        open_index("s3://bucket/corpus")


def test_another_schema_is_refused(corpus: Path, tmp_path: Path, serve: type[Server]) -> None:
    folder = copied(corpus, tmp_path)
    summary = json.loads((folder / "corpus.json").read_text()) | {"schema": 99}
    (folder / "corpus.json").write_text(json.dumps(summary))
    for data in (folder, serve(folder).url):
        with pytest.raises(CorpusError, match="99"):
            open_index(data)


def test_missing_cut_and_altered_shards_are_refused(corpus: Path, tmp_path: Path) -> None:
    folder = copied(corpus, tmp_path)
    shard = folder / "pretrain" / "pretrain-000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    open_index(folder)  # the size is right; only reading it all tells
    with pytest.raises(CorpusError, match=r"pretrain-000001\.tar: SHA-256"):
        open_index(folder, verify=True)
    shard.write_bytes(data[:5000])
    with pytest.raises(CorpusError, match="5000 bytes"):
        open_index(folder)
    shard.unlink()
    with pytest.raises(CorpusError, match="missing"):
        open_index(folder)


def test_damaged_manifests_are_refused(corpus: Path, tmp_path: Path) -> None:
    folder = copied(corpus, tmp_path)
    manifest = folder / "manifest" / "pretrain-000002.parquet"
    whole = pq.read_table(manifest)
    pq.write_table(whole.slice(1), manifest)
    with pytest.raises(CorpusError, match="7 rows"):
        open_index(folder)
    pq.write_table(whole.drop_columns(["phash"]), manifest)
    with pytest.raises(CorpusError, match="phash"):
        open_index(folder)
    manifest.write_bytes(b"PAR1 no")
    with pytest.raises(CorpusError, match="not a readable Parquet"):
        open_index(folder)
    manifest.unlink()
    with pytest.raises(CorpusError, match="pretrain-000002"):
        open_index(folder)


def test_the_webdataset_library_reads_the_shards_as_they_are(corpus: Path) -> None:
    import webdataset as wds

    index = open_index(corpus)
    shards = f"{corpus}/pretrain/pretrain-{{000000..000002}}.tar"
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("l8"))
    assert [sample["__key__"] for sample in samples] == index.table["key"].to_pylist()
    assert [sample["jpg"].shape for sample in samples] == list(zip(index.height, index.width, strict=True))
    assert [sample["json"]["source"] for sample in samples] == index.table["source"].to_pylist()


def test_hugging_face_datasets_reads_the_shards_as_they_are(corpus: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    index = open_index(corpus)
    data = load_dataset(
        "webdataset", data_files={"train": f"{corpus}/pretrain/*.tar"}, split="train", cache_dir=str(tmp_path)
    )
    assert data["__key__"] == index.table["key"].to_pylist()
    assert [row["jpg"].size for row in data] == list(zip(index.width, index.height, strict=True))
