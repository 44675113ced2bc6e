"""Selection: which files are images, and what the manifest's rules say of each."""

import io
from typing import Any

import pytest

from openus.archives import Entry
from openus.errors import ManifestError, SourceError
from openus.manifest import Source
from openus.select import select

FILES = {
    "top/Images/a_1.png": b"",
    "top/Images/b_2.png": b"",
    "top/Masks/mask_a.png": b"",
    "top/data.csv": b"id,case,kind\na, 7 ,benign \nb,8,malignant\n",
    "top/readme.txt": b"",
}


def source(**changes: Any) -> Source:
    fields: dict[str, Any] = {
        "schema": 1,
        "slug": "toy",
        "name": "Toy",
        "title": "Toy",
        "anatomy": "breast",
        "kind": "image",
        "licence": {"name": "CC0-1.0", "redistribution": "pixels"},
        "images": ["Images/*.png"],
        "exclude": ["Masks/*.png"],
        "labels": {
            "kind": {
                "table": "data.csv",
                "match": r"Images/(?P<key>\w)_",
                "key": "id",
                "column": "kind",
                "classes": {"benign": "benign", "malignant": "malignant"},
            }
        },
        "patient": {"table": "data.csv", "match": r"Images/(?P<key>\w)_", "key": "id", "column": "case"},
        "masks": {"match": r"Images/(?P<n>\w)_", "path": "Masks/mask_{n}.png"},
    }
    return Source.model_validate(fields | changes)


def entries(files: dict[str, bytes]) -> list[Entry]:
    return [Entry(path, len(data), "", True) for path, data in sorted(files.items())]


def chosen(files: dict[str, bytes] = FILES, **changes: Any) -> Any:
    return select(source(**changes), entries(files), lambda path: io.BytesIO(files[path]))


def test_images_are_named_without_what_wraps_them() -> None:
    selection = chosen()
    assert [image.member for image in selection.images] == ["Images/a_1.png", "Images/b_2.png"]
    deeper = {f"again/and/{path}": data for path, data in FILES.items()}
    assert [image.member for image in chosen(deeper).images] == ["Images/a_1.png", "Images/b_2.png"]


def test_every_other_file_is_listed_with_its_reason() -> None:
    assert {(item.member, item.reason) for item in chosen().excluded} == {
        ("Masks/mask_a.png", "excluded"),
        ("data.csv", "not-selected"),
        ("readme.txt", "not-selected"),
    }


def test_tables_give_labels_with_the_spaces_gone() -> None:
    first, second = chosen().images
    assert (first.labels, second.labels) == ({"kind": "benign"}, {"kind": "malignant"})


def test_patients_are_pseudonyms_unless_the_source_publishes_them() -> None:
    hidden, public = chosen().images[0].patient, chosen(patients_public=True).images[0].patient
    assert public == "7"
    assert len(hidden) == 16 and hidden != "7"
    salted = select(source(), entries(FILES), lambda path: io.BytesIO(FILES[path]), salt="pepper")
    assert salted.images[0].patient != hidden


def test_masks_are_found_and_the_missing_counted() -> None:
    selection = chosen()
    assert [image.mask for image in selection.images] == ["top/Masks/mask_a.png", ""]
    assert selection.notes == ("masks: 1 of 2 images have none",)


def test_a_renamed_mask_folder_does_not_turn_masks_into_images() -> None:
    files = {path.replace("Masks", "Mask"): data for path, data in FILES.items()}
    assert len(chosen(files).images) == 2


@pytest.mark.parametrize(
    ("files", "changes", "words"),
    [
        ({"top/other/a.png": b""}, {}, "none of 1 files matches Images/*.png"),
        ({}, {}, "it is empty"),
        (FILES | {"top/data.csv": b"id,case,sort\na,7,benign\n"}, {}, "has no column 'kind'"),
        (
            FILES | {"top/data.csv": b"id,case,kind\na,7,begnin\n"},
            {},
            "'begnin', not one of benign, malignant; did you mean 'benign'?",
        ),
        ({k: v for k, v in FILES.items() if "csv" not in k}, {}, "no file matches 'data.csv'"),
    ],
)
def test_what_differs_from_the_manifest_is_named(
    files: dict[str, bytes], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SourceError, match="toy") as caught:
        chosen(files, **changes)
    assert words in str(caught.value)


def test_code_that_does_not_exist_is_a_manifest_error() -> None:
    with pytest.raises(ManifestError, match=r"names no module in openus\.sources"):
        chosen(code="no_such_module")


def test_a_path_rule_and_a_constant() -> None:
    selection = chosen(
        labels={
            "side": {"path": r"_(?P<value>\d)\.png", "classes": {1: "left", 2: "right"}},
            "probe": {"value": "linear"},
        }
    )
    assert [image.labels for image in selection.images] == [
        {"probe": "linear", "side": "left"},
        {"probe": "linear", "side": "right"},
    ]


def test_members_without_a_row_are_counted() -> None:
    selection = chosen(FILES | {"top/Images/c_3.png": b""})
    assert selection.images[2].labels == {}
    assert "label 'kind': 1 of 3 files have no value" in selection.notes


def test_rows_that_disagree_give_no_value() -> None:
    files = FILES | {"top/data.csv": b"id,case,kind\na,7,benign\na,9,benign\nb,8,malignant\nb,8,malignant\n"}
    selection = chosen(files, patients_public=True)
    a, b = selection.images
    assert (a.patient, a.labels["kind"]) == ("", "benign")
    assert (b.patient, b.labels["kind"]) == ("8", "malignant")
    assert "patient: data.csv has rows that disagree on a, so none is used" in selection.notes


def test_an_archive_of_its_own_folder_names_files_as_the_unpacked_one_does() -> None:
    unpacked = {"a/Images/x_1.png": b"", "b/Images/x_1.png": b"", "b/notes.txt": b""}
    packed = {"a/a/Images/x_1.png": b"", "b/b/Images/x_1.png": b"", "b/b/notes.txt": b""}
    plain = {"labels": {}, "patient": None, "masks": None}
    assert [i.member for i in chosen(packed, **plain).images] == [
        i.member for i in chosen(unpacked, **plain).images
    ]
    both = {"a/a/Images/x_1.png": b"", "a/Images/x_1.png": b"", "b/Images/x_1.png": b""}
    assert len({i.member for i in chosen(both, **plain).images}) == 3


def test_an_optional_rule_forgives_a_missing_table() -> None:
    files = {k: v for k, v in FILES.items() if "csv" not in k}
    rule = {
        "table": "data.csv",
        "match": r"Images/(?P<key>\w)_",
        "key": "id",
        "column": "kind",
        "optional": True,
    }
    selection = chosen(files, labels={"kind": rule}, patient=None)
    assert [image.labels for image in selection.images] == [{}, {}]
    assert "label 'kind': 2 of 2 files have no value" in selection.notes
