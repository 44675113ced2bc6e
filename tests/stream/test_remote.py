"""A corpus behind s3://, https:// and hf://, read by the real clients from servers on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openus.errors import CorpusError
from tests.helpers.hub import serving_hub
from tests.helpers.proxy import certificate
from tests.stream.conftest import Server
from usfmae.stream.cache import ShardCache
from usfmae.stream.index import open_index

# Two epochs in blocks by two workers through the shard cache, and one picture by its byte range.
READ = """
import hashlib, json, sys
from usfmae.stream.cache import ShardCache
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader
from usfmae.stream.mixture import make_plan
index = open_index(sys.argv[1])
digest = hashlib.sha256()
plan = make_plan(index, 3, order="blocks", lanes=2)
for batch in Loader(index, batch_size=8, size=32, seed=3, epochs=2, plan=plan, workers=2):
    digest.update(batch.images.numpy().tobytes())
print(json.dumps([index.count, digest.hexdigest(), hashlib.sha256(index.read(17)).hexdigest()]))
"""


def read(data: str | Path, cache: Path, **variables: str) -> list[str]:
    """What a process of its own makes of the corpus at `data`."""
    environment = os.environ | {"OPENUS_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-c", READ, str(data)], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return read(corpus, tmp_path_factory.mktemp("unused"))


def fetched(cache: Path) -> list[str]:
    """Names of the shards in the cache, without the mark of their content."""
    return sorted(path.name.split("-", 1)[1] for path in (cache / "shards").glob("*.tar"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server; the variables that lead clients to it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield variables
    server.stop()


def test_s3(corpus: Path, tmp_path: Path, s3: dict[str, str], expected: list[str]) -> None:
    fsspec = pytest.importorskip("s3fs") and pytest.importorskip("fsspec")
    bucket = fsspec.filesystem("s3", skip_instance_cache=True)
    bucket.clear_instance_cache()  # of a store that another test of this process spoke to
    bucket.mkdir("bucket")
    bucket.put(str(corpus), "bucket/corpus", recursive=True)
    assert read("s3://bucket/corpus", tmp_path / "cache") == expected
    assert fetched(tmp_path / "cache") == open_index(corpus).shards
    for place in ("s3://bucket/none", "s3://nobody/corpus"):
        with pytest.raises(CorpusError, match=f"{place}/corpus.json: cannot be read"):
            open_index(place)
    shard = open_index(corpus).shards[0]
    bucket.pipe(f"bucket/corpus/pretrain/{shard}", b"altered")
    with pytest.raises(CorpusError, match=r"7 bytes came, the corpus lists"):
        ShardCache(tmp_path / "fresh").fetch(open_index("s3://bucket/corpus").shard_info[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
def test_https(corpus: Path, tmp_path: Path, serve: Callable[..., Server], expected: list[str]) -> None:
    authority, tls = certificate(tmp_path, ["127.0.0.1"])
    server = serve(corpus, tls)
    assert server.url.startswith("https://")
    assert read(server.url, tmp_path / "cache", REQUESTS_CA_BUNDLE=str(authority)) == expected
    tars = {name: count for name, count in server.served.items() if name.endswith(".tar")}
    assert tars == {f"/pretrain/{name}": 1 for name in open_index(corpus).shards}  # each fetched once
    assert sum(server.ranged.values()) == 1  # and the one picture by its range
    with pytest.raises(CorpusError, match="cannot be reached"):  # a certificate nobody vouches for
        open_index(server.url)


def test_hugging_face_hub(corpus: Path, tmp_path: Path, expected: list[str]) -> None:
    with serving_hub() as hub:
        hub.put_folder("someone/corpus", corpus)
        variables = hub.environment(tmp_path / "home")
        assert read("hf://datasets/someone/corpus", tmp_path / "cache", **variables) == expected
        assert fetched(tmp_path / "cache") == open_index(corpus).shards
        hub.repo("someone/corpus").private = True
        with pytest.raises(
            AssertionError, match=r"hf://datasets/someone/corpus/corpus\.json: cannot be read"
        ):
            read("hf://datasets/someone/corpus", tmp_path / "fresh", **(variables | {"HF_TOKEN": ""}))


def test_the_expected_is_what_the_files_hold(corpus: Path, expected: list[str]) -> None:
    index = open_index(corpus)
    assert expected[0] == index.count == 40
    assert expected[2] == hashlib.sha256(index.read(17)).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", expected[1])
