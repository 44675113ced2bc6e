"""Publishing to a local Hub through the real client: commits, interruptions, busy servers, tokens, a full account."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openus.publish.hub import _same
from tests.helpers import licensed
from tests.helpers.hub_state import Hub
from tests.publish.conftest import Licensed, Run

TO = ("--to", "hf://ORG/lic")


def index(corpus: Licensed, to: str) -> dict[str, str]:
    """File to SHA-256 of a staged repository."""
    path = corpus.root / ".publish" / f"lic-{to}" / "index.json"
    return {name: entry["sha256"] for name, entry in json.loads(path.read_text())["files"].items()}


def held(hub: Hub, to: str) -> dict[str, str]:
    return {name: blob.sha256 for name, blob in hub.repo(f"ORG/lic-{to}").files.items()}


def test_every_class_in_a_repository_of_its_own(corpus: Licensed, hub: Hub, run: Run) -> None:
    done = run("publish", corpus.root, *TO)
    assert done.code == 0, done.err
    assert {name for kind, name in hub.repos} == {
        f"ORG/lic-{to}" for to in ("by", "by-nc", "by-nc-nd", "recipe")
    }
    for to in ("by", "by-nc", "by-nc-nd", "recipe"):
        expected = index(corpus, to)
        assert {name: digest for name, digest in held(hub, to).items() if name in expected} == expected
        assert set(held(hub, to)) == {*expected, "index.json", "SHA256SUMS"}
        assert f"{hub.url}/datasets/ORG/lic-{to}" in done.out
    sent = hub.count("^PUT ")
    again = run("publish", corpus.root, *TO)
    assert again.code == 0 and hub.count("^PUT ") == sent and len(hub.repo("ORG/lic-by").commits) == 2


def test_shards_of_an_earlier_plan_go(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.put("ORG/lic-by", "pretrain/pretrain-000009.tar", b"old")
    hub.put("ORG/lic-by", "manifest/pretrain-000009.parquet", b"old")
    hub.put("ORG/lic-by", "notes/mine.md", b"kept")
    assert run("publish", corpus.root, *TO, "--class", "by").code == 0
    names = set(hub.repo("ORG/lic-by").files)
    assert "notes/mine.md" in names and not {name for name in names if "000009" in name}


def test_a_busy_server_is_waited_for(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.part_bytes = 30000  # shards go up in parts
    hub.trouble("POST /api/repos/create", status=503)
    hub.trouble("POST .*/preupload/", status=429, headers={"Retry-After": "0"})
    hub.trouble("PUT .*/part/2", status=500)
    hub.trouble("POST .*/commit/", status=502)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert hub.count("POST /api/repos/create") == 2 and hub.count("POST .*/commit/") == 2
    assert held(hub, "by").items() >= index(corpus, "by").items()


def test_a_server_that_stays_busy(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("POST .*/commit/", status=503, times=99)
    done = run("publish", corpus.root, *TO, "--class", "by-nc")
    assert done.code == 1 and "busy (status 503)" in done.err and "run it again later" in done.err
    hub.troubles.clear()
    before = hub.count("^PUT ")
    assert run("publish", corpus.root, *TO, "--class", "by-nc").code == 0
    assert hub.count("^PUT ") == before  # all bytes were there already; only the commit was missing


def test_a_broken_connection_is_taken_up_again(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("PUT /storage/", drop=1000, after=2)
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 0, done.err
    assert held(hub, "by").items() >= index(corpus, "by").items()


def test_killed_half_way_and_resumed(corpus: Licensed, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.trouble("PUT /storage/", pause=60, after=4, times=99)
    words = [sys.executable, "-m", "openus.cli", "publish", str(corpus.root), *TO, "--workers", "0"]
    process = subprocess.Popen(
        words, env=os.environ | hub.environment(tmp_path / "home"), stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while len(hub.objects) < 4:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.troubles.clear()
    first = set(hub.objects)
    assert len(hub.repo("ORG/lic-by").commits) == 1  # nothing half-done is to be seen
    hub.asked.clear()
    done = run("publish", corpus.root, *TO)
    assert done.code == 0, done.err
    again = {asked.path.split("/")[2] for asked in hub.asked if asked.method == "PUT"}
    assert again and not first & again
    for to in ("by", "by-nc", "by-nc-nd", "recipe"):
        assert held(hub, to).items() >= index(corpus, to).items()


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_wrong_token_is_named_and_never_shown(
    corpus: Licensed, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, debug: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wrong = "hf_wrongTokenThatNobodyMaySee"
    monkeypatch.setenv("HF_TOKEN", wrong)
    done = run("publish", corpus.root, *TO, "--class", "by", *debug)
    assert done.code == 2 and "does not accept the token (it is wrong or revoked)" in done.err
    assert "hf auth login" in done.err
    everything = done.out + done.err + caplog.text
    everything += "".join(p.read_text(errors="replace") for p in corpus.root.rglob("*") if p.is_file())
    assert wrong not in everything and any(asked.token == wrong for asked in hub.asked)


def test_no_token_and_a_token_that_may_only_read(
    corpus: Licensed, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens[hub.token] = "read"
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 2 and "may not write there" in done.err and hub.token not in done.err
    monkeypatch.setenv("HF_TOKEN", "")
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 2 and "none is set" in done.err
    assert not hub.repos


def test_a_full_account(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.quota = 60000
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 1 and "no room" in done.err and "Storage limit reached" in done.err
    hub.quota = 1 << 40
    assert run("publish", corpus.root, *TO, "--class", "by").code == 0


def test_what_the_hub_holds_is_compared_with_what_was_sent(corpus: Licensed, hub: Hub, run: Run) -> None:
    hub.trouble("GET .*/tree/", status=200, body=b"[]", after=1)  # the first look is for stale files
    done = run("publish", corpus.root, *TO, "--class", "by")
    assert done.code == 1 and "are not there as they were sent" in done.err


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ((3, "a"), True),
        ((3, None), True),
        ((3, "b"), False),
        ((4, "a"), False),
        ((4, None), False),
        (None, False),
    ],
)
def test_what_is_there_is_judged_by_length_and_where_it_is_told_by_hash(
    found: tuple[int, str | None] | None, same: bool
) -> None:
    assert _same(found, {"bytes": 3, "sha256": "a"}) == same


def test_a_hub_without_xet_is_named(corpus: Licensed, hub: Hub, tmp_path: Path) -> None:
    """The client prefers Xet where it is installed, and asks this Hub in vain for it."""
    pytest.importorskip("hf_xet")
    environment = hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "0"}
    done = licensed.openus("publish", corpus.root, *TO, "--class", "by-nc", "--workers", "0", **environment)
    assert done.returncode == 1 and "set HF_HUB_DISABLE_XET=1" in done.stderr, done.stderr
    assert hub.count("GET .*/xet-write-token/") == 1 and hub.token not in done.stderr


def test_private_repositories(corpus: Licensed, hub: Hub, run: Run) -> None:
    assert run("publish", corpus.root, *TO, "--class", "recipe", "--private").code == 0
    assert hub.repo("ORG/lic-recipe").private


LOAD = """
import datasets, json, sys
rows = {}
for config, split in (("pretrain", "train"), ("bench", "heldout"), ("bench-mask", "heldout")):
    data = datasets.load_dataset("ORG/lic-by", config, split=split, streaming=True)
    rows[config] = [[s["__key__"], s["png"].size, s["json"]["source"], s["json"]["sha256"]] for s in data]
assert datasets.get_dataset_config_names("ORG/lic-by") == ["pretrain", "bench", "bench-mask"]
assert datasets.get_dataset_split_names("ORG/lic-by", "pretrain") == ["train"]
recipe = datasets.load_dataset("ORG/lic-recipe", "pretrain", split="train", streaming=True)
rows["recipe"] = [r["key"] for r in recipe]
print(json.dumps(rows))
"""


def test_datasets_streams_what_was_published(corpus: Licensed, hub: Hub, run: Run, tmp_path: Path) -> None:
    assert run("publish", corpus.root, *TO).code == 0
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, timeout=300,
        env=os.environ | hub.environment(tmp_path / "home"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {name: len(found) for name, found in rows.items()} == {
        "pretrain": 12, "bench": 12, "bench-mask": 12, "recipe": 30,
    }  # fmt: skip
    assert {row[2] for row in rows["pretrain"]} == {"open-set"} and rows["pretrain"][0][1] == [80, 64]
    assert {row[0] for row in rows["bench"]} == {row[0] for row in rows["bench-mask"]}
