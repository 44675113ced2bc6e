"""The house: no modules import each other in a ring, and no room imports from its right.

Imports count at any depth of the code, so that none hides in a function; those under ``if TYPE_CHECKING`` do not.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("openus", "usfmae")

# The rooms of a package from left to right; those of one string stand side by side and know nothing of each other.
# What is named nowhere stands right of all: files at the top of a package, that use its rooms.
ROOMS = {
    "openus": (
        "errors glob", "checksum manifest", "catalogue", "estimate", "console net", "hosts", "transfer", "storage",
        "archives", "fetch", "decode", "select", "sources", "clean", "engine", "dedup", "shards", "report", "stages",
        "publish demo doctor propose", "commands", "cli", "__main__",
    ),
    "usfmae": ("stream model", "train", "tasks"),
    "usfmae.tasks": ("recipe", "data", "network", "training scores", "report", "exchange"),
}  # fmt: skip

Imports = dict[str, set[str]]
"""Module to the modules of its package that it imports."""


def imports_of(repo: Path, package: str) -> Imports:
    paths = {_name(path.relative_to(repo)): path for path in sorted((repo / package).rglob("*.py"))}
    return {
        name: {known for found in _imported(ast.parse(path.read_text())) if (known := _known(found, paths))}
        - {name}
        for name, path in paths.items()
    }


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(tree: ast.AST) -> Iterator[str]:
    """What is imported, each name with the module it is taken from."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imported(other)
        else:
            yield from _imported(node)


def _known(name: str, paths: dict[str, Path]) -> str:
    """The module that a name is, or lies in; "" for one of another package."""
    return name if name in paths else name.rpartition(".")[0] if name.rpartition(".")[0] in paths else ""


def ring(imports: Imports) -> list[str]:
    """Modules that import each other in a ring, the first of them again at the end; empty where there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def from_the_right(imports: Imports, package: str, rooms: tuple[str, ...]) -> list[str]:
    """Imports of a room of `package` from one beside it or right of it."""
    place = {room: number for number, level in enumerate(rooms) for room in level.split()}

    def room(module: str) -> str:
        return (
            module.removeprefix(f"{package}.").partition(".")[0] if module.startswith(f"{package}.") else ""
        )

    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if (here := room(module)) in place and (there := room(other)) and here != there
        if place.get(there, len(rooms)) >= place[here]
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_ring(repo: Path, package: str) -> None:
    found = ring(imports_of(repo, package))
    assert not found, " imports ".join(found)


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_from_its_right(repo: Path, package: str) -> None:
    imports = imports_of(repo, package.partition(".")[0])
    assert from_the_right(imports, package, ROOMS[package]) == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_its_place(repo: Path, package: str) -> None:
    folder = repo / package.replace(".", "/")
    named = {room for level in ROOMS[package] for room in level.split()}
    assert {path.parent.name for path in folder.glob("*/__init__.py")} <= named
    assert {
        name for name in named if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file()
    } == set()


def test_every_room_tells_its_modules(repo: Path) -> None:
    """But for rooms whose modules are called as manifests call them."""
    for init in (repo / "openus").glob("*/__init__.py"):
        told = ast.get_docstring(ast.parse(init.read_text())) or ""
        modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
        if init.parent.name not in ("hosts", "sources"):
            assert {name for name in modules if not re.search(rf"\b{name}\b", told)} == set(), (
                init.parent.name
            )


def test_the_documents_name_the_rooms_in_their_order(repo: Path) -> None:
    page = (repo / "docs/architecture.md").read_text(encoding="utf-8")
    for package in ("openus", "usfmae"):
        first = [line.split("|")[1] for line in page.splitlines() if line.startswith(f"| `{package}/")]
        told = [name for cell in first for name in re.findall(rf"`{package}/(\w+)", cell)]
        place = {room: number for number, level in enumerate(ROOMS[package]) for room in level.split()}
        assert {*told, "__main__"} >= place.keys()
        known = [place[room] for room in told if room in place]
        assert known == sorted(known), package


def test_what_hides_in_a_function_is_seen(tmp_path: Path) -> None:
    for name, text in {
        "house/left/a.py": "def late():\n    from house.right.b import b\n",
        "house/right/b.py": "import house.left.a\n\nb = 1\n",
        "house/left/c.py": "import typing\n\nif typing.TYPE_CHECKING:\n    from house.right import b\n",
        "house/top.py": "from house.right import b\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    imports = imports_of(tmp_path, "house")
    assert imports["house.left.c"] == set()
    assert imports["house.top"] == {"house.right.b"}
    assert set(ring(imports)) == {"house.left.a", "house.right.b"}
    assert from_the_right(imports, "house", ("left", "right")) == ["house.left.a imports house.right.b"]
    assert len(from_the_right(imports, "house", ("left right",))) == 2  # side by side
    assert from_the_right(imports, "house", ("right", "left")) == ["house.right.b imports house.left.a"]
