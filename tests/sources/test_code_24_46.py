"""The small functions of the sources 24 to 46: what they read, and what they say when the data differ."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import SourceError
from openus.select.tables import Tables
from openus.sources import gist514_db, jnu_ifm, kidneyus, mmotu_2d, thyroid_dataset
from tests.sources.miniature import Mini


def tables(slug: str, root: Path) -> Tables:
    tree = Tree([root])
    return Tables(slug, [entry.path for entry in tree.entries()], tree.open)


def test_the_lists_of_mmotu_hold_every_image_once() -> None:
    every = [
        number
        for lists in (mmotu_2d.TRAIN, mmotu_2d.VAL)
        for ranges in lists.values()
        for number in mmotu_2d.numbers(ranges)
    ]
    assert sorted(every) == list(range(1, 1470))
    assert Counter(split for split, _ in mmotu_2d.official().values()) == {"train": 1000, "val": 469}
    counts = Counter(name for _, name in mmotu_2d.official().values())
    catalogue = Catalogue()
    assert counts == catalogue.source("mmotu-2d").expected.labels["tumour"]
    assert tuple(counts) != () and set(counts) == set(catalogue.benchmark("mmotu-2d").classes)


def test_an_image_outside_the_lists_of_mmotu_is_refused(tmp_path: Path) -> None:
    none = Tables("mmotu-2d", [], lambda path: (tmp_path / path).open("rb"))
    assert mmotu_2d.annotate("images/716.JPG", none)["split"] == "train"
    for name in ("images/1470.JPG", "images/0.JPG", "images/cyst.JPG"):
        with pytest.raises(SourceError, match=r"neither of the authors' lists.*is this folder OTU_2d"):
            mmotu_2d.annotate(name, none)


def coco(fold_of: dict[str, int], root: Path, **changes: object) -> Tables:
    """Five val files in the folder of the cropped set; `changes` replace fields of each image."""
    mini = Mini(root, "gist514-db")
    for fold in range(5):
        names = [name for name, its in fold_of.items() if its == fold]
        mini.json(
            f"usd514_jpeg_roi/annotations/val_anno_crop_split_{fold}.json",
            {
                "categories": [{"id": 7, "name": "gist"}, {"id": 3, "name": "lmym"}],
                "images": [
                    {"id": n, "file_name": name, "width": 40, "height": 30, **changes}
                    for n, name in enumerate(names)
                ],
                "annotations": [
                    {
                        "image_id": n,
                        "category_id": 7 if name.startswith("g") else 3,
                        "segmentation": [[5, 5, 20, 5, 20, 15, 5, 15], [30, 20, 35, 20, 35, 25]],
                    }
                    for n, name in enumerate(names)
                ],
            },
        )
    return tables("gist514-db", root)


def test_gist_goes_by_the_names_of_the_categories(tmp_path: Path) -> None:
    found = coco({"g1.jpg": 0, "l1.jpg": 3, "g2.jpg": 4}, tmp_path)
    assert gist514_db.annotate("images/g2.jpg", found) == {"labels": {"tumour": "gist"}, "split": "fold4"}
    assert gist514_db.annotate("images/l1.jpg", found)["labels"] == {"tumour": "leiomyoma"}
    folds = {f"fold{n}" for n in range(gist514_db.FOLDS)}
    protocol = Catalogue().benchmark("gist514-db").protocols["ultrasam"]
    assert {*protocol.train, *protocol.test} == folds


def test_gist_draws_the_polygons(tmp_path: Path) -> None:
    mask = gist514_db.mask("images/g1.jpg", coco({"g1.jpg": 2}, tmp_path))
    assert mask.shape == (30, 40) and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert mask[5:16, 5:21].min() == 255
    assert mask[:5].max() == 0 and mask[:, 36:].max() == 0
    assert mask[21, 33] == 255


def test_gist_takes_the_cropped_set_of_several(tmp_path: Path) -> None:
    Mini(tmp_path, "x").json("usd489_jpeg_roi/annotations/val_anno_crop_split_0.json", {"images": []})
    found = coco({"g1.jpg": 0}, tmp_path)
    assert gist514_db.annotate("images/g1.jpg", found)["split"] == "fold0"


def test_gist_reports_what_its_folds_do_not_tell(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"new\.jpg is in none of the five official val parts \(1 images\)"):
        gist514_db.annotate("images/new.jpg", coco({"g1.jpg": 1}, tmp_path / "a"))
    root = tmp_path / "b"
    coco({"g1.jpg": 1}, root)
    folder = root / "usd514_jpeg_roi/annotations"
    (folder / "val_anno_crop_split_3.json").write_bytes((folder / "val_anno_crop_split_1.json").read_bytes())
    with pytest.raises(SourceError, match=r"g1\.jpg is in the val parts of fold1 and fold3"):
        gist514_db.annotate("images/g1.jpg", tables("gist514-db", root))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": []}', json.dumps({"categories": [{"id": 1, "name": "x"}]})]
)
def test_gist_names_a_file_that_is_not_coco(tmp_path: Path, text: str) -> None:
    coco({"g1.jpg": 0}, tmp_path)
    Mini(tmp_path, "x").text("usd514_jpeg_roi/annotations/val_anno_crop_split_0.json", text)
    with pytest.raises(SourceError, match=r"val_anno_crop_split_0\.json is not COCO as expected"):
        gist514_db.annotate("images/g1.jpg", tables("gist514-db", tmp_path))


def test_jnu_ifm_refuses_an_unknown_code(tmp_path: Path) -> None:
    rows = [{"frame_id": 4, "frame_label": 6}, {"frame_id": 5, "frame_label": 9}]
    Mini(tmp_path, "x").table("20190909T155747/frame_label.csv", rows)
    found = tables("jnu-ifm", tmp_path)
    frame = "20190909T155747/image/20190909T155747_{}.png"
    assert jnu_ifm.annotate(frame.format(4), found) == {"labels": {"structures": "symphysis and head"}}
    assert jnu_ifm.annotate(frame.format("0004"), found) == {"labels": {"structures": "symphysis and head"}}
    assert jnu_ifm.annotate(frame.format(6), found) == {}
    with pytest.raises(SourceError, match=r"label of .*_5\.png is '9', not one of 3, 4, 5, 6"):
        jnu_ifm.annotate(frame.format(5), found)


def test_kidneyus_without_its_label_repository_is_unlabelled(tmp_path: Path) -> None:
    Mini(tmp_path, "kidneyus").image("1_IM-0001-0059_anon.png")
    assert kidneyus.annotate("1_IM-0001-0059_anon.png", tables("kidneyus", tmp_path)) == {"labels": {}}


def test_kidneyus_names_what_is_wrong_with_its_table(tmp_path: Path) -> None:
    row = {"filename": "1_IM-0001-0059_anon.png", "file_attributes": "{View}"}
    Mini(tmp_path / "a", "x").table("labels/reviewed_labels_1.csv", [row])
    with pytest.raises(SourceError, match=r"file_attributes of 1_IM-0001-0059_anon\.png is not JSON"):
        kidneyus.annotate(row["filename"], tables("kidneyus", tmp_path / "a"))
    Mini(tmp_path / "b", "x").table(
        "labels/reviewed_labels_1.csv", [{"file_name": "x", "file_attributes": "{}"}]
    )
    with pytest.raises(SourceError, match=r"no column 'filename'; did you mean 'file_name'\?"):
        kidneyus.annotate(row["filename"], tables("kidneyus", tmp_path / "b"))


def test_thyroid_dataset_without_its_tables_is_unlabelled(tmp_path: Path) -> None:
    Mini(tmp_path, "thyroid-dataset").image("tn3k/test-image/0000.jpg")
    assert thyroid_dataset.annotate("tn3k/test-image/0000.jpg", tables("thyroid-dataset", tmp_path)) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0000.jpg,2\n", r"class of .*0000\.jpg is '2', not one of 0, 1"),
        ("0000.jpg,1,x\n", "has 3 columns; expected two"),
    ],
)
def test_thyroid_dataset_names_what_is_wrong_with_its_tables(tmp_path: Path, text: str, problem: str) -> None:
    Mini(tmp_path, "x").text("tn3k/label4test.csv", text)
    with pytest.raises(SourceError, match=problem):
        thyroid_dataset.annotate("tn3k/test-image/0000.jpg", tables("thyroid-dataset", tmp_path))
