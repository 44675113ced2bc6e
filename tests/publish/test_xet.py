"""Publishing through a Xet store, as the Hub's client does where it may: chunks, xorbs, shards, checked one by one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from openus.publish.hub import send
from tests.helpers.hub_state import Hub
from tests.helpers.xet import BadUploadError, Xorb
from tests.publish.conftest import Licensed, Run
from tests.publish.test_hub import LOAD, TO, held, index

xet_client = pytest.importorskip("huggingface_hub.utils._xet")
pytest.importorskip("hf_xet")

CLASSES = ("by", "by-nc", "by-nc-nd", "recipe")
BRIEF = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The local Hub, offering Xet; the client of this process begins a session of its own, with short waits."""
    hub.offers_xet = True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    for name, value in BRIEF.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(xet_client, "_GLOBAL_XET_HOLDER", xet_client.XetSessionHolder())
    yield hub
    xet_client.abort_xet_session()


def sent(hub: Hub) -> int:
    return hub.count("^PUT /cas/sent/") + hub.count("^POST /cas/v1/xorbs/")


def whole(hub: Hub, corpus: Licensed, *classes: str) -> bool:
    return all(held(hub, to).items() >= index(corpus, to).items() for to in classes)


FETCH = """
import json, sys
from hashlib import sha256
from pathlib import Path
from huggingface_hub import snapshot_download
found = Path(snapshot_download(sys.argv[1], repo_type="dataset"))
files = [path for path in found.rglob("*") if path.is_file()]
print(json.dumps({path.relative_to(found).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}))
"""


def python(code: str, hub: Hub, home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300,
        env=os.environ | hub.environment(home),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_goes_up_in_chunks_comes_down_the_same(
    corpus: Licensed, hub: Hub, run: Run, tmp_path: Path
) -> None:
    done = run("publish", corpus.root, *TO)
    assert done.code == 0, done.err
    assert whole(hub, corpus, *CLASSES) and not hub.xet.refused
    large = [name for name in index(corpus, "by") if name.endswith((".tar", ".parquet"))]
    assert len(large) > 3 and {index(corpus, "by")[name] for name in large} <= set(hub.objects)
    assert hub.count("^PUT /cas/sent/") > 0
    assert hub.count("^PUT /storage/") == 0 and hub.count("POST .*/objects/batch") == 0
    before = sent(hub)
    assert run("publish", corpus.root, *TO).code == 0 and sent(hub) == before

    fetched = json.loads(python(FETCH, hub, tmp_path / "home", "ORG/lic-by"))
    assert fetched.items() >= index(corpus, "by").items()
    assert hub.count("^GET /cas/fetch/") > 0 and hub.count("^GET /storage/") == 0
    rows = json.loads(python(LOAD, hub, tmp_path / "other"))
    assert [len(rows[name]) for name in ("pretrain", "bench", "recipe")] == [12, 12, 30]
    assert not any(asked.token == hub.token for asked in hub.asked if asked.path.startswith("/cas/"))


def test_a_store_that_gives_no_addresses_takes_xorbs_itself(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.xet.gives_grants = False
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert whole(hub, corpus, "by") and hub.count("^POST /cas/v1/xorbs/") > 0


def test_chunks_of_every_kind_and_a_store_that_checks_them(hub: Hub, tmp_path: Path) -> None:
    contents = {
        "noise.tar": np.random.default_rng(0).bytes(700_000),  # as it is, in several chunks
        "numbers.bin": np.arange(90_001, dtype=np.float32).tobytes(),  # every fourth byte together, then LZ4
        "words.npy": b"hello " * 50_000,  # LZ4
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    send(
        tmp_path,
        {name: {"bytes": len(contents[name]), "sha256": digest} for name, digest in digests.items()},
        "ORG/set",
        quiet=True,
    )
    assert {name: hub.objects[digest] for name, digest in digests.items()} == contents
    (xorb,) = hub.xet.xorbs.values()
    assert {xorb.data[start + 4] for start in xorb.starts[:-1]} == {0, 1, 2} and len(xorb.chunks) > 5

    for at in (100, xorb.starts[-2] + 5, xorb.starts[-1] - 1):  # in a chunk, in a header, at the end
        damaged = bytearray(xorb.data)
        damaged[at] ^= 1
        assert name_of(bytes(damaged)) not in hub.xet.xorbs


def name_of(data: bytes) -> str:
    try:
        return Xorb.read(data).name()
    except (BadUploadError, RuntimeError) as error:  # RuntimeError: LZ4's
        return str(error)


def test_a_busy_store_is_waited_for(corpus: Licensed, hub: Hub, run: Run) -> None:
    for pattern, status in {
        "POST /cas/v1/xorb-grants/": 429,
        "PUT /cas/sent/": 503,
        "POST /cas/v1/xorb-commits/": 500,
        "POST /cas/v2/shards": 502,
        "GET .*/xet-write-token/": 503,
    }.items():
        hub.trouble(pattern, status=status, headers={"Retry-After": "0"})
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert whole(hub, corpus, "by") and not hub.xet.refused
    assert all(trouble.times == 0 for trouble in hub.troubles)


def test_a_store_that_stays_busy(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("POST /cas/v2/shards", status=503, times=999)
    done = run("publish", corpus.root, *TO, "--class", "by-nc")
    assert done.code == 1 and "busy (status 503)" in done.err and "run it again later" in done.err
    hub.troubles.clear()
    before = sent(hub)
    assert run("publish", corpus.root, *TO, "--class", "by-nc").code == 0
    assert whole(hub, corpus, "by-nc") and sent(hub) - before <= 1


def test_a_broken_connection_to_the_store(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("PUT /cas/sent/", drop=1000)
    hub.trouble("POST /cas/v2/shards", drop=10)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert whole(hub, corpus, "by") and not hub.xet.refused


def test_a_token_that_ends_on_the_way(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.xet.lifetime = 1  # so that it has ended, or is about to, whenever the client looks
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert whole(hub, corpus, "by") and len(hub.xet.granted) > 2


def test_a_token_that_the_store_no_longer_takes(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("POST /cas/v2/shards", status=401)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert whole(hub, corpus, "by") and len(hub.xet.granted) > 1


def test_a_store_and_a_hub_that_disagree_about_tokens(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("POST /cas/v2/shards", status=401, times=99)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 1 and "Xet store does not accept the tokens" in done.err
    assert not any(token in done.err for token in (hub.token, *hub.xet.granted))
    hub.troubles.clear()
    hub.trouble("GET .*/xet-write-token/", status=401, body=b'{"error": "Invalid credentials"}', times=99)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 2 and "does not accept the token (it is wrong or revoked)" in done.err


def test_killed_half_way_and_resumed(corpus: Licensed, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.trouble("POST /cas/v2/shards", pause=60, after=1, times=99)
    words = [sys.executable, "-m", "openus.cli", "publish", str(corpus.root), *TO, "--workers", "0"]
    process = subprocess.Popen(
        words, env=os.environ | hub.environment(tmp_path / "home"), stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while hub.count("POST /cas/v2/shards") < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.troubles.clear()
    assert len(hub.repo("ORG/lic-by").commits) == 2 and len(hub.repo("ORG/lic-by-nc").commits) == 1
    before = sent(hub)
    done = run("publish", corpus.root, *TO)
    assert done.code == 0, done.err
    assert whole(hub, corpus, *CLASSES) and not hub.xet.refused
    assert len(hub.repo("ORG/lic-by").commits) == 2
    assert sent(hub) - before == 3  # one for each class that was not whole
