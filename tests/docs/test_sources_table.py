"""The page docs/sources.md: made by its script, current, a row per source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "docs" / "make_sources_table.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_page_in_the_repository_is_current(repo: Path) -> None:
    result = make(repo, "--check")
    assert result.returncode == 0, result.stderr


def test_a_missing_or_edited_page_is_noticed_and_made_anew(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for script in ("make_sources_table", "written"):
        shutil.copy(repo / "docs" / f"{script}.py", tmp_path / "docs")
    page = tmp_path / "docs" / "sources.md"
    assert make(tmp_path, "--check").returncode == 1
    assert make(tmp_path).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert text == (repo / "docs" / "sources.md").read_text(encoding="utf-8")
    page.write_text(text.replace("| 42 |", "| 43 |"), encoding="utf-8")
    stale = make(tmp_path, "--check")
    assert stale.returncode == 1
    assert "python docs/make_sources_table.py" in stale.stderr
    assert make(tmp_path, "--force").returncode == 2


def test_every_source_has_its_row_and_every_row_its_columns(repo: Path) -> None:
    lines = (repo / "docs" / "sources.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 47))
    assert {row.count(" | ") for row in rows} == {9}
    by_slug = {
        row.split("[")[1].split("]")[0]: [cell.strip() for cell in row.split("|")[1:-1]] for row in rows
    }
    assert by_slug["stu-hospital"][3:8] == ["GitHub", "open", "all", "nothing", "recipe-only"]
    assert by_slug["thyroid-us-cineclip"][4:6] == ["registration", "all from the drop folder on"]
    assert by_slug["bp"][6] == "gets a Kaggle account and accepts the rules"
