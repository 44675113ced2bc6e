"""Bad input, end to end: one clear line and the right exit code, or a row in rejected.parquet; never a traceback."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pydicom.data
import pytest
from pytest_httpserver import HTTPServer

from tests.helpers import toys

SOURCE = """
schema: 1
slug: toy-archive
name: Toy
title: A toy
anatomy: liver
kind: image
licence: {{name: CC0-1.0, redistribution: pixels}}
routes:
  - host: http
    files: [{{name: toy.zip, url: "{url}"{more}}}]
images: ["pictures/*.*"]
"""
CORPUS = "schema: 1\nname: bad\nsources: [toy-archive]\nclean: {size: 64}\n"


def huge_png() -> bytes:
    """A PNG whose header promises 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "manifests" / "sources").mkdir(parents=True)
    (tmp_path / "manifests" / "corpora").mkdir()
    (tmp_path / "manifests" / "corpora" / "bad.yaml").write_text(CORPUS)
    declare(tmp_path, "http://data.example.org/toy.zip")
    return tmp_path


def declare(place: Path, url: str, more: str = "") -> None:
    text = SOURCE.format(url=url, more=more)
    (place / "manifests" / "sources" / "toy-archive.yaml").write_text(text)


def build(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return toys.run(
        [
            sys.executable, "-m", "openus.cli", "build", str(place / "out"), "--corpus", "bad", "--workers", "0",
            "--manifests", str(place / "manifests"), "--cache", str(place / "cache"), *more,
        ]
    )  # fmt: skip


def pictures(place: Path) -> Path:
    folder = place / "data" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    import cv2

    for i in range(3):
        cv2.imwrite(str(folder / f"good{i}.png"), toys.speckle(i))
    return folder


def packed(place: Path) -> Path:
    """A good archive of three pictures."""
    folder = pictures(place)
    archive = place / "toy.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"toy/pictures/{path.name}")
    return archive


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def rejected(place: Path) -> dict[str, str]:
    table = pq.read_table(place / "out" / "manifest" / "rejected.parquet").to_pylist()
    return {row["member"].split("/")[-1]: row["reason"] for row in table}


def test_files_that_are_not_what_they_seem_become_rows(place: Path) -> None:
    folder = pictures(place)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture, whatever its name says\n")
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "cut.png").write_bytes((folder / "good0.png").read_bytes()[:3000])
    clip = folder / "cut.mp4"
    toys.write_clip(clip, [toys.speckle(100 + i) for i in range(30)])
    clip.write_bytes(clip.read_bytes()[:-4000])
    whole = Path(pydicom.data.get_testdata_file("examples_rgb_color.dcm"))
    (folder / "cut.dcm").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = build(place, "--local", f"toy-archive={place / 'data'}")
    refused(done, 0)
    found = rejected(place)
    assert found.pop("cut.mp4") in ("truncated", "corrupt")
    assert found == {
        "empty.png": "empty-file", "text.png": "not-an-image", "page.jpg": "not-an-image", "huge.png": "too-large",
        "cut.png": "truncated", "cut.dcm": "truncated",
    }  # fmt: skip
    summary = json.loads((place / "out" / "corpus.json").read_text())
    assert summary["sources"]["toy-archive"]["members"]["selected"] == 10
    assert toys.run([sys.executable, "-m", "openus.cli", "verify", str(place / "out")]).returncode == 0


def test_a_mirror_without_the_file(place: Path) -> None:
    (place / "mirror").mkdir()
    refused(
        build(place, "--mirror", str(place / "mirror"), "--offline"), 1, "toy-archive", "not in the cache"
    )


def test_a_wrong_checksum(place: Path, httpserver: HTTPServer) -> None:
    data = packed(place).read_bytes()
    httpserver.expect_request("/toy.zip").respond_with_data(data, content_type="application/zip")
    declare(place, httpserver.url_for("/toy.zip"), f', sha256: "{"0" * 64}"')
    refused(build(place), 1, "expected", "0" * 64)


def test_a_page_instead_of_an_archive(place: Path, httpserver: HTTPServer) -> None:
    page = "<!DOCTYPE html><html><title>Quota exceeded</title></html>"
    httpserver.expect_request("/toy.zip").respond_with_data(page, content_type="text/html")
    declare(place, httpserver.url_for("/toy.zip"))
    refused(build(place), 1, "a web page titled 'Quota exceeded' came instead of toy.zip")


def test_a_truncated_archive(place: Path) -> None:
    archive = packed(place)
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(build(place, "--local", f"toy-archive={archive}"), 1, "toy.zip", "truncated")


def test_an_archive_that_escapes(place: Path) -> None:
    archive = packed(place)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../evil.png", b"x")
    refused(build(place, "--local", f"toy-archive={archive}"), 1, "toy.zip", "evil.png")
    assert not list(place.parent.glob("**/evil.png"))


def test_a_good_archive_after_all_that(place: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/toy.zip").respond_with_data(
        packed(place).read_bytes(), content_type="application/zip"
    )
    declare(place, httpserver.url_for("/toy.zip"))
    refused(build(place), 0, "3 samples")


