"""`openus add-source`: what is proposed for folders of many shapes loads, and selects pictures and no masks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import yaml

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import UsageError
from openus.manifest import Source
from openus.propose import Draft, propose
from openus.select import select
from tests.helpers import toys
from tests.sources.miniature import MINIATURES, Mini, load_trees

load_trees()


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), toys.speckle(seed))


def drawn(path: Path, values: tuple[int, ...] = (0, 255)) -> None:
    """A mask: areas of a few values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((96, 120), np.uint8)
    for number, value in enumerate(values):
        pixels[10 * number + 5 : 10 * number + 40, 20:60] = value
    cv2.imwrite(str(path), pixels)


def look(place: Path, **options: str) -> Draft:
    draft = propose(place, "mine", **options)
    assert draft.source == Source.model_validate(yaml.safe_load(draft.text)), (
        "what is written is what was tried"
    )
    return draft


def members(draft: Draft) -> list[str]:
    return [image.member for image in draft.selection.images]


def test_folders_of_classes_with_masks_beside(tmp_path: Path) -> None:
    for kind in ("benign", "malignant", "normal"):
        for number in (1, 2, 3):
            picture(tmp_path / "BUSI" / kind / f"{kind} ({number}).png", number)
            drawn(tmp_path / "BUSI" / kind / f"{kind} ({number})_mask.png")
    draft = look(tmp_path)
    assert len(members(draft)) == 9 and not any("mask" in member for member in members(draft))
    assert draft.fields["expected"]["labels"] == {"class": {"benign": 3, "malignant": 3, "normal": 3}}
    assert all(image.mask == image.path.replace(".png", "_mask.png") for image in draft.selection.images)
    assert draft.source.masks is not None and draft.source.masks.threshold == 127
    # The same dataset one folder deeper gives the same members: selectors hold from the right.
    (tmp_path / "BUSI").rename(tmp_path / "inner")
    (tmp_path / "around").mkdir()
    (tmp_path / "inner").rename(tmp_path / "around" / "BUSI")
    tree = Tree([tmp_path])
    assert [i.member for i in select(draft.source, tree.entries(), tree.open).images] == members(draft)


def test_folders_of_splits_and_patients(tmp_path: Path) -> None:
    for split, patients in (("train", "12"), ("val", "3"), ("test", "45")):
        for patient in patients:
            for number in range(2):
                picture(tmp_path / split / f"case_{patient}" / f"{number}.png")
    draft = look(tmp_path)
    found = {image.member: (image.split, bool(image.patient)) for image in draft.selection.images}
    assert (
        found["val/case_3/0.png"] == ("val", True) and len({i.patient for i in draft.selection.images}) == 5
    )
    assert not draft.source.labels, "neither a split nor a patient is a class"


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["patient01_a", "patient01_b", "patient02_a", "patient10_b"], 3),
        (["scan_p1_x", "scan_p1_y", "scan_p12_x", "scan_p12_y"], 2),
        (["0012_1", "0012_2", "0013_1", "0013_2"], 2),
        (["one", "two", "three", "four"], 0),
    ],
)
def test_patients_in_file_names(tmp_path: Path, names: list[str], patients: int) -> None:
    for number, name in enumerate(names):
        picture(tmp_path / f"{name}.png", number)
    assert len({image.patient for image in look(tmp_path).selection.images} - {""}) == patients


def test_masks_known_by_their_looks_alone(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "a" / f"us_{number}.png", number)
        drawn(tmp_path / "b" / f"m_{number}.png", (0, 1, 2))
    draft = look(tmp_path)
    assert members(draft) == [f"a/us_{number}.png" for number in range(4)]
    assert "looks drawn" in " ".join(draft.findings.reasons.values())
    assert all(i.mask == f"b/m_{n}.png" for n, i in enumerate(draft.selection.images))
    assert draft.source.masks is not None and draft.source.masks.threshold is None, "these are class numbers"


def test_a_table_by_patient_and_one_by_name(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / "img" / f"p{number // 3}_{number}.png", number)
    rows = [
        f"p{number},{'MF'[number % 2]},{30 + number},{'train' if number else 'test'}" for number in range(4)
    ]
    (tmp_path / "people.csv").write_text("\n".join(["subject,sex,age,split", *rows]) + "\n")
    grades = [f"p{number // 3}_{number},{'low' if number % 2 else 'high grade'}" for number in range(12)]
    (tmp_path / "grades.tsv").write_text("\n".join(["image,grade", *grades]).replace(",", "\t") + "\n")
    draft = look(tmp_path)
    assert draft.fields["expected"]["labels"]["grade"] == {"high grade": 6, "low": 6}
    assert draft.fields["expected"]["labels"]["sex"] == {"F": 6, "M": 6}
    assert {image.split for image in draft.selection.images} == {"train", "test"}
    assert any("not used: age" in note for note in draft.notes)


