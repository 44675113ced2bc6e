"""The demo's inputs are what their manifests say, and the demo runs as the README promises."""

from __future__ import annotations

import collections
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openus import demo
from openus.catalogue import Catalogue
from openus.demo.inputs import ultrasound_files
from openus.demo.page import write_page
from tests.conftest import REPO

CATALOGUE = Catalogue(demo.DEMO_MANIFESTS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return demo.prepare(tmp_path_factory.mktemp("demo") / "inputs", quiet=True)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "views.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_demo_is_apart_from_the_46() -> None:
    corpus = CATALOGUE.corpus("demo")
    assert set(corpus.sources) == {"pydicom-ultrasound", "simulated-phantoms", "simulated-lesions"}
    assert not set(corpus.sources) & set(Catalogue().slugs)
    assert {CATALOGUE.source(slug).number for slug in corpus.sources} == {None}


def test_what_is_simulated_is_called_so(inputs: dict[str, Path]) -> None:
    for slug, folder in inputs.items():
        source = CATALOGUE.source(slug)
        simulated = (folder / "SIMULATED.txt").exists()
        assert simulated == source.slug.startswith("simulated-")
        assert simulated == source.name.startswith("Simulated")
        assert simulated == (source.anatomy == "phantom")


def test_real_files_are_the_ultrasound_files_of_pydicom(inputs: dict[str, Path]) -> None:
    import pydicom

    files = sorted(inputs["pydicom-ultrasound"].glob("*.dcm"))
    assert [path.name for path in files] == [path.name for path in ultrasound_files()]
    headers = [pydicom.dcmread(path) for path in files]
    assert {header.Modality for header in headers} == {"US"}
    expected = CATALOGUE.source("pydicom-ultrasound").expected
    assert len(files) == expected.members
    assert sum(int(header.get("NumberOfFrames", 1) or 1) for header in headers) == expected.frames


@pytest.mark.parametrize("slug", ["simulated-phantoms", "simulated-lesions"])
def test_inputs_hold_what_their_manifest_expects(inputs: dict[str, Path], slug: str) -> None:
    rows, expected = _rows(inputs[slug]), CATALOGUE.source(slug).expected
    images = {path.name for path in (inputs[slug] / "images").iterdir()}
    assert images == {row["image"] for row in rows}
    assert len(rows) == expected.members == expected.frames
    assert len({row["patient"] for row in rows}) == expected.patients
    assert collections.Counter(row["lesion"] for row in rows) == expected.labels["lesion"]


def test_labelled_patients_are_others_and_stay_in_one_fold(inputs: dict[str, Path]) -> None:
    lesions, phantoms = _rows(inputs["simulated-lesions"]), _rows(inputs["simulated-phantoms"])
    assert not {row["patient"] for row in lesions} & {row["patient"] for row in phantoms}
    folds = {(row["patient"], row["fold"], row["lesion"]) for row in lesions}
    assert len(folds) == 60  # one fold, one kind of lesion for each patient
    assert len({fold for _, fold, _ in folds}) == 5
    assert set(collections.Counter((fold, lesion) for _, fold, lesion in folds).values()) == {6}
    probes = collections.Counter((row["probe"], row["lesion"]) for row in lesions)
    assert all(probes[probe, "cyst"] == probes[probe, "solid"] for probe, _ in probes)


def test_masks_fit_their_images(inputs: dict[str, Path]) -> None:
    folder = inputs["simulated-lesions"]
    for row in _rows(folder)[::17]:
        with (
            Image.open(folder / "images" / row["image"]) as image,
            Image.open(folder / "masks" / row["image"]) as mask,
        ):
            assert image.size == mask.size
            assert image.mode == "L"
            share = np.asarray(mask).mean()
        assert 0.003 < share < 0.3


def test_complete_inputs_stay_and_half_written_ones_are_redone(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    folder = inputs["simulated-lesions"].parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    dicom = inputs["pydicom-ultrasound"]
    (dicom / ".complete.json").unlink()
    (dicom / "examples_ybr_color.dcm").unlink()
    assert demo.prepare(folder, quiet=True) == inputs
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert after.keys() == before.keys()
    changed = {path for path in before if before[path] != after[path]} - {folder}
    assert all(path == dicom or path.parent == dicom for path in changed)
    assert not list(folder.glob(".*-*"))  # no scratch folder is left behind


def test_every_step_of_the_demo_in_small(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The commands of docs/demo.sh with a few steps of training, and the page about what they left."""

    def run(*command: str) -> str:
        words = [sys.executable, str(REPO / "cli.py"), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
        return done.stdout

    local = [part for slug, path in inputs.items() for part in ("--local", f"{slug}={path}")]
    run(
        "openus",
        "build",
        "d/corpus",
        "--corpus",
        "demo",
        "--manifests",
        str(demo.DEMO_MANIFESTS),
        *local,
        "-q",
    )
    run("openus", "verify", "d/corpus", "-q")
    counts = json.loads((tmp_path / "d/corpus/corpus.json").read_text())["sources"]
    assert {slug: entry["frames"]["decoded"] for slug, entry in counts.items()} == {
        slug: CATALOGUE.source(slug).expected.frames for slug in inputs
    }
    assert all(entry["notes"] == [] for entry in counts.values())

    run("usfmae", "pretrain", "d/corpus", "--recipe", "demo", "--out", "d/run", "--max-steps", "40", "-q")
    run("usfmae", "reconstruct", "d/run")
    run(
        "usfmae", "finetune", "d/corpus", "--benchmark", "simulated-lesions", "--weights", "d/run", "--fold", "1",
        "--recipe", "finetune-demo", "--set", "epochs=1", "--set", "resamples=20", "--out", "d/lesions", "-q",
    )  # fmt: skip
    cine = inputs["pydicom-ultrasound"] / "examples_ybr_color.dcm"
    answer = run("usfmae", "predict", "d/lesions", str(cine), "--picture", "d/prediction.png", "--json")
    assert len(json.loads(answer)[0]["frames"]) == 30

    page = write_page(tmp_path / "d").read_text()
    for link in re.findall(r'src="([^"]+)"', page):
        assert (tmp_path / "d" / link).stat().st_size > 1000
    scores = json.loads((tmp_path / "d/lesions/metrics.json").read_text())["metrics"]
    assert f"{scores['auroc']['value']:.3f}" in page
    assert "Simulated" in page or "simulated" in page


@pytest.mark.long
def test_demo_script_runs_and_names_its_pictures(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(REPO / "docs" / "demo.sh"), "demo"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    named = [line.strip() for line in done.stdout.splitlines() if line.startswith("  demo/")]
    assert "demo/index.html" in named
    assert all((tmp_path / path).stat().st_size > 1000 for path in named)
    scores = json.loads((tmp_path / "demo/lesions/metrics.json").read_text())["metrics"]
    assert scores["auroc"]["value"] > 0.7  # chance is 0.5: pretraining and fine-tuning have learnt something
