"""One small world for all pages: manifests and data of a toy corpus, and a corpus that keeps the contract."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import toys
from tests.helpers.corpus import make_corpus

TINY = "--recipe demo --set training.epochs=1 --set training.batch_size=16 --set model.depth=1"
QUICK = "--recipe finetune-demo --set epochs=1 --set resamples=20"


@pytest.fixture(scope="session")
def toy_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the data of the toy corpus, and the options of `openus build` that build it."""
    place = tmp_path_factory.mktemp("pages")
    manifests = toys.write_manifests(place / "manifests")
    inputs = toys.write_inputs(place / "inputs", images=8, clips=2)
    local = " ".join(f"--local {slug}={path}" for slug, path in inputs.items())
    make_corpus(place / "openus-46", {"pretrain": 40, "bus-bra": 40})
    scans = place / "inputs" / "images" / "pictures"
    for name in ("picture.png", "cine.dcm"):  # what a file is, is told by its content
        shutil.copy(scans / "i000.png", place / name)
    (place / "scans" / "test").mkdir(parents=True)
    for number in range(4):
        shutil.copy(scans / f"i{number:03d}.png", place / "scans" / f"{number}.png")
    shutil.copy(scans / "i003.png", place / "scans" / "test" / "again.png")
    shutil.make_archive(str(place / "pictures"), "zip", place / "scans")
    (place / "list.csv").write_text("path\nscans/0.png\nscans/1.png\nscans/test/again.png\n")
    return place, f"--corpus toys --manifests {manifests} {local} --workers 0"
