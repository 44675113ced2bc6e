"""The hash of the code that makes samples sees every file that can change one, and no other."""

import shutil
from pathlib import Path

import openus
from openus.engine.code import _CODE, _hash_of, code_version
from tests.test_house import imports_of

# What a chunk imports, and which cannot change its result unseen: settings and members are in the chunk's name.
HARMLESS = {"openus.errors", "openus.manifest", "openus.select.selection", "openus.stages.heap"}


def test_all_that_a_chunk_imports_counts(repo: Path) -> None:
    imports, seen, waiting = imports_of(repo, "openus"), set[str](), ["openus.stages.chunks"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports[module]
    places = {module: f"{module.removeprefix('openus.').replace('.', '/')}.py" for module in seen}
    packages = {module for module in seen if (repo / module.replace(".", "/")).is_dir()}
    unseen = {
        module
        for module, place in places.items()
        if not any(place == name or place.startswith(f"{name}/") for name in _CODE)
    }
    assert unseen - packages == HARMLESS


def test_a_change_of_any_of_it_is_another_version(tmp_path: Path) -> None:
    root = Path(openus.__file__).parent
    for name in _CODE:  # each is there, and is read
        copied = shutil.copytree if (root / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copied(root / name, tmp_path / name)
    assert _hash_of(tmp_path) == code_version()
    for name in _CODE:
        path = next((tmp_path / name).rglob("*.py"), tmp_path / name)
        text = path.read_text()
        path.write_text(f"{text}\n")
        assert _hash_of(tmp_path) != code_version(), name
        path.write_text(text)
