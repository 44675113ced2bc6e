"""`benchmarks/evidence.py` from a real corpus to its table, at toy size: every row, and on again after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.realdata
@pytest.mark.timeout(3600)
def test_the_evidence_comes_to_its_table(repo: Path, shared: Path, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = subprocess.run([sys.executable, *map(str, words)], cwd=repo, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    corpus, out = tmp_path / "corpus", tmp_path / "out"
    run(
        "cli.py", "openus", "build", corpus, "--corpus", "benchmarks/evidence/corpus.yaml",
        "--cache", tmp_path / "cache", "--frames", "covid-blues=60",
        "--mirror", shared / "mirror", "--local", f"bus-bra={shared / 'data/bus-bra'}",
    )  # fmt: skip

    def weights() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}

    trained: list[dict[Path, int]] = []
    for _ in range(2):
        said = run("benchmarks/evidence.py", corpus, out, "--tiny", "--minutes", 60)
        line = json.loads(said.strip().splitlines()[-1])
        assert line["rows"] == ["focus", "mae", "scratch", "resnet18"] and not line["failed"]
        trained.append(weights())
    assert trained[0] and trained[1] == trained[0]  # the second time, nothing is trained again
    assert "5 folds, 1 seed:" in (out / "table/table.md").read_text()
    for row in ("mae", "scratch"):
        assert json.loads((out / f"probe-{row}/probe.json").read_text())["notes"] == []
