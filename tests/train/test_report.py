"""What a run says of itself at its end and elsewhere: the page, the log, Weights & Biases."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from openus.errors import MissingExtraError
from tests.train.conftest import TINY
from usfmae.train.log import read_log
from usfmae.train.loop import pretrain
from usfmae.train.recipe import load_recipe
from usfmae.train.report import write_report


def go(corpus: Path, out: Path, *changes: str, **options: Any) -> None:
    recipe = load_recipe("demo", [*TINY, *changes])
    pretrain(corpus, recipe, out, device="cpu", quiet=True, **options)


def test_the_page_tells_what_the_run_folder_holds(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    probe = ["report.probe_set=bus-bra", "report.probe_label=pathology"]
    go(corpus, run, "report.pictures=2", "report.figure=true", *probe)
    page = (run / "report.html").read_text()
    lines = [line for line in read_log(run) if "loss" in line]
    assert f"{lines[-1]['loss']:.4f}" in page and f"{lines[0]['loss']:.4f}" in page
    assert "step 18, epoch 3 of 3" in page and "1 x CPU" in page and "44 images of set pretrain" in page
    assert page.count("data:image/png;base64,iVBOR") == 2  # the curves and the newest grid
    assert "probe_label: pathology" in page and len(re.findall(r"<td>\d</td><td>[01]\.\d{3}", page)) == 3
    assert not re.search(r"(src|href)=.?https?:", page)  # it needs no network
    assert "Out of the ordinary" not in page and "<tr><th>bad samples</th><td>none</td></tr>" in page


def test_words_of_others_cannot_act_in_the_page(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(corpus, run, max_steps=2)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 2, "event": "<script>alert(1)</script>"}) + "\n")
    page = write_report(run).read_text()
    assert "&lt;script&gt;" in page and "<script>" not in page and "Out of the ordinary" in page


def test_every_line_has_speed_arithmetic_and_memory(corpus: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "run", max_steps=3)
    for line in read_log(tmp_path / "run"):
        assert line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1
        assert 0 < line["tflops"] < 10 and 0.05 < line["memory_gib"] < 50 and line["bad_samples"] == 0
        assert "mfu" not in line  # nobody knows the peak of this CPU


def test_weights_and_biases_without_a_network(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client, offline: a run that goes on is known again."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    go(corpus, run, "report.wandb=ultrasound", max_steps=2)
    go(corpus, run, "report.wandb=ultrasound", max_steps=4)
    name = (run / "wandb.id").read_text()
    kept = sorted((run / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    deadline = time.monotonic() + 30  # its own process writes them, and may still be at it
    while not all(b"loss_by_source/covid-blues" in path.read_bytes() for path in kept):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert kept


def test_weights_and_biases_not_installed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"openus\[wandb\]"):
        go(corpus, tmp_path / "run", "report.wandb=ultrasound", max_steps=1)
