"""Writes the inputs of the demo corpus as a user would find them after a download: folders of files.

INPUTS/pydicom-ultrasound/*.dcm                     real: the ultrasound files that travel with pydicom
INPUTS/simulated-phantoms/images/*.png, views.csv   simulated, for pretraining
INPUTS/simulated-lesions/images/*.png, masks/*.png, views.csv   simulated, other patients, labelled
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError

from openus.demo.phantom import PROBES, Patient, Phantom, draw_patient, view
from openus.demo.tissue import LESIONS
from openus.errors import SourceError

VERSION = 1  # of what is written; another one makes `write_inputs` begin anew
SEED = 2026
SIZE = 192  # pixels of a picture's short side, without its margin
PRETRAIN = (64, 6)  # patients, views of each
LABELLED = (60, 4)
FOLDS = 5
FIRST_LABELLED = 1001  # number of the first patient of the labelled set: nobody is in both
COLUMNS = ("image", "patient", "view", "probe", "lesion", "fold")
_NOTE = """These pictures are simulated by openus.demo.phantom. They show no person and no real tissue.
"""


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write all inputs that are not yet complete below `folder`; return the folder of each source by slug.

    Raises `SourceError` when the installed pydicom brings no ultrasound files.
    """
    writers = {
        "pydicom-ultrasound": _write_dicom,
        "simulated-phantoms": _write_phantoms,
        "simulated-lesions": _write_lesions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for slug, write in writers.items():
        if _complete(folder / slug):
            continue
        # Written beside its place and renamed, so that an interrupted run leaves nothing half done.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{slug}-") as scratch:
            made = Path(scratch) / slug
            made.mkdir()
            write(made)
            (made / ".complete.json").write_text(json.dumps(_identity()))
            shutil.rmtree(folder / slug, ignore_errors=True)
            made.replace(folder / slug)
    return {slug: folder / slug for slug in writers}


def ultrasound_files() -> list[Path]:
    """The DICOM files of modality US in the data folder of the installed pydicom, sorted by name."""
    found = []
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        try:
            with warnings.catch_warnings(action="ignore"):
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
        except (InvalidDicomError, OSError, NotImplementedError, ValueError, KeyError, AttributeError):
            continue  # pydicom's data has broken files on purpose; none of them is ultrasound
        if header.get("Modality") == "US":
            found.append(path)
    return found


def _identity() -> dict[str, object]:
    return {"version": VERSION, "pydicom": pydicom.__version__, "seed": SEED, "size": SIZE}


def _complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ".complete.json").read_text()) == _identity())
    except (OSError, ValueError):
        return False


def _write_dicom(folder: Path) -> None:
    files = ultrasound_files()
    if not files:
        raise SourceError(
            f"pydicom {pydicom.__version__} brings no ultrasound files in "
            f"{Path(pydicom.__file__).parent / 'data' / 'test_files'}; install it anew: "
            "pip install --force-reinstall 'pydicom>=3.0'"
        )
    for path in files:
        shutil.copyfile(path, folder / path.name)


def _write_phantoms(folder: Path) -> None:
    patients, views = PRETRAIN
    kinds = (None, *LESIONS)
    _write_views(
        folder,
        (
            (draw_patient(SEED, number, kinds[number % 3], PROBES[number % len(PROBES)]), number_of_view)
            for number in range(1, patients + 1)
            for number_of_view in range(views)
        ),
    )


def _write_lesions(folder: Path) -> None:
    patients, views = LABELLED
    (folder / "masks").mkdir()
    _write_views(
        folder,
        (
            # Probe and fold run through all combinations with the lesion, so that neither tells it.
            (draw_patient(SEED, FIRST_LABELLED + n, LESIONS[n % 2], PROBES[n // 2 % len(PROBES)]), number)
            for n in range(patients)
            for number in range(views)
        ),
        labelled=True,
    )


def _write_views(folder: Path, views: Iterator[tuple[Patient, int]], labelled: bool = False) -> None:
    (folder / "images").mkdir()
    (folder / "SIMULATED.txt").write_text(_NOTE)
    with (folder / "views.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        for patient, number in views:
            phantom = view(patient, number, SIZE)
            name = f"patient-{patient.number:04d}_view-{number + 1}.png"
            _save(phantom, folder, name, labelled)
            fold = 1 + (patient.number - FIRST_LABELLED) // 2 % FOLDS if labelled else ""
            table.writerow(
                [name, patient.number, number + 1, patient.probe.kind, phantom.lesion or "none", fold]
            )


def _save(phantom: Phantom, folder: Path, name: str, labelled: bool) -> None:
    Image.fromarray(phantom.pixels).save(folder / "images" / name, compress_level=1)
    if labelled:
        Image.fromarray(phantom.mask).save(folder / "masks" / name)
