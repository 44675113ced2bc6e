"""`openus dedup` as a user runs it: on a folder that grows, a list, an archive, a corpus; nothing is deleted."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from openus.commands.copies import dedup
from openus.errors import CorpusError, UsageError
from openus.shards.foreign import index_shards
from tests.helpers import toys
from tests.helpers.pictures import scan

CLI = [sys.executable, "-m", "openus.cli", "dedup"]


def put(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    for seed in range(5):
        put(root / "test" / f"t{seed}.png", scan(seed))
    put(root / "web" / "crop.png", scan(0)[6:196, 5:252])
    put(
        root / "web" / "framed.jpg",
        cv2.copyMakeBorder(scan(1), 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=90),
    )
    put(root / "web" / "other.png", scan(60))
    put(root / "web" / "small.png", cv2.resize(scan(60), (150, 115), interpolation=cv2.INTER_AREA))
    shutil.copy(root / "test" / "t2.png", root / "web" / "same.png")
    (root / "web" / "cut.png").write_bytes((root / "web" / "other.png").read_bytes()[:400])
    (root / "readme.txt").write_text("about")
    return root


def found(where: Path, tmp_path: Path, **options: Any) -> list[tuple[str, str, str]]:
    """(a, b, decision of b) of all pairs, from the table that is written."""
    out = tmp_path / "pairs.csv"
    settings: dict[str, Any] = {
        "score": None, "exclude": [], "held_out": [], "index": tmp_path / "index", "out": out, "page": None,
        "workers": 0, "quiet": True, "as_json": False,
    }  # fmt: skip
    dedup(where, **settings | options)
    with out.open() as file:
        return sorted((row["name_a"], row["name_b"], row["decision_b"]) for row in csv.DictReader(file))


LEAKS = [
    ("test/t0.png", "web/crop.png", "leak"),
    ("test/t1.png", "web/framed.jpg", "leak"),
    ("test/t2.png", "web/same.png", "leak"),
]
DOUBLE = ("web/other.png", "web/small.png", "duplicate")


def test_a_folder_with_a_test_set_in_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    page = tmp_path / "page.html"
    assert found(folder, tmp_path, held_out=["test/**"], page=page) == sorted([*LEAKS, DOUBLE])
    said = capsys.readouterr().out
    assert "10 pictures: 1 exact and 3 near copies" in said and "3 others are copies of them" in said
    assert "not compared: 1 (truncated 1)" in said and "no pictures: 1" in said
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 8 and "://" not in text
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_only_new_files_are_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openus.dedup import near

    compared: list[tuple[str, ...]] = []
    look = near.compare_batch

    def counted(batch: Any) -> Any:
        compared.extend((str(a.path), str(b.path)) for a, b, _ in batch.pairs)
        return look(batch)

    monkeypatch.setattr(near, "compare_batch", counted)
    shutil.move(folder / "web", tmp_path / "web")
    assert found(folder, tmp_path) == []
    prints = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.prints")}
    shutil.move(tmp_path / "web", folder / "web")
    grown = found(folder, tmp_path)
    # No set is held out here, and the framed one has more pixels than the one it was made from.
    assert {frozenset(pair[:2]) for pair in grown} == {frozenset(pair[:2]) for pair in [*LEAKS, DOUBLE]}
    assert prints.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "index").rglob("*.prints")}.items()
    compared.clear()
    assert found(folder, tmp_path) == grown and not compared
    fresh = tmp_path / "fresh"
    assert found(folder, tmp_path, index=fresh) == grown
    put(folder / "web" / "other.png", scan(70))  # a file that changed is read again
    (folder / "test" / "t2.png").unlink()
    assert {b for _, b, _ in found(folder, tmp_path)} == {"web/crop.png", "test/t1.png"}


def test_a_list_names_files_and_what_is_held_out(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "lists" / "all.csv"
    listed.parent.mkdir()
    paths = ["../scans/web/crop.png", str(folder / "test" / "t0.png"), "../scans/web/other.png"]
    listed.write_text(
        "path,set,patient\n" + "".join(f"{p},{s},x\n" for p, s in zip(paths, ["", "test", ""], strict=True))
    )
    assert found(listed, tmp_path) == [("test/t0.png", "web/crop.png", "leak")]
    listed.write_text("path\nweb/nothing.png\n")
    with pytest.raises(UsageError, match=r"web/nothing\.png is not there, nor are 0 others"):
        found(listed, tmp_path)


def test_an_archive_and_a_built_corpus(folder: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    pairs = found(packed, tmp_path)
    assert {b.rsplit("/", 1)[1] for _, b, _ in pairs} | {a.rsplit("/", 1)[1] for a, _, _ in pairs} >= {
        "crop.png", "t0.png", "small.png", "other.png",
    }  # fmt: skip
    manifests = toys.write_manifests(tmp_path / "manifests")
    inputs = toys.write_inputs(tmp_path / "inputs", images=4, clips=1)
    again = inputs["toy-images"] / "pictures" / "near.png"
    assert cv2.imwrite(str(again), cv2.resize(toys.speckle(1), (90, 72), interpolation=cv2.INTER_AREA))
    corpus = tmp_path / "corpus"
    assert toys.run(toys.command(corpus, manifests, inputs, "--workers", "0", "--size", "96")).returncode == 0
    done = toys.run([*CLI, str(corpus), "--json", "--workers", "0"])
    assert done.returncode == 0, done.stderr
    copies = json.loads(done.stdout)["copies"]
    assert [(row["name_a"], row["name_b"]) for row in copies if row["kind"] == "near"] == [
        ("toy-images/pictures/i001.png#0", "toy-images/pictures/near.png#0")
    ]
    assert toys.run([*CLI, str(corpus), "--held-out", "x"]).returncode == 2


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "list.csv").write_text("file\na.png\n")
    with pytest.raises(UsageError, match=r"ending in \.csv or \.parquet"):
        found(tmp_path, tmp_path, out=Path("x.json"))
    with pytest.raises(UsageError, match="no file here may be a picture"):
        found(tmp_path, tmp_path)
    for option in ({"held_out": ["tset/**"]}, {"exclude": ["tset/**"]}):  # or a leak would pass for none
        with pytest.raises(UsageError, match=r"tset/\*\*: no file here is called like that"):
            found(tmp_path, tmp_path, **option)
    with pytest.raises(UsageError, match="expected a column 'path'"):
        found(tmp_path / "list.csv", tmp_path)
    done = toys.run([*CLI, "nothing"])
    assert (
        done.returncode == 2 and "there is no such folder" in done.stderr and "Traceback" not in done.stderr
    )


def test_shards_of_others_are_searched_where_they_lie(tmp_path: Path) -> None:
    """An index holds no shards; theirs may have the same name in several folders."""
    for folder, seeds in (("a", (0, 1)), ("b", (0, 2))):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "set.tar", "w") as tar:
            for seed in seeds:
                picture = tmp_path / "p.png"
                put(picture, scan(seed))
                tar.add(picture, f"{folder}{seed}.png")
    tars = [str(tmp_path / folder / "set.tar") for folder in "ab"]
    index_shards(tars, tmp_path / "index")
    ((first, second, said),) = found(tmp_path / "index", tmp_path, index=tmp_path / "work")
    assert ({first, second}, said) == ({"foreign/a0.png#0", "foreign/b0.png#0"}, "duplicate")
    (tmp_path / "b" / "set.tar").unlink()
    with pytest.raises(CorpusError, match=r"b/set\.tar: missing; give its place anew with 'openus index'"):
        found(tmp_path / "index", tmp_path, index=tmp_path / "work")
