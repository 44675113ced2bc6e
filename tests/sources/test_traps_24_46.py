"""Traps of single datasets among 24 to 46 that the table of miniatures does not cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import SourceError
from openus.select import Selected, select
from tests.sources.miniature import Mini

CATALOGUE = Catalogue()


def images(slug: str, root: Path) -> dict[str, Selected]:
    tree = Tree([root])
    selection = select(CATALOGUE.source(slug), tree.entries(), tree.open)
    return {image.member: image for image in selection.images}


@pytest.mark.parametrize("top", ["", "OTU-2D-Dataset-1ece1950792ed58b4ae77f40891ff58aa55da075/", "OTU_2D/"])
def test_mmotu_2d_as_its_copies_lay_it_out(top: str, tmp_path: Path) -> None:
    mini = Mini(tmp_path, "mmotu-2d")
    for folder in ("images", "8_layers/Teratoma/images"):
        for n in (45, 47):
            mini.image(f"{top}{folder}/{n}.JPG", "RGB")
    for folder in ("annotations", "8_layers/Teratoma/annotations"):
        for n in (45, 47):
            mini.mask(f"{top}{folder}/{n}.PNG", "RGB", (0, 0, 64))
            mini.mask(f"{top}{folder}/{n}_binary.PNG")
    found = images("mmotu-2d", tmp_path)
    assert {name: image.split for name, image in found.items()} == {
        "images/45.JPG": "train",
        "images/47.JPG": "val",
    }
    assert all(image.labels == {"tumour": "teratoma"} for image in found.values())
    assert found["images/45.JPG"].mask == f"{top}annotations/45_binary.PNG"


@pytest.mark.parametrize(("own", "other"), [("2d", "3d"), ("3d", "2d")])
def test_the_parts_of_mmotu_never_lend_each_other_masks(own: str, other: str, tmp_path: Path) -> None:
    mini = Mini(tmp_path, f"mmotu-{own}")
    for n in (1, 2):
        mini.image(f"MMOTU/OTU_{own}/images/{n}.JPG", "RGB")
        mini.mask(f"MMOTU/OTU_{other}/annotations/{n}_binary.PNG")
    mini.mask(f"MMOTU/OTU_{own}/annotations/2_binary.PNG")
    masks = {name.rsplit("/", 1)[-1]: image.mask for name, image in images(f"mmotu-{own}", tmp_path).items()}
    assert masks == {"1.JPG": "", "2.JPG": f"MMOTU/OTU_{own}/annotations/2_binary.PNG"}


@pytest.mark.parametrize("top", ["", "usd514_jpeg_roi/", "GIST514-DB/usd514-db/usd514_jpeg_roi/"])
def test_gist514_from_any_of_its_folders(top: str, tmp_path: Path) -> None:
    mini = Mini(tmp_path, "gist514-db")
    mini.image(f"{top}images/a.jpg")
    coco = {
        "categories": [{"id": 1, "name": "lmym"}],
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
    }
    nothing: dict[str, list[str]] = {"categories": [], "images": [], "annotations": []}
    for fold in range(5):
        mini.json(f"{top}annotations/val_anno_crop_split_{fold}.json", coco if fold == 2 else nothing)
    found = images("gist514-db", tmp_path)
    assert {name: (image.split, dict(image.labels)) for name, image in found.items()} == {
        "images/a.jpg": ("fold2", {"tumour": "leiomyoma"})
    }


def test_a_plane_nobody_knows_is_an_error_of_the_data(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "fetal-planes-db")
    mini.image("Images/Patient00001_Plane1_1_of_1.png")
    facts = {"Image_name": "Patient00001_Plane1_1_of_1", "Plane": "Fetal foot", "Brain_plane": "Not A Brain"}
    mini.table("FETAL_PLANES_DB_data.csv", [{**facts, "US_Machine": "Aloka", "Train ": 1}], sep=";")
    with pytest.raises(SourceError, match=r"plane'? of .* is 'Fetal foot', not one of Fetal abdomen"):
        images("fetal-planes-db", tmp_path)


def test_examinations_of_hc_are_told_apart_by_their_part(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "hc")
    for part in ("training_set", "test_set"):
        for name in ("010_HC", "010_2HC"):
            mini.image(f"{part}/{part}/{name}.png")
    rows = [{"filename": "010_2HC.png", "pixel size(mm)": 0.1, "head circumference (mm)": 201.5}]
    mini.table("training_set_pixel_size_and_HC.csv", rows)
    found = images("hc", tmp_path)
    assert {image.patient for image in found.values()} == {"training_set/010", "test_set/010"}
    labels = {image.path: dict(image.labels) for image in found.values() if image.labels}
    assert labels == {"training_set/training_set/010_2HC.png": {"head-circumference-mm": "201.5"}}


def test_pocus_takes_capital_folders_and_refuses_new_prefixes(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "pocus")
    for name in ("Convex/Cov-x.MP4", "Linear/label_uncertain/Cov_bolzano_Linee B 2.mpeg", "Convex/reg_y.mov"):
        mini.bytes(f"data/pocus_videos/{name}", b"not read by the selection")
    columns = ("Filename", "Patient ID / Name", "Lung Severity Score")
    mini.table("data/dataset_metadata.csv", [dict.fromkeys(columns, "")])
    found = images("pocus", tmp_path)
    assert [image.labels["finding"] for _, image in sorted(found.items())] == [
        "covid-19",
        "regular",
        "uncertain",
    ]
    assert not any(image.patient for image in found.values())
    mini.bytes("data/pocus_videos/Convex/Flu-z.mp4", b"a class of tomorrow")
    with pytest.raises(SourceError, match=r"finding'? of .*Flu-z\.mp4 is 'Flu', not one of Cov"):
        images("pocus", tmp_path)


def test_two_clips_of_pocus_with_one_name_have_no_patient(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "pocus")
    rows = []
    for probe, patient, severity in (("convex", "74", ""), ("linear", "77", "1")):
        mini.clip(f"data/pocus_videos/{probe}/Reg-nephropocus.mp4", 1)
        rows.append(
            {"Filename": "Reg-nephropocus", "Lung Severity Score": severity, "Patient ID / Name": patient}
        )
    mini.clip("data/pocus_videos/linear/Reg-minimalmovement.mp4", 1)
    rows.append({"Filename": "Reg-minimalmovement", "Lung Severity Score": "0", "Patient ID / Name": "76"})
    mini.table("data/dataset_metadata.csv", rows)
    found = images("pocus", tmp_path)
    patients = {name.removeprefix("data/pocus_videos/"): image.patient for name, image in found.items()}
    assert patients.pop("linear/Reg-minimalmovement.mp4")
    assert patients == {"convex/Reg-nephropocus.mp4": "", "linear/Reg-nephropocus.mp4": ""}
    assert {image.labels.get("severity") for image in found.values()} == {None, "0"}


def test_the_copy_of_porcine_with_one_part_only(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "porcine")
    for part in ("train", "val", "test"):
        mini.image(f"USSC/{part}_images/predict12_scaled-A0139_frame37.png")
        mini.mask(f"USSC/{part}_masks/predict12_scaled-A0139_frame37.png", "RGB", (0, 128, 128))
    found = images("porcine", tmp_path)
    assert sorted(image.split for image in found.values()) == ["test", "train", "val"]
    assert {image.clip for image in found.values()} == {"predict12_scaled-A0139"}
    assert {image.labels["part"] for image in found.values()} == {"segmentation"}


def test_the_other_name_of_the_test_images_of_s1(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "s1")
    for folder in ("TrainingDataSet", "TestingDataSet"):
        mini.image(f"Data/{folder}/BreastTumourImages/7.jpg")
        mini.mask(f"Data/{folder}/Expanded-3-channel-Labels/7.png")
    found = images("s1", tmp_path)
    assert {image.split: image.mask for image in found.values()} == {
        "train": "Data/TrainingDataSet/Expanded-3-channel-Labels/7.png",
        "test": "Data/TestingDataSet/Expanded-3-channel-Labels/7.png",
    }


def test_unlabelled_sweeps_and_labels_of_segthy_stay_out(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "segthy")
    top = "US_data/US_volunteer_dataset"
    for path in (
        f"{top}/ground_truth_data/US/001_P1_1_left_US.nii",
        f"{top}/ground_truth_data/US_thyroid_label/001_P1_1_left.nii",
        f"{top}/ground_truth_data/US_thyroid_label/001_P1_1_left_US.nii",
        f"{top}/other/001_P1_2_left_US.nii",
    ):
        mini.bytes(path, b"not read by the selection")
    [image] = images("segthy", tmp_path).values()
    assert image.path == f"{top}/ground_truth_data/US/001_P1_1_left_US.nii"
    assert (image.patient, dict(image.labels)) == ("001", {"side": "left"})


def test_the_thyroid_archives_of_the_repository_give_part_and_split(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "thyroid-dataset")
    for part in ("trainval", "test"):
        mini.image(f"picture/{part}-image/{part}-image/0000.jpg")
        mini.mask(f"picture/{part}-mask/{part}-mask/0000.jpg")
    found = images("thyroid-dataset", tmp_path)
    assert {image.split for image in found.values()} == {"trainval", "test"}
    assert all(dict(image.labels) == {"part": "tn3k"} and image.mask for image in found.values())


def test_the_copy_of_upbd_in_the_training_repository(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "upbd")
    mini.image("UBPD-2a3ec1c/data/dataset/images/2_1_0.jpg", "RGB")
    mini.image("UBPD-2a3ec1c/docs/figure.jpg", "RGB")
    mini.text("UBPD-2a3ec1c/data/dataset/labels/json_train/2_1_0.json", "{}")
    found = images("upbd", tmp_path)
    assert {image.patient for image in found.values()} == {"2"}
    assert len(found) == 1


def test_the_fetus_dataset_as_jpeg(tmp_path: Path) -> None:
    mini = Mini(tmp_path, "ultrasound-fetus-dataset")
    for name in ("1.png", "2.jpg", "3.jpeg", "3_Annotation.png", "4_Annotation.jpg"):
        mini.image(f"Data/Data/validation/malignant/{name}")
    found = images("ultrasound-fetus-dataset", tmp_path)
    assert {name.rsplit("/", 1)[-1] for name in found} == {"1.png", "2.jpg", "3.jpeg"}
    assert {(image.labels["class"], image.split) for image in found.values()} == {("malignant", "val")}


def test_folders_of_the_fetus_dataset_named_like_its_spare_copy(tmp_path: Path) -> None:
    """A wrapper called Datasets must not make all images look like the spare copy."""
    mini = Mini(tmp_path, "ultrasound-fetus-dataset")
    mini.image("Datasets/Data/Data/train/normal/1.png")
    mini.image("Datasets/Data/Data/Datasets/train/normal/1.png")
    assert set(images("ultrasound-fetus-dataset", tmp_path)) == {"train/normal/1.png"}
