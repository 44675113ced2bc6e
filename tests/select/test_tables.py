import io
import json

import openpyxl
import pytest

from openus.errors import SourceError
from openus.select.tables import Tables


def tables(**files: bytes) -> Tables:
    named = {name.replace("__", ".").replace("_in_", "/"): data for name, data in files.items()}
    return Tables("toy", list(named), lambda path: io.BytesIO(named[path]))


def spreadsheet() -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "notes"
    sheet = book.create_sheet("Lesions 2021")
    for row in (["a heading"], ["Case", "Type"], [3, "Benign "], [None, None], [4.0, "Malignant"]):
        sheet.append(row)
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def test_delimited_text_keeps_its_text() -> None:
    rows = tables(x__csv=b"\xef\xbb\xbfa, b\n001, x \n2,\n").read("x.csv")
    assert rows == [{"a": "001", "b": "x"}, {"a": "2", "b": ""}]


def test_other_separators_and_no_header() -> None:
    assert tables(x__csv=b"a;b\n1;2\n").read("x.csv", sep=";") == [{"a": "1", "b": "2"}]
    assert tables(x__tsv=b"a\tb\n1\t2\n").read("x.tsv") == [{"a": "1", "b": "2"}]
    assert tables(x__txt=b"1.JPG  5\n2.JPG  0\n").read("x.txt", sep=r"\s+", header=False) == [
        {"0": "1.JPG", "1": "5"},
        {"0": "2.JPG", "1": "0"},
    ]


def test_spreadsheets_by_sheet_and_skipped_rows() -> None:
    rows = tables(x__xlsx=spreadsheet()).read("x.xlsx", sheet="Lesions", skip=1)
    assert rows == [{"Case": "3", "Type": "Benign"}, {"Case": "4", "Type": "Malignant"}]


def test_json_records() -> None:
    data = json.dumps({"info": {}, "images": [{"id": 1, "name": " a "}, {"id": 2, "name": None}]}).encode()
    assert tables(x__json=data).read("x.json") == [{"id": "1", "name": "a"}, {"id": "2", "name": ""}]


def test_the_shallowest_of_several_copies() -> None:
    both = tables(deep_in_x__csv=b"a\n1\n", x__csv=b"a\n2\n")
    assert both.read("x.csv") == [{"a": "2"}]


@pytest.mark.parametrize(
    ("files", "selector", "words"),
    [
        ({"labels__csv": b"a\n"}, "label.csv", "did you mean 'labels.csv'?"),
        ({"x__xlsx": b"<html>not a workbook</html>"}, "x.xlsx", "cannot be read as a table"),
        ({"x__json": b"[1, 2]"}, "x.json", "expected a list of records"),
    ],
)
def test_a_table_that_is_none(files: dict[str, bytes], selector: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        tables(**files).read(selector)
    assert words in str(caught.value)
