"""Writes the inputs of the demo corpus as a user would find them after a download: folders of files.

INPUTS/pydicom-ultrasound/*.dcm                     real: the ultrasound files that travel with pydicom
INPUTS/simulated-phantoms/images/*.png, views.csv   simulated, for pretraining
INPUTS/simulated-lesions/images/*.png, masks/*.png, views.csv   simulated, other patients, labelled
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError
from rich.progress import Progress, TaskID

from openus.console import progress
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
Wrote = Callable[[int], None]
"""Called after each picture with how many there will be."""
_NOTE = """These pictures are simulated by openus.demo.phantom. They show no person and no real tissue.
"""


def write_inputs(folder: Path, *, quiet: bool = False) -> dict[str, Path]:
    """Write all inputs that are not yet complete below `folder`; return the folder of each source by slug.

    Raises `SourceError` when the installed pydicom brings no ultrasound files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for slug, write in _WRITERS.items():
        if _complete(folder / slug):
            continue
        # Written beside its place and renamed, so that an interrupted run leaves nothing half done.
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=f".{slug}-") as scratch,
            progress(quiet, unit="pictures") as bar,
        ):
            made = Path(scratch) / slug
            made.mkdir()
            task = bar.add_task(slug, total=None)
            write(made, functools.partial(_advance, bar, task))
            (made / ".complete.json").write_text(json.dumps(_identity()))
            shutil.rmtree(folder / slug, ignore_errors=True)
            made.replace(folder / slug)
    return {slug: folder / slug for slug in _WRITERS}


def _advance(bar: Progress, task: TaskID, total: int) -> None:
    bar.update(task, total=total, advance=1)


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


def _write_dicom(folder: Path, wrote: Wrote) -> None:
    files = ultrasound_files()
    if not files:
        raise SourceError(
            f"pydicom {pydicom.__version__} brings no ultrasound files in "
            f"{Path(pydicom.__file__).parent / 'data' / 'test_files'}; install it anew: "
            "pip install --force-reinstall 'pydicom>=3.0'"
        )
    for path in files:
        shutil.copyfile(path, folder / path.name)
        wrote(len(files))


def _write_phantoms(folder: Path, wrote: Wrote) -> None:
    patients, views = PRETRAIN
    kinds = (None, *LESIONS)
    drawn = [draw_patient(SEED, n, kinds[n % 3], PROBES[n % len(PROBES)]) for n in range(1, patients + 1)]
    _write_views(folder, drawn, views, wrote)


def _write_lesions(folder: Path, wrote: Wrote) -> None:
    patients, views = LABELLED
    (folder / "masks").mkdir()
    # The lesion alternates, and probe and fold change every second patient, so that neither tells the lesion.
    drawn = [
        draw_patient(SEED, FIRST_LABELLED + n, LESIONS[n % 2], PROBES[n // 2 % len(PROBES)])
        for n in range(patients)
    ]
    _write_views(folder, drawn, views, wrote, labelled=True)


def _write_views(
    folder: Path, patients: Sequence[Patient], views: int, wrote: Wrote, labelled: bool = False
) -> None:
    (folder / "images").mkdir()
    (folder / "SIMULATED.txt").write_text(_NOTE)
    with (folder / "views.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        for place, patient in enumerate(patients):
            fold = 1 + place // 2 % FOLDS if labelled else ""
            for number in range(1, views + 1):
                phantom = view(patient, number, SIZE)
                name = f"patient-{patient.number:04d}_view-{number}.png"
                _save(phantom, folder, name, labelled)
                lesion = phantom.lesion or "none"
                table.writerow([name, patient.number, number, patient.probe.kind, lesion, fold])
                wrote(len(patients) * views)


def _save(phantom: Phantom, folder: Path, name: str, labelled: bool) -> None:
    Image.fromarray(phantom.pixels).save(folder / "images" / name, compress_level=1)
    if labelled:
        Image.fromarray(phantom.mask).save(folder / "masks" / name)


_WRITERS: dict[str, Callable[[Path, Wrote], None]] = {
    "pydicom-ultrasound": _write_dicom,
    "simulated-phantoms": _write_phantoms,
    "simulated-lesions": _write_lesions,
}
