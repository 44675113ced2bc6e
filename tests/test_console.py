"""What the commands say while they work and where something is missing: plain lines in logs, one list for people."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from openus import console
from openus.catalogue import Catalogue
from openus.commands.missing import missing
from openus.errors import OfflineError, SourceError
from openus.fetch import obtain
from openus.stages.results import SourceResult
from tests.helpers import toys


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Standard error as the file of a cluster's job, and a clock that the test moves."""
    file = Console(file=io.StringIO(), highlight=False, width=80)
    monkeypatch.setattr(console, "err", file)
    return file


def lines(log: Console) -> list[str]:
    return log.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_without_a_terminal_a_line_now_and_then(log: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with console.progress(unit="files") as bar:
        bar.get_time = lambda: now[0]
        task, soon = bar.add_task("decode", total=1000), bar.add_task("pack", total=2, unit="samples")
        bar.update(soon, advance=2)
        for now[0] in range(1000):
            bar.advance(task)
    assert all(line.startswith("decode: ") and " of 1,000 files" in line for line in lines(log)), (
        "pack took no time"
    )
    assert lines(log)[0] == "decode: 11 of 1,000 files, 1.0 files/s, 0:16:29 left"
    assert lines(log)[-1].startswith("decode: 1,000 of 1,000 files, 1.0 files/s")
    assert len(lines(log)) == 4 + 7 + 1, "after 10, 20, 40, 80 s, then every two minutes, and at the end"


def test_quiet_says_nothing_at_all(log: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with console.progress(quiet=True) as bar:
        task = bar.add_task("decode", total=100)
        for now[0] in range(100):
            bar.advance(task)
    assert not lines(log)


def test_what_is_missing_is_sorted_by_who_must_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Console(file=io.StringIO(), highlight=False, width=1000)
    monkeypatch.setattr("openus.commands.missing.out", told)
    results = []
    for source in Catalogue().sources(["bus-bra", "aul", "gist514-db", "hc", "bp", "echonet-dynamic"]):
        with pytest.raises(SourceError) as raised:
            obtain(source, cache=tmp_path, offline=True)
        results.append(SourceResult(source, "pretrain", problem=raised.value))
    missing(results, tmp_path)
    text = told.file.getvalue()  # type: ignore[attr-defined]
    network, people = text.split("A person must act")
    assert "(5):" in network and all(slug in network for slug in ("bus-bra", "aul", "gist514-db", "hc", "bp"))
    assert "without --offline" in network and "not in the cache" not in network, "said once for all"
    assert "(1):" in people and "echonet-dynamic: a person must fetch" in people
    assert people.count(str(tmp_path)) == 1 and people.count("Then run the same command again") == 1


def test_a_build_of_nothing_is_json_too(tmp_path: Path) -> None:
    build = [
        "build",
        str(tmp_path / "out"),
        "--source",
        "bus-bra",
        "--offline",
        "--cache",
        str(tmp_path / "c"),
    ]
    done = toys.run([sys.executable, "-m", "openus", *build, "--json"])
    assert done.returncode == 1 and "no picture was kept" in done.stderr
    assert "not in the cache" in json.loads(done.stdout)["missing"]["bus-bra"]["reason"]


def test_where_only_the_network_lacks_nobody_need_fetch_by_hand(tmp_path: Path) -> None:
    for slug in ("gist514-db", "thyroid-dataset"):  # routes for programs first, and a way by hand
        with pytest.raises(OfflineError, match=f"{slug}: not in the cache nor in a mirror folder"):
            obtain(Catalogue().source(slug), cache=tmp_path, offline=True)
