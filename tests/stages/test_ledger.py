"""Fingerprints notice what changed, and nothing else."""

import os
import shutil
import zipfile
from pathlib import Path

from openus.archives import Tree
from openus.select import Selected
from openus.stages.ledger import fingerprint, inputs_state


def state(root: Path) -> str:
    return inputs_state([root], {entry.path for entry in Tree([root]).entries()})


def member(path: str) -> Selected:
    return Selected(path, path, 1, "", True)


def test_an_archive_in_a_folder_is_noticed_when_it_changes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.txt").write_text("a")
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        archive.writestr("x.png", b"1")
    before = state(root)
    os.utime(root / "a.txt", (1, 1))  # a plain file counts with the chunk that reads it
    assert state(root) == before
    os.utime(root / "pictures.zip", (1, 1))
    assert state(root) != before
    alone = inputs_state([root / "pictures.zip"], ())
    os.utime(root / "pictures.zip", (2, 2))
    assert inputs_state([root / "pictures.zip"], ()) != alone


def test_moved_data_is_known_and_touched_files_are_noticed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.png").write_bytes(b"1")
    (root / "b.png").write_bytes(b"2")
    first, second = (fingerprint("s", [root], [member(name)]) for name in ("a.png", "b.png"))
    shutil.copytree(root, tmp_path / "moved")
    assert fingerprint("s", [tmp_path / "moved"], [member("a.png")]) == first
    os.utime(root / "a.png", (1, 1))
    assert fingerprint("s", [root], [member("a.png")]) != first
    assert fingerprint("s", [root], [member("b.png")]) == second
