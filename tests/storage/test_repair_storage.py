"""openus repair where the corpus lies in object storage: the same bytes again, and only what was damaged is sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openus.catalogue import Catalogue
from openus.engine.local import LocalEngine
from openus.errors import CorpusError, SourceError
from openus.stages.build import BuildOptions, build
from openus.stages.repair import Repair, repair
from openus.storage import claim
from openus.storage.bucket import Bucket
from tests.helpers import toys
from tests.helpers.storage import s3

URL = "s3://corpora/toys"
Damage = Callable[[Any], object]


@pytest.fixture(scope="module")
def storage() -> Iterator[Any]:
    with s3() as system:
        yield system


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    toys.write_manifests(folder / "manifests")
    toys.write_inputs(folder / "inputs", images=12, clips=2)
    return folder


@pytest.fixture(scope="module")
def whole(storage: Any, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objects of a corpus that was built in storage, in a folder."""
    folder = tmp_path_factory.mktemp("whole")
    catalogue, home = Catalogue(inputs / "manifests"), Bucket(URL, folder / "scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claim, "BEAT", 0.2)
        build(home.folder, catalogue.corpus("toys"), catalogue, options(inputs), engine=LocalEngine(0, home))
    storage.get(URL, str(folder / "out"), recursive=True)
    return folder / "out"


@pytest.fixture(autouse=True)
def again(storage: Any, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus whole again before each test."""
    monkeypatch.setattr(claim, "BEAT", 0.2)
    storage.rm(URL, recursive=True)
    files = [path for path in whole.rglob("*") if path.is_file()]
    storage.put([str(path) for path in files], [f"{URL}/{path.relative_to(whole)}" for path in files])


def options(inputs: Path, *without: str) -> BuildOptions:
    folders = {"toy-images": "images", "toy-clips": "clips", "toy-bench": "bench"}
    local = {slug: inputs / "inputs" / name for slug, name in folders.items() if slug not in without}
    return BuildOptions(cache=inputs / "cache", local=local)


def mend(inputs: Path, scratch: Path, given: BuildOptions, **more: Any) -> Repair:
    home = Bucket(URL, scratch)
    return repair(home.folder, Catalogue(inputs / "manifests"), given, home=home, **more)


def flip(system: Any, name: str, at: int = -300) -> None:
    data = bytearray(system.cat_file(f"{URL}/{name}"))
    data[at % len(data)] ^= 1
    system.pipe_file(f"{URL}/{name}", bytes(data))


def objects(system: Any) -> dict[str, tuple[str, Any]]:
    found = system.find(URL, detail=True)
    return {name.split("/", 2)[2]: (facts["ETag"], facts["LastModified"]) for name, facts in found.items()}


def same(system: Any, whole: Path, folder: Path) -> bool:
    system.get(URL, str(folder), recursive=True)
    return toys.digests(folder) == toys.digests(whole)


def chunk(system: Any, slug: str, suffix: str) -> str:
    name = sorted(system.glob(f"{URL}/.work/sources/{slug}/*{suffix}"))[0]
    return str(name).split("/", 2)[2]


def test_from_the_work_folder_without_any_source(
    storage: Any, inputs: Path, whole: Path, tmp_path: Path
) -> None:
    flip(storage, "pretrain/pretrain-000000.tar", 3000)
    flip(storage, "corpus.json")
    lost = ("manifest/bench-000000.parquet", "manifest/duplicates.parquet", "README.md", "report.html")
    storage.rm([f"{URL}/{name}" for name in lost])
    nothing = BuildOptions(cache=tmp_path / "cache")
    told = mend(inputs, tmp_path / "scratch", nothing, dry_run=True)
    assert {damage.file for damage in told.damaged} >= {"corpus.json", "README.md"} and not told.mended
    damaged = objects(storage)
    found = mend(inputs, tmp_path / "scratch", nothing)
    assert {damage.file for damage in found.damaged} == {
        "pretrain/pretrain-000000.tar", "corpus.json", *lost,
    }  # fmt: skip
    assert not found.left and not found.redone
    assert same(storage, whole, tmp_path / "got")
    after = objects(storage)
    changed = {name for name in after if after[name] != damaged.get(name)}
    assert {Path(name).stem for name in changed} <= {
        "pretrain-000000", "bench-000000", "corpus", "duplicates", "README", "report",
    }  # fmt: skip
    assert f"{URL}/.work/claim.json" not in storage.find(URL)
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    assert not mend(inputs, tmp_path / "scratch", nothing, dry_run=True).damaged


DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "samples of a chunk": (
        lambda system: flip(system, chunk(system, "toy-clips", ".bin"), 500),
        ["toy-clips"],
    ),
    "the work folder": (
        lambda system: system.rm(f"{URL}/.work", recursive=True),
        ["toy-bench", "toy-clips", "toy-images"],
    ),
    "the plans alone": (
        lambda system: system.rm([str(name) for name in system.glob(f"{URL}/.work/pack/*.arrow")]),
        [],
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_sources_are_decoded_again_where_the_work_folder_is_damaged_too(
    storage: Any, inputs: Path, whole: Path, tmp_path: Path, what: str
) -> None:
    damage, redone = DAMAGES[what]
    damage(storage)
    for name in storage.glob(f"{URL}/*/*.tar"):
        flip(storage, str(name).split("/", 2)[2], 3000)  # of the same size: nothing but a hash tells
    storage.rm_file(f"{URL}/manifest/rejected.parquet")
    found = mend(inputs, tmp_path / "scratch", options(inputs))
    assert not found.left and found.redone == redone
    assert same(storage, whole, tmp_path / "got")
    assert not mend(inputs, tmp_path / "scratch", options(inputs)).damaged


def test_nothing_is_touched_where_a_source_is_missing_or_another_build_is_at_work(
    storage: Any, inputs: Path, tmp_path: Path
) -> None:
    storage.rm(f"{URL}/.work", recursive=True)
    flip(storage, "pretrain/pretrain-000000.tar", 3000)
    before = objects(storage)
    with pytest.raises(SourceError, match=r"toy-clips: .*give the options"):
        mend(inputs, tmp_path / "scratch", options(inputs, "toy-clips"))
    with claim.claimed(URL), pytest.raises(CorpusError, match="another build is at work"):
        mend(inputs, tmp_path / "scratch", options(inputs))
    assert {n: e for n, e in objects(storage).items() if not n.startswith(".work/")} == before


def test_the_command(storage: Any, inputs: Path, whole: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "openus.cli", "repair", URL, "--manifests", str(inputs / "manifests")]
    words += ["--scratch", str(tmp_path / "scratch")]
    storage.rm(f"{URL}/.work/sources", recursive=True)
    flip(storage, "pretrain/pretrain-000000.tar", 3000)
    check = toys.run([sys.executable, "-m", "openus.cli", "verify", URL])
    assert check.returncode == 1 and f"'openus repair {URL}' mends what is damaged" in check.stderr
    dry = toys.run([*words, "--dry-run"])
    assert dry.returncode == 1 and "1 file damaged; run it without --dry-run to mend that" in dry.stderr
    for slug, name in {"toy-images": "images", "toy-clips": "clips", "toy-bench": "bench"}.items():
        storage.put(str(inputs / "inputs" / name), f"s3://corpora/in/{slug}", recursive=True)
        words += ["--local", f"{slug}=s3://corpora/in/{slug}"]
    done = toys.run([*words, "--json", "--workers", "1"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sound"] and [damage["file"] for damage in told["damaged"]] == [
        "pretrain/pretrain-000000.tar"
    ]
    assert same(storage, whole, tmp_path / "got")
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
