"""Shards that others made: streamed with weaker promises, or indexed for the strong ones."""

from __future__ import annotations

import io
import json
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from openus.cli import main
from openus.errors import ArchiveError, CorpusError, UsageError
from openus.shards.foreign import expand, index_shards
from tests.helpers.corpus import encode, picture
from tests.stream.conftest import Server
from usfmae.stream.foreign import WEAKER, ForeignLoader
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars as the webdataset library writes them, in folders, with labels and some oddities."""
    import webdataset as wds

    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    with wds.ShardWriter(f"{folder}/set-%06d.tar", maxcount=12, verbose=0) as sink:
        for number in range(24):
            fmt = ("jpg", "png", "webp")[number % 3]
            sample = {
                "__key__": f"clip{number // 8}/frame{number:03d}",
                fmt: encode(picture(rng, 60, 70 + number, False)[0], fmt),
                "json": json.dumps({"organ": "liver", "gain": number, "box": [1, 2]}).encode(),
                "cls": str(number % 2).encode(),
            }
            sink.write(sample)
    return folder


def test_addresses_expand_and_commands_are_refused() -> None:
    assert expand("a-{00..02}.tar::b.tar") == ["a-00.tar", "a-01.tar", "a-02.tar", "b.tar"]
    assert expand(["x-{a,b}.tar", "y.tar"]) == ["x-a.tar", "x-b.tar", "y.tar"]
    for command in ("pipe:cat x.tar", "cat x.tar |"):
        with pytest.raises(UsageError, match="commands are not run"):
            expand(command)
    with pytest.raises(UsageError, match="no shards"):
        expand([])


@pytest.mark.parametrize("remote", [False, True])
def test_indexed_foreign_shards_keep_the_strong_promises(
    foreign: Path,
    tmp_path: Path,
    remote: bool,
    serve: Callable[[Path], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENUS_CACHE", str(tmp_path / "cache"))
    place = serve(foreign).url if remote else str(foreign)
    index_shards(f"{place}/set-{{000000..000001}}.tar", tmp_path / "index", source="livers", anatomy="liver")
    index = open_index(tmp_path / "index", verify=True)
    assert index.count == 24 and index.sources == ["livers"] and index.anatomies == ["liver"]
    row = index.row(13)
    assert row["member"] == "clip1/frame013.png" and row["key"] == "clip1-frame013"
    assert dict(row["labels"]) == {"organ": "liver", "gain": "13", "cls": "1"}
    assert (row["width"], row["height"]) == (83, 60)
    batches = [list(Loader(index, batch_size=5, size=32, seed=1, epochs=1, workers=w)) for w in (0, 2)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(*batches, strict=True))
    rows = [r for b in batches[0] for r in b.indices[: 5 - b.padded].tolist()]
    assert sorted(rows) == list(range(24))


def test_what_cannot_be_used_is_written_down(tmp_path: Path) -> None:
    good = encode(picture(np.random.default_rng(0), 40, 50, False)[0], "jpg")
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        add(tar, "a.jpg", good)
        add(tar, "a.seg.png", encode(np.zeros((40, 50), np.uint8), "png"))
        add(tar, "b.txt", b"no picture")
        add(tar, "c.jpg", good[: len(good) // 2])
        add(tar, "d.jpg", b"<html>")
        add(tar, "x/a.jpg", good)
        add(tar, "a.b.jpg", good)  # key "a" again, extension "b.jpg"
        link = tarfile.TarInfo("e.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    summary = index_shards(str(tmp_path / "odd.tar"), tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.table["key"].to_pylist() == ["a", "x-a", "a-2"]
    assert index.table["member"].to_pylist() == ["a.jpg", "x/a.jpg", "a.b.jpg"]
    assert [index.read(i) for i in range(3)] == [good] * 3
    rejected = pq.read_table(tmp_path / "index" / "manifest" / "rejected.parquet").to_pylist()
    assert [(row["member"], row["reason"]) for row in rejected] == [
        ("b", "no-picture"), ("c", "truncated"), ("d", "not-an-image"),
    ]  # fmt: skip
    assert summary["rejected"]["rows"] == 3
    index_shards(str(tmp_path / "odd.tar"), tmp_path / "masks", picture="seg.png")
    assert open_index(tmp_path / "masks").count == 1


def test_compressed_broken_and_missing_tars_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        add(tar, "a.jpg", bytes(100))
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    for name in ("a.tar", "b.tar"):
        with pytest.raises(ArchiveError, match="not a plain tar"):
            index_shards(str(tmp_path / name), tmp_path / "index")
    with pytest.raises(UsageError, match="No such file"):
        index_shards(str(tmp_path / "c.tar"), tmp_path / "index")


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_foreign_shards_give_batches_and_say_what_they_do_not_promise(
    foreign: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"steps_per_epoch": 4, "batch_size": 5, "size": 32, "seed": 1, "epochs": 2, "workers": workers}
    urls = f"{foreign}/set-{{000000..000001}}.tar"
    with caplog.at_level(logging.WARNING, "usfmae.stream"):
        batches = list(ForeignLoader(urls, **options))  # type: ignore[arg-type]
    assert WEAKER in caplog.messages
    assert len(batches) == 8 and [batch.cursor.epoch for batch in batches] == [0] * 3 + [1] * 4 + [2]
    assert all(
        batch.images.shape == (5, 1, 32, 32) and batch.images.dtype == torch.uint8 for batch in batches
    )
    assert len({tuple(batch.seeds.tolist()) for batch in batches}) == 8
    again = list(ForeignLoader(urls, **options))  # type: ignore[arg-type]
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))
    other = list(ForeignLoader(urls, rank=1, world=2, **options))  # type: ignore[arg-type]
    assert not any(torch.equal(a.images, b.images) for a, b in zip(batches, other, strict=True))


def test_streaming_over_http_and_its_failures(
    foreign: Path, serve: Callable[[Path], Server], caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(foreign).url
    options = {"steps_per_epoch": 2, "batch_size": 4, "size": 32, "seed": 1, "epochs": 1}
    assert len(list(ForeignLoader(f"{url}/set-000000.tar", **options))) == 2  # type: ignore[arg-type]
    for workers in (0, 1):
        with pytest.raises(CorpusError, match="answers 404") as error:
            list(ForeignLoader(f"{url}/none.tar", workers=workers, **options))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="at least 1 step"):
        ForeignLoader(f"{url}/none.tar", **(options | {"steps_per_epoch": 0}))  # type: ignore[arg-type]


def test_bad_samples_in_a_stream_are_named_or_end_it(
    tmp_path: Path, foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = encode(picture(np.random.default_rng(0), 40, 50, False)[0], "jpg")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(6):
            add(tar, f"n{number}.jpg", good if number != 3 else good[:100])
    options = {"steps_per_epoch": 4, "batch_size": 4, "size": 32, "seed": 1, "epochs": 1, "buffer": 10}
    with caplog.at_level(logging.WARNING, "usfmae.stream"):
        assert len(list(ForeignLoader(str(tmp_path / "s.tar"), **options))) == 4  # type: ignore[arg-type]
    assert any("sample n3 in" in line for line in caplog.messages)
    with pytest.raises(CorpusError, match="sample n3 in"):
        list(ForeignLoader(str(tmp_path / "s.tar"), strict=True, **options))  # type: ignore[arg-type]
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        add(tar, "a.txt", b"text")
    with pytest.raises(CorpusError, match="are these pictures"):
        list(ForeignLoader(str(tmp_path / "none.tar"), **options))  # type: ignore[arg-type]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["openus", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(str(end.value.code))


def test_the_index_command(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls, out = f"{foreign}/set-{{000000..000001}}.tar", tmp_path / "index"
    assert (
        run(monkeypatch, "index", urls, "--out", out, "--source", "theirs", "--anatomy", "liver", "--json")
        == 0
    )
    assert json.loads(capsys.readouterr().out) | {"bytes": 0, "out": ""} == {
        "out": "", "set": "pretrain", "samples": 24, "shards": 2, "bytes": 0, "rejected": {},
    }  # fmt: skip
    index = open_index(out)
    assert (index.sources, index.anatomies, index.count) == (["theirs"], ["liver"], 24)
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        add(tar, "a.jpg", b"no picture")
        add(tar, "b.txt", b"text")
        add(tar, "c.png", encode(picture(np.random.default_rng(0), 40, 50, False)[0], "png"))
    assert run(monkeypatch, "index", tmp_path / "odd.tar", "--out", out, "--set", "odd") == 0
    said = capsys.readouterr().out
    assert "1 samples in 1 shards" in said and "no-picture 1" in said and "--set data.set=odd" in said
    for arguments, message in (
        (["pipe:cat x.tar", "--out", str(tmp_path / "x")], "commands are not run"),
        ([urls, "--out", str(foreign)], "holds no corpus.json"),
        ([str(foreign / "none.tar"), "--out", str(tmp_path / "x")], "check the name of the shard"),
    ):
        assert run(monkeypatch, "index", *arguments) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err
