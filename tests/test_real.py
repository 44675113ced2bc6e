"""Real ultrasound through the whole path: covid-blues, stu-hospital and bus-bra, where they lie beside the checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from openus.shards.stats import read_rows
from tests.helpers import toys

pytestmark = pytest.mark.realdata

CLI = [sys.executable, "-m", "openus.cli"]


def command(out: Path, shared: Path, *more: str) -> list[str]:
    sources = [part for slug in ("covid-blues", "stu-hospital", "bus-bra") for part in ("--source", slug)]
    return [
        *CLI, "build", str(out), "--corpus", "openus-46", *sources, "--mirror", str(shared / "mirror"),
        "--local", f"bus-bra={shared / 'data' / 'bus-bra'}", "--cache", str(out.parent / "cache"), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def built(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "corpus"
    done = toys.run(command(out, shared, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    return out


def test_every_frame_is_accounted_for(built: Path) -> None:
    sources = json.loads((built / "corpus.json").read_text())["sources"]
    blues = sources["covid-blues"]
    assert blues["members"]["selected"] == 362
    assert blues["frames"]["announced"] == blues["frames"]["decoded"] == 31_746
    # The two near-black first frames of 30 clips; the 52 exact repeats of the dossier are among them.
    assert blues["rejected"] == {"dark": 60}
    assert blues["frames"]["kept"] + blues["frames"]["rejected"] == 31_746
    assert sources["bus-bra"]["frames"]["kept"] == 1875
    assert sources["stu-hospital"]["frames"]["kept"] == 42
    assert [entry["notes"] for entry in sources.values()] == [[], [], []]


def test_the_benchmark_is_held_out(built: Path) -> None:
    rows = read_rows(built, ["set", "source"])
    assert Counter(zip(rows["set"].to_pylist(), rows["source"].to_pylist(), strict=True)) == {
        ("pretrain", "covid-blues"): 31_686, ("pretrain", "stu-hospital"): 42, ("bus-bra", "bus-bra"): 1875,
    }  # fmt: skip


def test_labels_patients_and_folds(built: Path) -> None:
    rows = read_rows(built, ["source", "labels", "patient", "split"]).to_pylist()
    bench = [row for row in rows if row["source"] == "bus-bra"]
    assert Counter(dict(row["labels"])["pathology"] for row in bench) == {"benign": 1268, "malignant": 607}
    assert len({row["patient"] for row in bench}) == 1064
    assert Counter(row["split"] for row in bench) == {
        "fold1": 376,
        "fold2": 385,
        "fold3": 366,
        "fold4": 365,
        "fold5": 383,
    }
    assert len({row["patient"] for row in rows if row["source"] == "covid-blues"}) == 63


def test_verify_agrees(built: Path) -> None:
    done = toys.run([*CLI, "verify", str(built), "--deep"])
    assert done.returncode == 0, done.stdout
    assert "every input is accounted for" in done.stdout


def test_others_read_the_shards(built: Path, tmp_path: Path) -> None:
    import datasets
    import webdataset

    last = len(list((built / "pretrain").glob("*.tar"))) - 1
    url = f"{built}/pretrain/pretrain-{{000000..{last:06d}}}.tar"
    samples = webdataset.WebDataset(url, shardshuffle=False).decode("l8")
    keys, shapes = set(), set()
    for sample in samples:
        keys.add(sample["__key__"])
        shapes.add(sample["jpg"].shape)
        assert sample["json"]["source"] in ("covid-blues", "stu-hospital")
    assert len(keys) == 31_728
    assert shapes == {(256, 256), (128, 128)}
    bench = str(built / "bus-bra" / "bus-bra-000000.tar")
    loaded = datasets.load_dataset("webdataset", data_files=bench, split="train", cache_dir=str(tmp_path))
    assert len(loaded) == 1875
    assert {"png", "json"} <= set(loaded.column_names)
    assert loaded[0]["png"].mode == "L"
    assert loaded[0]["json"]["set"] == "bus-bra"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_one_worker_and_three_kills_give_the_same_bytes(built: Path, shared: Path, tmp_path: Path) -> None:
    one = toys.run(command(tmp_path / "one", shared, "--workers", "1"))
    assert one.returncode == 0, one.stderr
    assert toys.digests(tmp_path / "one") == toys.digests(built)
    out = tmp_path / "killed"
    for moment in (
        "sources/covid-blues/000003-*.parquet",
        "sources/bus-bra/000005-*.parquet",
        "pack/pretrain-000000.json",
    ):
        process = subprocess.Popen(
            command(out, shared, "--workers", "2"), stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not list((out / ".work").glob(moment)):
            time.sleep(0.01)
        assert process.poll() is None, f"the build ended before {moment}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert toys.run(command(out, shared, "--workers", "2")).returncode == 0
    assert toys.digests(out) == toys.digests(built)


@pytest.mark.long
def test_memory_stays_below_a_gibibyte_a_worker(shared: Path, tmp_path: Path) -> None:
    done = toys.run(["/usr/bin/time", "-v", *command(tmp_path / "out", shared, "--workers", "0")])
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    assert peak is not None and int(peak[1]) < 1 << 20
