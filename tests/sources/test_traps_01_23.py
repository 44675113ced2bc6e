"""Traps of single datasets among 1 to 23 that the table of miniatures does not cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import ArchiveError, NeedsPersonError, SourceError
from openus.fetch import obtain
from openus.select import Selected, select
from tests.sources.conftest import Make
from tests.sources.hosting import overlaid
from tests.sources.miniature import Mini
from tests.sources.packing import pack

CATALOGUE = Catalogue()


def images(slug: str, root: Path) -> dict[str, Selected]:
    tree = Tree([root])
    selection = select(CATALOGUE.source(slug), tree.entries(), tree.open)
    return {image.member.rsplit("/", 1)[-1]: image for image in selection.images}


def test_a_missing_part_of_cardiacudc_is_named(made: Make, tmp_path: Path) -> None:
    root, expected = made("cardiacudc")
    drop = tmp_path / "cardiacudc"
    packed = pack(root, expected, drop)
    assert len(packed.files) == 7
    (drop / "cardiacUDC_dataset.z03").unlink()
    with pytest.raises(ArchiveError, match="part 3 missing; put all parts into one folder"):
        Tree([drop]).entries()
    source = CATALOGUE.source("cardiacudc")
    manual = overlaid(source, source.routes[1], {})
    with pytest.raises(NeedsPersonError, match=r"still lacks cardiacUDC_dataset\.z03"):
        obtain(manual, cache=tmp_path)


def test_masks_of_cardiacudc_have_the_suffix_of_their_images(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "cardiacudc")
    for name in ("patient-1-4_image.nii", "patient-2-4_image.nii.gz"):
        mini.bytes(f"Site_G_20/{name}", b"not read by the selection")
        mini.bytes(f"Site_G_20/{name.replace('image', 'label')}", b"nor this")
    masks = {name: image.mask for name, image in images("cardiacudc", tmp_path).items()}
    assert masks == {
        "patient-1-4_image.nii": "Site_G_20/patient-1-4_label.nii",
        "patient-2-4_image.nii.gz": "Site_G_20/patient-2-4_label.nii.gz",
    }


def test_a_clip_of_echocp_without_a_row_has_no_diagnosis(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "echocp")
    for name in ("001_r", "002_v"):
        mini.bytes(f"EchoCP_dataset/{name}_image.nii.gz", b"not read by the selection")
    mini.sheet(
        "echoCP_diagnosis_label.xlsx",
        [{"Idx": 1, "Action": "rest", "PFO level (o indicates No PFO)": 3}],
    )
    found = images("echocp", tmp_path)
    assert dict(found["001_r_image.nii.gz"].labels) == {"action": "rest", "pfo": "present", "pfo-level": "3"}
    assert dict(found["002_v_image.nii.gz"].labels) == {"action": "Valsalva"}
    (tmp_path / "echoCP_diagnosis_label.xlsx").unlink()
    mini.sheet("echoCP_diagnosis_label.xlsx", [{"Idx": 1, "Action": "r", "Level": 3}])
    with pytest.raises(SourceError, match=r"echocp: .* needs the columns .*it has Idx, Action, Level"):
        images("echocp", tmp_path)


def test_camus_without_image_quality_is_another_release(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "camus-public")
    mini.bytes("patient0001/patient0001_2CH_half_sequence.nii.gz", b"not read by the selection")
    mini.text("patient0001/Info_2CH.cfg", "ED: 1\nES: 9\n")
    with pytest.raises(
        SourceError, match=r"camus-public: .*Info_2CH\.cfg has no line 'ImageQuality' \(it has ED, ES\)"
    ):
        images("camus-public", tmp_path)


def test_echonet_pediatric_takes_names_with_and_without_suffix(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "echonet-pediatric")
    row = {"EF": 60, "Sex": "M", "Age": 3, "Split": 4}
    for view, written in (("A4C", "CR1-CR2-000001"), ("PSAX", "CR1-CR2-000001.avi")):
        mini.bytes(f"{view}/Videos/CR1-CR2-000001.avi", b"not read by the selection")
        mini.table(f"{view}/FileList.csv", [{"FileName": written, **row}])
    tree = Tree([tmp_path])
    selection = select(CATALOGUE.source("echonet-pediatric"), tree.entries(), tree.open)
    assert [image.split for image in selection.images] == ["fold4", "fold4"]
    assert len({image.patient for image in selection.images}) == 1, "both views are of one child"


def test_a_number_of_cactus_that_is_no_grade_gives_none(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "cactus")
    for name in ("7_a.jpg", "10b.jpg", "2023_c.jpg", "d.jpg"):
        mini.image(f"Images Dataset/A4C/{name}")
    grades = {name: image.labels.get("grade") for name, image in images("cactus", tmp_path).items()}
    assert grades == {"7_a.jpg": "7", "10b.jpg": "10", "2023_c.jpg": None, "d.jpg": None}


def test_masks_of_bp_stay_out_whatever_they_end_with(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "bp")
    mini.image("train/33_77.tif")
    for name in ("33_77_mask.tif", "33_77_msk.tif", "33_77_MASK.tif"):
        mini.mask(f"train/{name}")
    assert set(images("bp", tmp_path)) == {"33_77.tif"}


@pytest.mark.parametrize(
    ("code", "split"),
    [("COPE", "test"), ("FLKA", "test"), ("ALWI", "train"), ("COPA", "train"), ("XCOP", "train")],
)
def test_patients_of_the_test_part_of_bus_uclm(code: str, split: str, tmp_path: Path) -> None:
    mini = Mini(tmp_path, "bus-ucml")
    mini.image(f"BUS-UCLM/images/{code}_000.png")
    facts = {"Image": f"{code}_000.png", "Resolution": "64x48", "Label": "Benign"}
    mini.table("BUS-UCLM/INFO.csv", [facts | {"Doppler": 0, "Marks": 0, "Combined": 0}], sep=";")
    found = images("bus-ucml", tmp_path)[f"{code}_000.png"]
    assert (found.patient, found.split) == (code, split)


def test_bus_uclm_without_its_table_goes_by_the_colour_of_the_masks(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "bus-ucml")
    colours = {"ALWI_000": (0, 0, 0), "ALWI_001": (0, 255, 0), "COPE_000": (255, 0, 0)}
    for name, colour in colours.items():
        mini.image(f"BUS-UCLM/images/{name}.png", "RGB")
        mini.mask(f"BUS-UCLM/masks/{name}.png", colour=colour)
    mini.image("BUS-UCLM/images/ALWI_002.png", "RGB")  # without a mask nothing is known
    found = {name: dict(image.labels) for name, image in images("bus-ucml", tmp_path).items()}
    assert found == {
        "ALWI_000.png": {"pathology": "normal"},
        "ALWI_001.png": {"pathology": "benign"},
        "ALWI_002.png": {},
        "COPE_000.png": {"pathology": "malignant"},
    }
    mini.mask("BUS-UCLM/masks/ALWI_002.png", colour=(0, 0, 255))
    with pytest.raises(SourceError, match=r"masks/ALWI_002\.png is neither black, green nor red"):
        images("bus-ucml", tmp_path)


def test_a_validation_folder_of_abdomenus_is_a_split(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "abdomenus")
    for part in ("train", "val", "validation", "test", "more"):
        mini.image(f"RUS/images/{part}/{part}.jpg")
    splits = {name: image.split for name, image in images("abdomenus", tmp_path).items()}
    assert splits == {
        "train.jpg": "train", "val.jpg": "val", "validation.jpg": "val", "test.jpg": "test", "more.jpg": "",
    }  # fmt: skip


@pytest.mark.parametrize("top", ["", "abdominal_US/", "abdominal_US/abdominal_US/"])
def test_abdomenus_at_any_depth(top: str, tmp_path: Path) -> None:
    mini = Mini(tmp_path, "abdomenus")
    for part in ("RUS/images/test/1.jpg", "AUS/images/train/2.jpg", "preprocessed/RUS/images/test/1.jpg"):
        mini.image(top + part)
    domains = {name: image.labels["domain"] for name, image in images("abdomenus", tmp_path).items()}
    assert domains == {"1.jpg": "real", "2.jpg": "simulated"}
