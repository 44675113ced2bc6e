"""Plain targets: S3 (a local moto server), memory, and the recipe and the corpus read back from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

import openus.publish.targets
from openus.storage.places import Place
from tests.publish.conftest import Licensed, Run


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an empty bucket of a local S3, with credentials in the environment."""
    for name, value in (
        ("AWS_ENDPOINT_URL", server), ("AWS_ACCESS_KEY_ID", "someone"), ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests"), ("AWS_CONFIG_FILE", str(tmp_path / "none")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(openus.publish.targets, "WAIT", 0.01)
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="shelf")
    yield "s3://shelf/corpora"
    for entry in client.list_objects_v2(Bucket="shelf").get("Contents", []):
        client.delete_object(Bucket="shelf", Key=entry["Key"])
    client.delete_bucket(Bucket="shelf")


def test_s3(corpus: Licensed, run: Run, s3: str, tmp_path: Path) -> None:
    done = run("publish", corpus.root, "--to", s3, "--json")
    assert done.code == 0, done.err
    published = json.loads(done.out)["published"]
    assert [entry["url"] for entry in published] == [
        f"{s3}/licensed-{to}" for to in ("by", "by-nc", "by-nc-nd", "recipe")
    ]
    bucket = boto3.client("s3")
    index = json.loads(Place(f"{s3}/licensed-by").read("index.json"))["files"]
    for name, entry in index.items():
        body = bucket.get_object(Bucket="shelf", Key=f"corpora/licensed-by/{name}")["Body"].read()
        assert (
            len(body) == entry["bytes"]
            and body == (corpus.root / ".publish" / "licensed-by" / name).read_bytes()
        )
    # Sent again: nothing. One object replaced by someone, one gone: these two.
    bucket.put_object(Bucket="shelf", Key="corpora/licensed-by/LICENSES.md", Body=b"another text")
    bucket.delete_object(Bucket="shelf", Key="corpora/licensed-by/pretrain/pretrain-000000.tar")
    again = json.loads(run("publish", corpus.root, "--to", s3, "--json").out)["published"]
    assert [entry["sent"] for entry in again] == [2, 0, 0, 0]
    # The recipe is read from there, and gives the same shards.
    out = tmp_path / "rebuilt"
    words = [*corpus.local("closed-set", "nd-set", "own-terms"), "--cache", tmp_path / "cache"]
    done = run("build", out, "--from-recipe", f"{s3}/licensed-recipe", *words)
    assert done.code == 0 and "all 3 shards have the SHA-256 that the recipe names" in done.out, done.err


def test_s3_that_refuses(corpus: Licensed, run: Run, s3: str) -> None:
    done = run("publish", corpus.root, "--to", "s3://nobodys-bucket/x", "--class", "by")
    assert (
        done.code == 1 and "nobodys-bucket" in done.err and "a-secret-of-the-tests" not in done.err + done.out
    )
    assert "refused" in done.err or "failed" in done.err


def test_any_file_system_and_files_of_an_earlier_publication(corpus: Licensed, run: Run) -> None:
    memory = fsspec.filesystem("memory")
    done = run("publish", corpus.root, "--to", "memory://shelf", "--class", "recipe")
    assert done.code == 0, done.err
    root = "/shelf/licensed-recipe"
    index = json.loads(memory.cat_file(f"{root}/index.json"))
    memory.pipe_file(f"{root}/rows/pretrain-000077.parquet", b"of an earlier plan")
    memory.pipe_file(f"{root}/mine.txt", b"a stranger's")
    index["files"]["rows/pretrain-000077.parquet"] = index["files"]["../outside.txt"] = {
        "bytes": 1,
        "sha256": "",
    }
    memory.pipe_file("/shelf/outside.txt", b"not of this publication")
    memory.pipe_file(f"{root}/index.json", json.dumps(index).encode())
    done = run("publish", corpus.root, "--to", "memory://shelf", "--class", "recipe")
    assert done.code == 0, done.err
    assert not memory.exists(f"{root}/rows/pretrain-000077.parquet")
    assert memory.exists(f"{root}/mine.txt") and memory.exists("/shelf/outside.txt")
