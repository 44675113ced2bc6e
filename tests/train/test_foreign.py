"""Pretraining on tars that others made, without a manifest: streamed, and the weaker promises said aloud."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openus.errors import UsageError
from tests.helpers.corpus import encode, picture
from tests.train.conftest import TINY
from usfmae.train.data import Reading
from usfmae.train.log import read_log
from usfmae.train.loop import pretrain
from usfmae.train.recipe import load_recipe


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two tars of ten pictures, as a brace address."""
    import webdataset as wds

    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    with wds.ShardWriter(f"{folder}/set-%02d.tar", maxcount=10, verbose=0) as sink:
        for number in range(20):
            sink.write({"__key__": f"{number:03d}", "jpg": encode(picture(rng, 48, 60, False)[0], "jpg")})
    return f"{folder}/set-{{00..01}}.tar"


def test_they_train_and_resume_and_the_weaker_promises_are_said(tars: str, tmp_path: Path) -> None:
    settings = [part for change in [*TINY, "report.pictures=4"] for part in ("--set", change)]
    command = [sys.executable, "-m", "usfmae.cli", "pretrain", tars, "--recipe", "demo", "--out", str(tmp_path / "run"),
               "--device", "cpu", "--set", "data.mixture.samples=20", *settings]  # fmt: skip
    first = subprocess.run(
        [*command, "--max-steps", "4"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "have no manifest" in first.stderr and "Run 'openus index'" in first.stderr
    assert "an epoch is 3 steps" in first.stderr and "step 4 of 9" in first.stdout
    subprocess.run([*command, "--workers", "1"], capture_output=True, check=True, timeout=120)
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 10)) and lines[-1]["epoch"] == 3
    assert list(lines[0]["loss_by_source"]) == ["foreign"]


@pytest.mark.parametrize(
    ("changes", "reading", "message"),
    [
        ([], Reading(), "say how many an epoch is to draw"),
        (["data.mixture.samples=20", "data.mixture.cap=0.5"], Reading(), "weighs sources"),
        (["data.mixture.samples=20", "report.probe_set=bus-bra"], Reading(), "have none, leave it out"),
        (["data.mixture.samples=20"], Reading(decoded="memory"), "run 'openus index'"),
    ],
)
def test_what_needs_a_manifest_is_refused(
    tars: str, tmp_path: Path, changes: list[str], reading: Reading, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pretrain(
            tars, load_recipe("demo", [*TINY, *changes]), tmp_path / "run", device="cpu", reading=reading
        )
