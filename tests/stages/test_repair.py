"""openus repair: whatever was damaged comes back to the same bytes, and what was whole is not touched."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openus.catalogue import Catalogue
from openus.errors import CorpusError, SourceError
from openus.shards.verify import verify
from openus.stages.build import BuildOptions, build
from openus.stages.repair import repair
from tests.helpers import toys

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repair")
    toys.write_manifests(folder / "manifests")
    toys.write_inputs(folder / "inputs", images=12, clips=2)
    catalogue = Catalogue(folder / "manifests")
    build(folder / "out", catalogue.corpus("toys"), catalogue, options(folder))
    return folder


def options(place: Path, *without: str) -> BuildOptions:
    inputs = {
        "toy-images": place / "inputs" / "images",
        "toy-clips": place / "inputs" / "clips",
        "toy-bench": place / "inputs" / "bench",
    }
    local = {slug: path for slug, path in inputs.items() if slug not in without}
    return BuildOptions(cache=place / "cache", local=local)


def flip(path: Path, at: int = -300) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def first(out: Path, pattern: str) -> Path:
    return sorted(out.glob(pattern))[0]


def chunk(out: Path, slug: str, suffix: str) -> Path:
    return first(out, f".work/sources/{slug}/*{suffix}")


def times(out: Path) -> dict[str, int]:
    return {name: (out / name).stat().st_mtime_ns for name in toys.digests(out)}


def lose(*names: str) -> Damage:
    return lambda out: [(out / name).unlink() for name in names]


FROM_WORK: dict[str, tuple[Damage, set[str]]] = {
    "a flipped byte in a shard": (
        lambda out: flip(first(out, "pretrain/*.tar"), 3000),
        {"pretrain/pretrain-000000.tar"},
    ),
    "a lost Parquet file": (lose("manifest/pretrain-000000.parquet"), {"manifest/pretrain-000000.parquet"}),
    "a damaged Parquet file": (
        lambda out: flip(out / "manifest/bench-000000.parquet"),
        {"manifest/bench-000000.parquet"},
    ),
    "a lost mask tar": (lose("bench-mask/bench-mask-000000.tar"), {"bench-mask/bench-mask-000000.tar"}),
    "a whole set": (lambda out: shutil.rmtree(out / "bench"), {"bench/bench-000000.tar"}),
    "rejected": (lambda out: flip(out / "manifest/rejected.parquet"), {"manifest/rejected.parquet"}),
    "duplicates": (lose("manifest/duplicates.parquet"), {"manifest/duplicates.parquet"}),
    "corpus.json gone": (lose("corpus.json"), {"corpus.json"}),
    "corpus.json altered": (lambda out: flip(out / "corpus.json"), {"corpus.json"}),
    "notes and page": (
        lose("README.md", "LICENSES.md", "report.html", "report/contact-toy-clips.png"),
        {"README.md", "LICENSES.md", "report.html", "report/contact-toy-clips.png"},
    ),
}


@pytest.mark.parametrize("what", FROM_WORK)
def test_from_the_work_folder_without_any_source(place: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(place / "out", out)
    damage, files = FROM_WORK[what]
    before, stood = toys.digests(out), times(out)
    damage(out)
    catalogue = Catalogue(place / "manifests")
    nothing = BuildOptions(cache=tmp_path / "cache")
    told = repair(out, catalogue, nothing, dry_run=True)
    assert {damage.file for damage in told.damaged} == files and not told.mended
    assert toys.digests(out) != before
    found = repair(out, catalogue, nothing)
    assert {damage.file for damage in found.damaged} == files
    assert not found.left and not found.redone
    assert toys.digests(out) == before
    changed = {name for name, time in times(out).items() if stood[name] != time}
    stems = {Path(name).stem for name in changed if not name.startswith("report/")}
    assert stems <= {Path(name).stem for name in files}
    assert not repair(out, catalogue, nothing).damaged


FROM_SOURCES: dict[str, tuple[Damage, list[str]]] = {
    "samples of a chunk": (lambda out: flip(chunk(out, "toy-clips", ".bin"), 500), ["toy-clips"]),
    "masks of a chunk": (lambda out: flip(chunk(out, "toy-bench", ".bin"), -20), ["toy-bench"]),
    "a lost chunk": (lambda out: chunk(out, "toy-images", ".bin").unlink(), ["toy-images"]),
    "rows of a chunk, and the plans": (
        lambda out: (flip(chunk(out, "toy-images", ".parquet"), 2000), shutil.rmtree(out / ".work" / "pack")),
        ["toy-bench", "toy-clips", "toy-images"],
    ),
    "the work folder": (lambda out: shutil.rmtree(out / ".work"), ["toy-bench", "toy-clips", "toy-images"]),
    "the plans": (lambda out: shutil.rmtree(out / ".work" / "pack"), []),
    "the plans alone": (lambda out: [path.unlink() for path in out.glob(".work/pack/*.arrow")], []),
}


@pytest.mark.parametrize("what", FROM_SOURCES)
def test_where_the_work_folder_is_damaged_too_its_sources_are_decoded_again(
    place: Path, tmp_path: Path, what: str
) -> None:
    out = place / "out"
    spare = tmp_path / "spare"
    shutil.copytree(out, spare)
    before = toys.digests(out)
    try:
        damage, redone = FROM_SOURCES[what]
        damage(out)
        for path in out.glob("*/*.tar"):
            flip(path, 3000)  # of the same size: nothing but a hash tells
        (out / "manifest" / "rejected.parquet").unlink()
        found = repair(out, Catalogue(place / "manifests"), options(place))
        assert not found.left
        assert toys.digests(out) == before
        assert found.redone == redone
        assert not verify(out, deep=True).problems
    finally:
        shutil.rmtree(out)
        spare.rename(out)


def test_a_source_that_is_not_here_is_said_before_anything_is_touched(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(place / "out", out)
    shutil.rmtree(out / ".work")
    flip(first(out, "pretrain/*.tar"), 3000)
    before = toys.digests(out)
    with pytest.raises(SourceError, match=r"toy-clips: .*give the options \(--local, --mirror, --cache\)"):
        repair(out, Catalogue(place / "manifests"), options(place, "toy-clips"))
    assert toys.digests(out) == before


def test_other_data_are_not_passed_off_as_the_recorded_ones(place: Path, tmp_path: Path) -> None:
    out, inputs = tmp_path / "out", tmp_path / "inputs"
    shutil.copytree(place / "out", out)
    shutil.copytree(place / "inputs", inputs)
    shutil.rmtree(out / ".work")
    flip(first(out, "pretrain/*.tar"), 3000)
    (inputs / "images" / "pictures" / "i002.png").unlink()
    with pytest.raises(CorpusError, match="rebuilt, but not to the same bytes"):
        repair(out, Catalogue(place / "manifests"), options(tmp_path))


def test_the_command(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(place / "out", out)
    words = [sys.executable, "-m", "openus.cli", "repair", str(out), "--manifests", str(place / "manifests")]
    assert "nothing is damaged" in toys.run(words).stdout
    (out / "manifest" / "pretrain-000000.parquet").unlink()
    dry = toys.run([*words, "--dry-run"])
    assert dry.returncode == 1 and "manifest/pretrain-000000.parquet: missing" in dry.stdout
    assert "1 file damaged; run it without --dry-run to mend that" in dry.stderr
    done = toys.run([*words, "--json", "--workers", "0"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "damaged": [{"file": "manifest/pretrain-000000.parquet", "problem": "missing", "mended": True}],
        "decoded_again": [],
        "sound": True,
    }
    nowhere = toys.run([sys.executable, "-m", "openus.cli", "repair", str(tmp_path / "no")])
    assert nowhere.returncode == 1 and "no such folder; build a corpus with" in nowhere.stderr


def test_what_a_command_rewrote_on_purpose_is_not_damage(place: Path, tmp_path: Path) -> None:
    """The audit writes into corpus.json, and a report made after it says what it found; repair takes neither back."""
    out = shutil.copytree(place / "out", tmp_path / "out")
    for words in (["audit", str(out), "--quiet"], ["report", str(out)]):
        assert toys.run([sys.executable, "-m", "openus", *words]).returncode == 0
    catalogue = Catalogue(place / "manifests")
    assert not repair(out, catalogue, options(place), dry_run=True).damaged
    before = toys.digests(out)
    flip(out / "corpus.json")
    (out / "report.html").unlink()
    assert not repair(out, catalogue, options(place)).left
    assert toys.digests(out) == before and json.loads((out / "corpus.json").read_bytes())["audit"]
    flip(
        out / "corpus.json",
        json.dumps(json.loads((out / "corpus.json").read_bytes()), indent=1).index('"seed"') + 1,
    )
    toys.run([sys.executable, "-m", "openus", "audit", str(out), "--quiet"])
    damaged = repair(out, catalogue, options(place), dry_run=True).damaged
    assert [damage.file for damage in damaged] == ["corpus.json"], (
        "what was damaged before the audit stays damaged"
    )
