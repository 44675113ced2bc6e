"""Every source's manifest on a miniature of its tree: what is selected, what is known of it, what a change does."""

from __future__ import annotations

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from openus.archives import Tree
from openus.catalogue import Catalogue
from openus.errors import SourceError
from openus.glob import Glob
from openus.select import Selection, select
from tests.sources.checks import check
from tests.sources.conftest import Make
from tests.sources.miniature import MINIATURES, Mini
from tests.sources.packing import pack

CATALOGUE = Catalogue()


def reads_a_table(slug: str) -> bool:
    """True if a rule or the code of the source looks something up in a file of the dataset."""
    source = CATALOGUE.source(slug)
    rules = [*source.labels.values(), source.patient, source.clip, source.split]
    return source.code is not None or any(rule is not None and rule.table is not None for rule in rules)


TABLED = [slug for slug in MINIATURES if reads_a_table(slug)]


def selection_of(slug: str, root: Path) -> Selection:
    tree = Tree([root])
    return select(CATALOGUE.source(slug), tree.entries(), tree.open, salt="tests")


@pytest.mark.parametrize("slug", MINIATURES)
def test_members_and_what_is_known_of_them(slug: str, made: Make) -> None:
    root, expected = made(slug)
    selection = selection_of(slug, root)
    check(slug, selection, expected)
    selected = {image.path for image in selection.images}
    assert selected.isdisjoint(expected.never)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert set(expected.never) <= files, "the miniature names files it did not write"
    found = len({image.path for image in selection.images}) + len(selection.excluded)
    assert found == len(Tree([root]).entries()), "files are lost between selected and excluded"


@pytest.mark.parametrize("slug", MINIATURES)
def test_two_more_folders_change_nothing(slug: str, made: Make, tmp_path: Path) -> None:
    root, expected = made(slug)
    shutil.copytree(root, tmp_path / "archive (1)" / "re-upload" / root.name, copy_function=link)
    check(slug, selection_of(slug, tmp_path), expected)


@pytest.mark.parametrize("slug", MINIATURES)
def test_the_archives_of_the_host_give_the_same(slug: str, made: Make, tmp_path: Path) -> None:
    root, expected = made(slug)
    packed = pack(root, expected, tmp_path)
    selection = selection_of(slug, tmp_path)
    members = packed.members(image.member for image in selection.images)
    renamed = [
        replace(image, member=members[image.member], clip=members.get(image.clip, image.clip))
        for image in selection.images
    ]
    check(slug, replace(selection, images=tuple(renamed)), replace(expected, samples=packed.samples))


@pytest.mark.parametrize("slug", MINIATURES)
def test_renamed_masks_are_missed_and_never_taken(slug: str, made: Make, tmp_path: Path) -> None:
    root, expected = made(slug)
    if not expected.never:
        pytest.skip("nothing lies beside the images of this source that could be taken for one")
    shutil.copytree(root, tmp_path / "tree", copy_function=link)
    for path in expected.never:
        place = tmp_path / "tree" / path
        stem, dot, suffix = place.name.partition(".")
        place.rename(place.with_name(f"{stem}-renamed{dot}{suffix}"))
    selection = selection_of(slug, tmp_path)
    assert {image.member for image in selection.images} == set(expected.samples)
    masked = [sample for sample in expected.samples.values() if sample.mask]
    if masked:
        assert all(not image.mask for image in selection.images)
        count = len(expected.samples)
        assert f"masks: {count} of {count} images have none" in selection.notes


@pytest.mark.parametrize("slug", TABLED)
def test_a_missing_column_is_named(slug: str, made: Make, tmp_path: Path) -> None:
    root, expected = made(slug)
    headed = {path: column for path, column in expected.tables.items() if column}
    if not headed:
        pytest.skip("the files this source looks things up in have no columns")
    for number, (path, column) in enumerate(headed.items()):
        copy = tmp_path / str(number)
        shutil.copytree(root, copy, copy_function=link)
        rename_column(copy / path, column)
        with pytest.raises(SourceError, match=rf"{slug}: .*'?{re.escape(column)}") as caught:
            selection_of(slug, copy)
        assert path.rsplit("/", 1)[-1].partition("-Dec")[0][:8] in str(caught.value)


