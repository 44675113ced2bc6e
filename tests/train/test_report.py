"""What a run says of itself at its end and elsewhere: the page, the log, Weights & Biases."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openus.errors import MissingExtraError, OpenUSError
from tests.helpers.wandb_server import serving_wandb
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


def test_weights_and_biases_has_what_the_log_has(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real client, offline: a run that goes on is known again, and its steps go on; no secret is among them."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["usfmae", "pretrain", "https://host/set?X-Amz-Signature=hush"])
    run = tmp_path / "run"
    go(corpus, run, "report.wandb=ultrasound", max_steps=2)
    go(corpus, run, "report.wandb=ultrasound", max_steps=4)
    wandb.teardown()  # a process of its own writes the files
    name = (run / "wandb.id").read_text()
    sent = [_sent(path) for path in sorted((run / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))]
    steps = [[int(values["_step"]) for values in each] for each in sent]
    assert steps == [[1, 2], [3, 4]]
    for values, line in zip([*sent[0], *sent[1]], read_log(run), strict=True):
        flat = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
        flat |= {f"loss_by_source/{source}": value for source, value in line["loss_by_source"].items()}
        assert {key: value for key, value in values.items() if key[0] != "_"} == pytest.approx(flat)
    everything = b"".join(path.read_bytes() for path in (run / "wandb").rglob("*") if path.is_file())
    assert b"ultrasound" in everything and b"hush" not in everything
    out, err = capfd.readouterr()
    assert "wandb" not in out + err  # `go` is quiet


def _sent(path: Path) -> list[dict[str, Any]]:
    """What a file of the client holds of the run's history. It is a log of LevelDB's kind, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, history = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)
        part = data[place + 7 : place + 7 + size]
        place += 7 + size
        whole = part if kind in (1, 2) else whole + part  # whole, or its first piece
        if kind in (1, 4):  # whole, or its last piece
            record = Record.FromString(whole)
            if record.HasField("history"):
                items = record.history.item
                history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return history


def test_weights_and_biases_goes_on_with_a_run_it_knows(corpus: Path, tmp_path: Path, repo: Path) -> None:
    """A run that was killed goes back to its checkpoint: steps that were sent before are not sent again, nor warned of.

    When the client dies, the run does not.
    """
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    go(corpus, run, max_steps=2)
    (run / "wandb.id").write_text("known")
    settings = [part for change in [*TINY, "report.wandb=ultrasound"] for part in ("--set", change)]
    for broken, steps, sent in ((False, 6, [5, 6]), (True, 8, [])):
        with serving_wandb(step=4, broken=broken) as server:
            done = subprocess.run(
                [sys.executable, "-m", "usfmae.cli", "pretrain", str(corpus), "--recipe", "demo", "--out", str(run),
                 "--device", "cpu", "--max-steps", str(steps), *settings],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo), "WANDB_MODE": "online",
                     "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path)},
                capture_output=True, text=True, timeout=240,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"step {steps} of 18" in done.stdout and "must be monotonically" not in done.stderr
        assert ("Weights & Biases hears no more of this run" in done.stderr) == broken
        assert [line["_step"] for line in server.history] == sent or broken
    assert [line["step"] for line in read_log(run)] == list(range(1, 9))


def test_weights_and_biases_that_does_not_know_us(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb").teardown()  # it reads its environment once
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(OpenUSError, match=r"cannot begin \(No API key .*WANDB_MODE=offline"):
        go(corpus, tmp_path / "run", "report.wandb=ultrasound", max_steps=1)


def test_weights_and_biases_not_installed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"openus\[wandb\]"):
        go(corpus, tmp_path / "run", "report.wandb=ultrasound", max_steps=1)