@pytest.mark.parametrize(
    ("words", "code", "say"),
    [
        (["show", "bus-bar"], 2, "unknown source 'bus-bar'; did you mean 'bus-bra'?"),
        (["fetch", "stu-hopital"], 2, "did you mean 'stu-hospital'?"),
        (["verify", "/no/such/corpus"], 1, "no such folder"),
        (["stats", "."], 1, "there is no corpus.json"),
        (["build", "--engine", "abacus"], 2, "abacus"),
        (["bild"], 2, "No such command"),
        (["sources", "--anatomy", "tail"], 2, "no source has anatomy=tail"),
        (["fetch", "stu-hospital", "--mirror", "/no/such"], 2, "--mirror /no/such: neither a folder"),
    ],
)
def test_wrong_words(words: list[str], code: int, say: str) -> None:
    done = toys.run([sys.executable, "-m", "openus.cli", *words])
    refused(done, code, say)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    manifests, inputs = toys.write_manifests(folder / "m"), toys.write_inputs(folder / "i", clips=1)
    done = toys.run(toys.command(folder / "out", manifests, inputs, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    return folder / "out"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def first(out: Path, pattern: str) -> Path:
    return sorted(out.glob(pattern))[0]


def another_schema(out: Path) -> None:
    summary: dict[str, Any] = json.loads((out / "corpus.json").read_text())
    (out / "corpus.json").write_text(json.dumps(summary | {"schema": 99}))


@pytest.mark.parametrize(
    ("damage", "say"),
    [
        (lambda out: first(out, "pretrain/*.tar").unlink(), "missing; 'openus repair' writes it anew"),
        (lambda out: flip(first(out, "pretrain/*.tar"), 2000), "is not the one its row describes"),
        (lambda out: flip(first(out, "manifest/pretrain-0*.parquet"), 60), "not the ones corpus.json records"),
        (lambda out: first(out, "manifest/bench-0*.parquet").unlink(), "missing"),
        (lambda out: flip(out / "manifest" / "rejected.parquet", 60), "rejected.parquet"),
        (lambda out: shutil.copy(first(out, "pretrain/*.tar"), out / "pretrain" / "p-000077.tar"), "does not know"),
        (lambda out: (out / "corpus.json").write_text("{"), "damaged"),
        (another_schema, "written with schema 99"),
    ],
)  # fmt: skip
def test_verify_sees_every_damage(tmp_path: Path, corpus: Path, damage: Any, say: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(corpus, out)
    words = [sys.executable, "-m", "openus.cli", "verify", str(out)]
    assert toys.run(words).returncode == 0
    damage(out)
    refused(toys.run(words), 1, say)


def test_a_cut_shard_is_told_in_a_few_lines(tmp_path: Path, corpus: Path) -> None:
    out = shutil.copytree(corpus, tmp_path / "out")
    tar = first(out, "pretrain/*.tar")
    tar.write_bytes(tar.read_bytes()[:2000])
    told = toys.run([sys.executable, "-m", "openus", "verify", str(out)])
    assert told.returncode == 1 and len(told.stdout.splitlines()) <= 8 and "more of its" in told.stdout


def test_verify_follows_an_index_to_the_shards_of_others(tmp_path: Path, corpus: Path) -> None:
    theirs = Path(shutil.copy(first(corpus, "pretrain/*.tar"), tmp_path / "theirs.tar"))
    for words in (
        ["index", str(theirs), "--out", str(tmp_path / "mine")],
        ["verify", str(tmp_path / "mine"), "--deep"],
    ):
        done = toys.run([sys.executable, "-m", "openus", *words])
        assert done.returncode == 0, done.stderr + done.stdout
    flip(theirs, 2000)
    told = toys.run([sys.executable, "-m", "openus", "verify", str(tmp_path / "mine")])
    assert told.returncode == 1 and "is not the one its row describes" in told.stdout
    theirs.unlink()
    told = toys.run([sys.executable, "-m", "openus", "verify", str(tmp_path / "mine")])
    assert (
        told.returncode == 1 and "theirs.tar: missing; give its place anew with 'openus index'" in told.stdout
    )


def test_the_corpus_cannot_be_a_file(place: Path) -> None:
    (place / "out").write_text("")
    refused(
        build(place, "--local", f"toy-archive={packed(place)}"), 2, "is a file; name a folder for the corpus"
    )


def test_half_a_download_in_the_drop_folder_is_named(place: Path) -> None:
    drop = place / "cache" / "toy-archive"
    drop.mkdir(parents=True)
    (drop / "toy.zip.crdownload").write_bytes(b"PK")
    refused(build(place, "--offline"), 1, "toy.zip.crdownload", "is not finished downloading")


def test_frames_that_a_header_only_announces_are_no_policy(tmp_path: Path) -> None:
    """An AVI whose header names 99 frames and that holds 3: what is not there was not left out by a rule."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toy.yaml").write_text(
        "schema: 1\nslug: toy\nname: Toy\ntitle: Toy\nanatomy: none\nkind: video\nimages: ['*.avi']\n"
        "licence: {name: unknown, redistribution: recipe-only}\n"
    )
    (tmp_path / "mine-corpus.yaml").write_text("schema: 1\nname: toys\nsources: [toy]\n")
    (tmp_path / "clips").mkdir()
    avi = io.BytesIO()
    with av.open(avi, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10, width=64, height=48, pix_fmt="yuvj420p")
        for level in (60, 120, 180):
            picture = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(avi.getvalue())
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream's header
    data[at : at + 4] = (99).to_bytes(4, "little")
    (tmp_path / "clips" / "a.avi").write_bytes(data)
    out = tmp_path / "out"
    done = toys.run([
        sys.executable, "-m", "openus", "build", str(out), "--corpus", str(tmp_path / "mine-corpus.yaml"),
        "--manifests", str(tmp_path / "mine"), "--local", f"toy={tmp_path / 'clips'}", "--workers", "0",
    ])  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(out / "manifest" / "rejected.parquet").to_pylist()
    assert (row["reason"], row["detail"]) == ("absent", "its header announces 99 frames, 3 are there")
    assert toys.run([sys.executable, "-m", "openus", "verify", str(out)]).returncode == 0