def forgiven(slug: str, path: str) -> bool:
    """True where every rule that looks things up in this table is optional."""
    source = CATALOGUE.source(slug)
    rules = [*source.labels.values(), *(rule for rule in (source.patient, source.clip, source.split) if rule)]
    using = [rule for rule in rules if rule.table and Glob(rule.table).matches(path)]
    return bool(using) and all(rule.optional for rule in using)


@pytest.mark.parametrize("slug", TABLED)
def test_a_missing_table_is_named(slug: str, made: Make, tmp_path: Path) -> None:
    root, expected = made(slug)
    if not expected.tables:
        pytest.skip("the code of this source looks at names only")
    for number, path in enumerate(expected.tables):
        copy = tmp_path / str(number)
        shutil.copytree(root, copy, copy_function=link)
        (copy / path).unlink()
        if forgiven(slug, path):
            assert any("have no value" in note for note in selection_of(slug, copy).notes)
            continue
        with pytest.raises(
            SourceError, match=rf"{slug}: no file matches .*incomplete or its layout has changed"
        ):
            selection_of(slug, copy)


@pytest.mark.parametrize("slug", MINIATURES)
def test_another_dataset_is_refused(slug: str, tmp_path: Path) -> None:
    Mini(tmp_path, "foreign").image("holiday/photo.jpg")
    with pytest.raises(SourceError, match=rf"{slug}: none of 1 files matches .*holiday/photo\.jpg"):
        selection_of(slug, tmp_path)


CLASSED = [
    pytest.param(slug, name, id=f"{slug}-{name}")
    for slug in MINIATURES
    for name, rule in [*CATALOGUE.source(slug).labels.items(), ("split", CATALOGUE.source(slug).split)]
    if rule is not None and rule.table is not None and rule.classes is not None and not rule.open_classes
]


@pytest.mark.parametrize(("slug", "name"), CLASSED)
def test_an_unknown_class_is_named(slug: str, name: str, made: Make, tmp_path: Path) -> None:
    source = CATALOGUE.source(slug)
    rule = source.split if name == "split" else source.labels[name]
    assert rule is not None and rule.table is not None and rule.classes is not None
    shutil.copytree(made(slug)[0], tmp_path / "tree", copy_function=link)
    paths = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    table = tmp_path / next(path for path in paths if Glob(rule.table).matches(path))
    replace_values(table, set(rule.classes), "never heard of", rule.sep or ",")
    with pytest.raises(SourceError, match=rf"{slug}: .*'never heard of', not one of "):
        selection_of(slug, tmp_path)


def replace_values(path: Path, values: set[str], new: str, sep: str) -> None:
    """Write the table anew with `new` in every cell that holds one of `values` (its header row is kept)."""
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        for row in book.worksheets[0].iter_rows(min_row=2):
            for cell in row:
                if str(cell.value) in values:
                    cell.value = new
        path.unlink()
        book.save(path)
        return
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), delimiter=sep))
    rows[1:] = [[new if cell.strip() in values else cell for cell in row] for row in rows[1:]]
    out = io.StringIO()
    csv.writer(out, delimiter=sep).writerows(rows)
    path.unlink()
    path.write_text(out.getvalue(), encoding="utf-8")


def link(source: str, target: str) -> None:
    """Hard links are enough: the tests rename and replace files, they never write into one."""
    Path(target).hardlink_to(source)


def rename_column(path: Path, column: str) -> None:
    """Write the table anew with another header for `column`."""
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        for cell in book.worksheets[0][1]:
            if cell.value == column:
                cell.value = "renamed"
        path.unlink()
        book.save(path)
        return
    text = path.read_text(encoding="utf-8")
    assert column in text
    path.unlink()
    path.write_text(text.replace(column, "renamed", 1), encoding="utf-8")