def test_a_table_nobody_can_join_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    (tmp_path / "t.csv").write_text("device,count\nx,1\n")
    (tmp_path / "bad.json").write_text("{")
    notes = " ".join(look(tmp_path).notes)
    assert "no column of t.csv" in notes and "bad.json was not read" in notes


def test_clips(tmp_path: Path) -> None:
    toys.write_inputs(tmp_path / "in", images=2, clips=4)
    draft = look(tmp_path / "in" / "clips")
    assert draft.source.kind == "video" and (draft.source.frames.stride, draft.source.frames.cap) == (5, 64)
    assert draft.fields["expected"]["members"] == 4 and draft.fields["expected"]["patients"] == 2


def test_volumes_with_label_volumes(tmp_path: Path) -> None:
    for number in range(2):
        for folder, values in (("images", toys.speckle(number)), ("labels", toys.speckle(number) > 127)):
            path = tmp_path / folder / f"v{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            volume = np.repeat(values.astype(np.uint8)[:, :, None], 5, axis=2)
            nibabel.Nifti1Image(volume, np.eye(4)).to_filename(path)
    draft = look(tmp_path)
    assert draft.source.kind == "volume" and draft.source.frames.nonempty
    assert members(draft) == ["images/v0.nii.gz", "images/v1.nii.gz"]


def test_names_that_mean_something_in_patterns(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "set [1], {a}" / f"x*{number}?.png", number)
        drawn(tmp_path / "set [1], {a}" / "masks" / f"x*{number}?.png")
    draft = look(tmp_path)
    assert len(members(draft)) == 3 and all(image.mask for image in draft.selection.images)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: (p / "a.txt").write_text("text")])
def test_a_folder_without_pictures(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match="no pictures, clips or volumes"):
        look(tmp_path)


# ── the 46 as if they were unknown ─────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Draft, set[str], set[str]]]:
    """For each miniature: the proposal, the pictures its manifest selects, and their masks."""
    root = tmp_path_factory.mktemp("unknown")
    found = {}
    for slug in sorted(MINIATURES):
        MINIATURES[slug](Mini(root / slug, slug))
        tree = Tree([root / slug])
        truth = select(Catalogue().source(slug), tree.entries(), tree.open)
        pictures, masks = {i.path for i in truth.images}, {i.mask for i in truth.images} - {""}
        found[slug] = propose(root / slug, f"my-{slug}"), pictures, masks
    return found


def test_no_mask_of_the_46_is_proposed_as_a_picture(
    proposals: dict[str, tuple[Draft, set[str], set[str]]],
) -> None:
    for slug, (draft, _, masks) in proposals.items():
        assert not masks & {image.path for image in draft.selection.images}, slug


def test_most_of_the_46_are_understood(proposals: dict[str, tuple[Draft, set[str], set[str]]]) -> None:
    same = [
        s
        for s, (draft, pictures, _) in proposals.items()
        if {i.path for i in draft.selection.images} == pictures
    ]
    whole = [
        s
        for s, (draft, pictures, _) in proposals.items()
        if {i.path for i in draft.selection.images} >= pictures
    ]
    # The others hold variants, previews or second copies, which only a person can tell from the dataset itself.
    assert len(same) >= 28 and len(whole) >= 43, (len(same), len(whole))


@pytest.mark.realdata
def test_bus_bra_is_understood_from_its_files(shared: Path) -> None:
    draft = look(shared / "data" / "bus-bra")
    truth = Catalogue().source("bus-bra").expected
    assert draft.fields["expected"]["members"] == truth.members
    assert draft.fields["expected"]["patients"] == truth.patients
    for name in ("pathology", "birads"):
        assert draft.fields["expected"]["labels"][name] == truth.labels[name]
    assert all(image.mask for image in draft.selection.images)


# ── as a user runs it ──────────────────────────────────────────────────────────────────────────────────────


def add(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openus.cli", "add-source", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)


def test_it_is_written_shown_and_never_overwritten(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "My Scans" / f"{number}.png", number)
    told = add(tmp_path, "My Scans")
    assert told.returncode == 0, told.stderr
    written = tmp_path / "manifests" / "my-scans.yaml"
    assert "3 images" in told.stdout and "0.png" in told.stdout and written.is_file()
    again = add(tmp_path, "My Scans")
    assert again.returncode == 2 and "--force" in again.stderr
    assert add(tmp_path, "My Scans", "--force").returncode == 0
    answer = json.loads(add(tmp_path, "My Scans", "--out", "elsewhere/my-scans.yaml", "--json").stdout)
    assert answer["selected"] == 3 and (tmp_path / answer["manifest"]).read_text() == written.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such folder"),
        (["here", "--slug", "bus-bra"], "a source of OpenUS-46 already"),
        (["here", "--slug", "Not Good"], "lower-case"),
        (["here", "--out", "other.yaml"], "expected here.yaml"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "here").mkdir()
    told = add(tmp_path, *words)
    assert told.returncode == 2 and message in told.stderr
    assert not (tmp_path / "manifests").exists()
