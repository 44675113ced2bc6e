"""What this project installs: bounded on both sides, locked by hash, and no secret in what it tells."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

STUBS = {
    "pandas-stubs",
    "scipy-stubs",
    "types-pyyaml",
    "types-requests",
}  # numbered by date, used by mypy alone


@pytest.fixture(scope="module")
def requirements(repo: Path) -> list[Requirement]:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    return [Requirement(line) for line in lines if not line.startswith("openus[")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_bounded_on_both_sides(requirements: list[Requirement]) -> None:
    loose = [
        str(one) for one in requirements
        if canonical(one.name) not in STUBS and {part.operator for part in one.specifier} != {">=", "<"}
    ]  # fmt: skip
    assert not loose


def test_what_is_installed_here_lies_within_the_bounds(requirements: list[Requirement]) -> None:
    outside = []
    for one in requirements:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        if not one.specifier.contains(version):
            outside.append(f"{one}: {version}")
    assert not outside


@pytest.fixture(scope="module")
def lock(repo: Path) -> dict[str, tuple[list[Version], int]]:
    """Of each locked package its versions (one for each Python) and the number of its hashes."""
    found: dict[str, tuple[list[Version], int]] = {}
    for entry in re.split(r"(?m)^(?=[a-zA-Z])", (repo / ".ci" / "lock.txt").read_text()):
        if match := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", entry):
            versions, _ = found.get(canonical(match[1]), ([], 0))
            found[canonical(match[1])] = [*versions, Version(match[2])], entry.count("--hash=sha256:")
    return found


def test_the_lock_has_every_dependency_within_its_bounds_and_with_hashes(
    repo: Path, requirements: list[Requirement], lock: dict[str, tuple[list[Version], int]]
) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for line in project["dependencies"] + extras["dev"] + extras["test"]]
    named = {extra for one in wanted if one.name == "openus" for extra in one.extras}
    wanted += [Requirement(line) for extra in sorted(named) for line in extras[extra]]
    for one in wanted:
        if one.name == "openus":
            continue
        versions, hashes = lock[canonical(one.name)]
        assert hashes > 0, one
        assert all(one.specifier.contains(version) for version in versions), (one, versions)
    assert len(lock) > 150 and all(hashes for _, hashes in lock.values())


def test_the_lowest_releases_are_those_of_the_bounds(repo: Path, requirements: list[Requirement]) -> None:
    done = subprocess.run(
        [sys.executable, repo / ".ci" / "lowest.py", "archives"], capture_output=True, text=True
    )
    pins = dict(line.removesuffix(".*").split("==") for line in done.stdout.splitlines())
    assert "torch" in pins and "py7zr" in pins
    for one in requirements:
        if one.name in pins:
            assert one.specifier.contains(pins[one.name]), (one, pins[one.name])


def test_no_answer_about_vulnerabilities_is_not_a_clean_one(repo: Path, tmp_path: Path) -> None:
    def ask(text: str) -> tuple[int, str]:
        (tmp_path / "answer.json").write_text(text)
        done = subprocess.run(
            [sys.executable, repo / ".ci" / "audit.py", tmp_path / "answer.json"],
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    clean = {"name": "a", "version": "1", "vulns": []}
    broken = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
    unknown = {"name": "c", "skip_reason": "not found"}
    assert ask("")[0] == ask(json.dumps({"dependencies": [unknown]}))[0] == 75
    assert ask(json.dumps({"dependencies": [clean]})) == (0, "1 packages, no known vulnerability\n")
    code, said = ask(json.dumps({"dependencies": [clean, broken, unknown]}))
    assert code == 1 and "b 2: PYSEC-1, mended in 3" in said and "not asked for: c" in said
