"""The pages and the picture that scripts write: current, and made of what they say they are made of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from openus.catalogue import Catalogue

SCRIPTS = ("make_rebuild", "make_benchmarks", "make_house")


def make(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "docs" / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_in_the_repository_is_current(repo: Path, script: str) -> None:
    result = make(repo, script, "--check")
    assert result.returncode == 0, f"run: python docs/{script}.py\n{result.stderr}"


def test_every_source_that_wants_a_person_is_told_once_with_its_page(repo: Path) -> None:
    text = (repo / "docs" / "rebuild.md").read_text(encoding="utf-8")
    gated, by_itself = text.split("## If an open source fails")
    catalogue = Catalogue()
    for slug in catalogue.slugs:
        source = catalogue.source(slug)
        wants = all(route.host == "manual" or route.access != "open" for route in source.routes)
        assert (f"### {slug}\n" in gated) + (f"- **{slug}** (" in gated) == wants, slug
        if any(route.host == "manual" for route in source.routes) and not wants:
            assert f"- **{slug}**:" in by_itself
    assert gated.index("### bus-dataset-b") < gated.index("### echonet-dynamic") < gated.index("### cactus")
    assert "Fill in and sign the agreement for Dataset B" in gated


def test_the_page_of_benchmarks_shows_what_the_files_hold(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for script in ("make_benchmarks", "written"):
        shutil.copy(repo / "docs" / f"{script}.py", tmp_path / "docs")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "toy.py").write_text('"""Toys against toys.\n\nMore."""\n')
    kept = {
        "name": "toy", "date": "2026-11-26", "machine": "a machine", "note": "a note",
        "ratios": {"speed": 2.5}, "goals": {"speed": 3, "memory": 1}, "holds": False,
        "rows": {"ours": {"f1": {"value": 0.5, "low": 0.25, "high": 0.75}}},
        "results": [{"size": "base", "fast": True}],
    }  # fmt: skip
    (tmp_path / "benchmarks" / "results" / "toy-here.json").write_text(json.dumps(kept))
    page = tmp_path / "docs" / "benchmarks.md"
    assert make(tmp_path, "make_benchmarks", "--check").returncode == 1
    assert make(tmp_path, "make_benchmarks").returncode == 0
    text = page.read_text()
    for line in (
        "| [toy](#toy-here) | a machine | 2026-11-26 | **not reached, or not all measured** |",
        "Toys against toys.",
        "| speed | 2.5 | 3 |",
        "| memory | not measured | 1 |",
        "| ours | 0.5 [0.25, 0.75] |",
        "| base | yes |",
        "Note: a note.",
    ):
        assert line in text.splitlines()
    page.write_text(text.replace("2.5", "3.5"))
    stale = make(tmp_path, "make_benchmarks", "--check")
    assert stale.returncode == 1 and "python docs/make_benchmarks.py" in stale.stderr
    assert make(tmp_path, "make_benchmarks", "--force").returncode == 2


def test_the_house_has_every_room(repo: Path) -> None:
    picture = ET.parse(repo / "docs" / "images" / "house.svg").getroot()
    words = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    rooms = {path.name for path in (repo / "usfmae").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= words
    assert {"hosts", "archives", "decode", "clean", "dedup", "shards", "publish"} <= words
