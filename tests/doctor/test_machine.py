"""`openus doctor` on a machine: tools, packages, disk, credentials, drop folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.catalogue import Catalogue
from openus.doctor import Check, examine_machine
from openus.doctor.machine import SAMPLE_BYTES, corpus_bytes, download_bytes
from openus.manifest import Source
from tests.helpers import toys
from tests.helpers.sources import toy

CATALOGUE = Catalogue()
CORPUS = CATALOGUE.corpus("openus-46")
VARIABLES = (
    "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "GOOGLE_API_KEY", "HF_TOKEN", "ZENODO_TOKEN",
    "FIGSHARE_TOKEN", "DATAVERSE_API_TOKEN", "GIRDER_API_KEY",
)  # fmt: skip


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No credentials of the machine the tests run on."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    yield


def checks(place: Path, *sources: Source) -> dict[tuple[str, str], Check]:
    found = examine_machine(sources or list(CATALOGUE.sources()), CORPUS, place / "out", place / "cache")
    return {(check.area, check.name): check for check in found}


def test_a_missing_tool_is_named_with_who_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rar = checks(tmp_path)["tools", "rar"]
    assert rar.state == "missing" and rar.needed_by == ("fast-u-net", "thyroid-dataset")
    assert "apt install unar" in rar.hint
    assert checks(tmp_path, CATALOGUE.source("bus-bra"))["tools", "rar"].state == "optional"
    tool = tmp_path / "unrar"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert checks(tmp_path)["tools", "rar"].detail == "read with unrar"


def test_packages_name_the_sources_that_need_them(tmp_path: Path) -> None:
    found = checks(tmp_path)
    assert set(found["packages", "tables"].needed_by) == {"breast", "bus-dataset-b", "echocp"}
    assert "gist514-db" in found["packages", "hosts"].needed_by


def test_the_disk_is_compared_with_the_estimate_in_bytes(tmp_path: Path) -> None:
    bus_bra, stu = CATALOGUE.source("bus-bra"), CATALOGUE.source("stu-hospital")
    need, unknown = corpus_bytes([bus_bra, stu], CORPUS)
    assert need == 2 * (1875 * SAMPLE_BYTES["png"] + 42 * SAMPLE_BYTES["jpg"]) and not unknown
    assert download_bytes([bus_bra], tmp_path) == (133_917_740, [])
    out = checks(tmp_path, bus_bra)["disk", "OUT"]
    free = shutil.disk_usage(tmp_path).free
    assert out.state == "ok" and out.bytes_needed == 2 * 1875 * SAMPLE_BYTES["png"]
    assert out.bytes_free is not None and abs(out.bytes_free - free) < 1 << 30
    huge = toy(expected={"members": 10**12, "frames": 10**12})
    short = checks(tmp_path, huge)["disk", "OUT"]
    assert short.state == "missing" and "make room" in short.hint


def test_unknown_sizes_are_said(tmp_path: Path) -> None:
    assert corpus_bytes([toy()], CORPUS) == (0, ["toy"])
    assert "1 source is not in it" in checks(tmp_path, toy())["disk", "cache"].detail


@pytest.mark.realdata
def test_the_estimate_of_a_sample_is_that_of_a_real_shard(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = toys.run(
        [sys.executable, "-m", "openus.cli", "build", str(out), "--source", "stu-hospital", "--mirror",
         str(shared / "mirror"), "--cache", str(tmp_path / "cache"), "--workers", "0"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    expected, _ = corpus_bytes([CATALOGUE.source("stu-hospital")], CORPUS)
    assert written / 3 < expected < 3 * written, "the pictures are 128 pixels high, half of the usual"


# ── credentials ────────────────────────────────────────────────────────────────────────────────────────────


def test_credentials_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle = checks(tmp_path)["credentials", "Kaggle"]
    assert kaggle.state == "missing" and {"bp", "abdomenus"} <= set(kaggle.needed_by)
    assert "aul" not in kaggle.needed_by, "Zenodo has it, too"
    for name in VARIABLES:
        monkeypatch.setenv(name, "sesame")
    found = [check for (area, _), check in checks(tmp_path).items() if area == "credentials"]
    assert len(found) == 7 and all(check.state == "ok" for check in found)
    assert not any("sesame" in str(check) for check in found)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_credentials_in_files(tmp_path: Path) -> None:
    place = tmp_path / "kaggle" / "kaggle.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"username": "someone", "key": "sesame"}))
    place.chmod(0o600)
    kaggle = checks(tmp_path)["credentials", "Kaggle"]
    assert kaggle.state == "ok" and str(place) in kaggle.detail
    place.chmod(0o644)
    kaggle = checks(tmp_path)["credentials", "Kaggle"]
    assert kaggle.state == "attention" and "chmod 600" in kaggle.detail
    place.write_text("sesame")
    kaggle = checks(tmp_path)["credentials", "Kaggle"]
    assert kaggle.state == "attention" and "sesame" not in kaggle.detail


# ── drop folders ───────────────────────────────────────────────────────────────────────────────────────────


def test_drop_folders(tmp_path: Path) -> None:
    files = [{"name": "a.zip", "bytes": 4}, {"name": "b.zip", "bytes": 4}]
    source = toy({"host": "manual", "url": "https://example.org", "steps": ["Ask."], "files": files})
    drop = tmp_path / "cache" / "toy"

    def state() -> Check:
        return checks(tmp_path, source)["drop folders", "toy"]

    assert state().state == "missing" and "openus fetch toy" in state().detail
    drop.mkdir(parents=True)
    (drop / "a.zip.crdownload").write_bytes(b"PK")
    assert state().state == "attention" and "still being downloaded" in state().detail
    (drop / "a.zip.crdownload").rename(drop / "a.zip")
    assert state().state == "attention" and "expected 4 bytes, found 2" in state().detail
    (drop / "a.zip").write_bytes(b"PK  ")
    assert state().state == "attention" and "still missing: b.zip" in state().detail
    (drop / "b.zip").write_bytes(b"PK  ")
    assert state().state == "ok"


# ── as a user runs it ──────────────────────────────────────────────────────────────────────────────────────


def run(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return toys.run(
        [
            sys.executable,
            "-m",
            "openus.cli",
            "doctor",
            str(place / "out"),
            "--cache",
            str(place / "c"),
            *more,
        ],
        COLUMNS="100",
    )


def test_the_command_for_people_and_machines(tmp_path: Path) -> None:
    told = run(tmp_path)
    assert told.returncode == 0, told.stderr
    assert max(map(len, told.stdout.splitlines())) <= 100
    for word in ("tools", "disk", "credentials", "Kaggle", "echonet-dynamic"):
        assert word in told.stdout
    answer: dict[str, Any] = json.loads(run(tmp_path, "--json", "--source", "bus-bra").stdout)
    disk = {c["name"]: c["bytes_needed"] for c in answer["machine"] if c["area"] == "disk"}
    assert disk["cache"] == 133_917_740 and answer["sources"] == []
    assert not (tmp_path / "out").exists() and not (tmp_path / "c").exists(), "nothing is made"


def test_wrong_use(tmp_path: Path) -> None:
    wrong = run(tmp_path, "--source", "bus-bar")
    assert wrong.returncode == 2 and "did you mean 'bus-bra'" in wrong.stderr
