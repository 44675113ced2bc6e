"""The project as a whole: what the wheel installs, what imports what, and that its papers tell the truth."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import openus
from tests.helpers import pages

PACKAGES = ("openus", "usfmae")
HEAVY = (
    "torch",
    "pandas",
    "pyarrow",
    "cv2",
    "scipy",
    "av",
    "SimpleITK",
    "pydicom",
    "matplotlib",
    "timm",
    "sklearn",
)


def _run(*command: str | Path, cwd: Path, path: Path | None = None, timeout: float = 120) -> str:
    """Standard output of a command that must succeed, run without the variables that lead back to this checkout."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    if path is not None:
        kept["PATH"] = f"{path}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def _modules(repo: Path) -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((repo / package).rglob("*.py")):
            yield package, path


# ── what the wheel installs ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as an index would have it built."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, repo, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, and borrows only its dependencies from this one.

    A path in a .pth file is searched after the environment's own packages, and the .pth files in that folder
    (an editable installation of this checkout) are not read.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    _run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home
    )
    site = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return home / "bin"


def test_wheel_holds_two_packages_and_the_manifests(wheel: Path, repo: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = f"openus-{openus.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, info}
    manifests = {str(path.relative_to(repo)) for path in (repo / "manifests").rglob("*.yaml")}
    assert {f"openus/{name}" for name in manifests} == {
        name for name in names if name.startswith("openus/manifests/")
    }
    recipes = {str(path.relative_to(repo)) for path in (repo / "usfmae").rglob("*.yaml")}
    assert recipes <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert f"{info}/licenses/LICENSE" in names


def test_installed_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        where = _run(installed / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
        assert Path(where.strip()).is_relative_to(installed.parent)
    missing = (
        "import importlib.util as u; print([n for n in ('cli', 'manifests', 'tests') if u.find_spec(n)])"
    )
    assert _run(installed / "python", "-c", missing, cwd=tmp_path).strip() == "[]"


@pytest.mark.parametrize("command", ["openus", "usfmae"])
def test_installed_command_gives_help_and_version(installed: Path, tmp_path: Path, command: str) -> None:
    assert "Usage" in _run(installed / command, "--help", cwd=tmp_path)
    assert _run(installed / command, "--version", cwd=tmp_path).strip() == openus.__version__


def test_installed_openus_finds_its_manifests(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(_run(installed / "openus", "sources", "--json", cwd=tmp_path))
    shown = json.loads(_run(installed / "openus", "show", "bus-bra", "--json", cwd=tmp_path))
    assert "bus-bra" in json.dumps(listed)
    assert "10.1002/mp.16812" in json.dumps(shown)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_wheel_with_its_own_dependencies(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", with_pip=True, symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", wheel], check=True, env=environment, timeout=1800
    )
    (tmp_path / "empty").mkdir()
    for command in (
        ["openus", "show", "bus-bra"],
        ["usfmae", "--help"],
        ["openus", "build", "--demo", "corpus", "-q"],
    ):
        _run(python.parent / command[0], *command[1:], cwd=tmp_path / "empty", timeout=300)


# ── what imports what ──────────────────────────────────────────────────────────────────────────────────────


def _imports(path: Path) -> set[str]:
    """Top-level names of all modules a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_openus_never_imports_usfmae_or_torch(repo: Path) -> None:
    wrong = {
        str(path.relative_to(repo)): found
        for package, path in _modules(repo)
        if package == "openus" and (found := _imports(path) & {"usfmae", "torch", "torchvision", "timm"})
    }
    assert wrong == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_help_imports_nothing_heavy(repo: Path, package: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['{package}', '--help']\n"
        f"from {package}.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert _run(sys.executable, "-c", code, cwd=repo).splitlines()[-1] == "heavy: []"


def test_both_commands_run_from_a_checkout(repo: Path) -> None:
    for command in PACKAGES:
        assert "Usage" in _run(sys.executable, "cli.py", command, "--help", cwd=repo)


# ── house rules ────────────────────────────────────────────────────────────────────────────────────────────


def test_no_file_is_too_long_to_read(repo: Path) -> None:
    lengths = {str(path.relative_to(repo)): len(path.read_text().splitlines()) for _, path in _modules(repo)}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_nothing_points_at_a_machine_or_a_package_index(repo: Path) -> None:
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout: nobody can say which files belong to the project")
    # Put together from halves, so that this file does not find itself.
    words = [
        "/wo" + "rk/",
        "/ro" + "ot/",
        "/home/" + r"\w",
        "/Users/" + r"\w",
        "py" + "pi.org",
        "python" + "hosted",
    ]
    found = subprocess.run(["git", "grep", "-nIE", "|".join(words)], cwd=repo, capture_output=True, text=True)
    assert found.stdout == ""
    assert found.returncode == 1  # git's way to say that nothing was found


# ── papers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_version_is_the_same_everywhere(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert project["version"] == openus.__version__ == citation["version"]
    assert f"## {openus.__version__}" in (repo / "CHANGELOG.md").read_text()
    assert citation["license"] == project["license"]


def test_citation_has_the_fields_the_format_requires(repo: Path) -> None:
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"


def _documents(repo: Path) -> list[Path]:
    return [
        repo / "README.md",
        repo / "CONTRIBUTING.md",
        *sorted((repo / "docs").glob("*.md")),
        repo / "docs/demo.sh",
    ]


def _commands(document: Path) -> Iterator[list[str]]:
    """Every call of openus or usfmae in the code blocks of a document, as words."""
    if document.suffix == ".sh":
        texts = [document.read_text()]
    else:
        texts = [block.text for block in pages.blocks(document) if block.language in ("", "sh", "console")]
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?:^|;|&&|\brun |\$ )\s*((?:openus|usfmae) [^;&]*)", line):
                yield shlex.split(call, comments=True)


def test_documents_name_only_commands_and_options_that_exist(repo: Path) -> None:
    import typer

    from openus.cli import app as openus_app
    from usfmae.cli import app as usfmae_app

    commands = {"openus": typer.main.get_command(openus_app), "usfmae": typer.main.get_command(usfmae_app)}
    seen = 0
    for document in _documents(repo):
        for words in _commands(document):
            group = commands[words[0]].commands  # type: ignore[attr-defined]
            assert words[1] in group, f"{document.name}: there is no '{' '.join(words[:2])}'"
            known = {
                option for item in group[words[1]].params for option in (*item.opts, *item.secondary_opts)
            }
            given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
            assert given <= {*known, "--help"}, f"{document.name}: {' '.join(words)}: unknown {given - known}"
            seen += 1
    assert seen > 60


def test_readme_names_every_command(repo: Path) -> None:
    import typer

    from openus.cli import app as openus_app
    from usfmae.cli import app as usfmae_app

    text = (repo / "README.md").read_text()
    for name, application in (("openus", openus_app), ("usfmae", usfmae_app)):
        commands = typer.main.get_command(application).commands  # type: ignore[attr-defined]
        assert [command for command in commands if f"| `{name} {command}" not in text] == []


def test_documents_link_only_to_files_that_exist(repo: Path) -> None:
    for document in _documents(repo):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (
                f"{document.name} links to {target}, which is not there"
            )
