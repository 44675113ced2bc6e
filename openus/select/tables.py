"""Label tables that travel with a dataset (CSV, TSV, XLSX, JSON), read as text."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from openus.errors import MissingExtraError, SourceError, did_you_mean
from openus.glob import Glob

Row = dict[str, str]
MAX_TABLE_BYTES = 512 << 20
_WILD = re.compile(r"[*?[{]")


class TableMissingError(SourceError):
    """A table the manifest names is not among the files of the dataset."""


class Tables:
    """Finds and reads the tables of one dataset; every value is stripped text, "" where empty.

    `paths` are all files of the dataset; `opener` opens one of them.
    """

    def __init__(self, slug: str, paths: Sequence[str], opener: Callable[[str], BinaryIO]) -> None:
        self._slug, self._paths, self._open = slug, paths, opener
        self._cache: dict[tuple[object, ...], list[Row]] = {}
        self._found: dict[str, str] = {}
        self._named: dict[str, list[str]] = {}
        for path in paths:
            self._named.setdefault(path.rsplit("/", 1)[-1], []).append(path)

    def find(self, selector: str) -> str:
        """The path of the one file a selector names; where copies lie at several depths, the shallowest."""
        if selector in self._found:
            return self._found[selector]
        glob, name = Glob(selector), selector.rsplit("/", 1)[-1]
        # Some sources have a table for each of their files: by its name, if it is one, the paths are few.
        paths = self._paths if _WILD.search(name) else self._named.get(name, [])
        hits = [path for path in paths if glob.matches(path)]
        if not hits:
            near = did_you_mean(name, self._named)
            raise TableMissingError(
                f"{self._slug}: no file matches '{selector}' among {len(self._paths)} files{near}; "
                "the download is incomplete or its layout has changed"
            )
        self._found[selector] = min(hits, key=lambda path: (path.count("/"), path))
        return self._found[selector]

    def text(self, selector: str) -> str:
        """The whole file as text (UTF-8, else Latin-1)."""
        return _decode(self._bytes(self.find(selector)))

    def data(self, selector: str) -> bytes:
        """The bytes of the file a selector names.

        Raises:
            SourceError: no such file, or it is far larger than a table.
        """
        return self._bytes(self.find(selector))

    def paths(self, selector: str) -> list[str]:
        """The paths of all files a selector names, sorted; empty where there is none."""
        glob = Glob(selector)
        return sorted(path for path in self._paths if glob.matches(path))

    def read(
        self,
        selector: str,
        *,
        columns: Iterable[str] = (),
        what: str = "",
        sep: str | None = None,
        sheet: str | None = None,
        skip: int = 0,
        header: bool = True,
    ) -> list[Row]:
        """The rows of a table as dictionaries from column name to stripped text; `columns` must be there, for `what`.

        Raises:
            SourceError: no such file, it is not a table of the format its suffix names, or it lacks a column.
            MissingExtraError: a spreadsheet, and openpyxl is not installed.
        """
        path = self.find(selector)
        key = (path, sep, sheet, skip, header)
        if key not in self._cache:
            self._cache[key] = self._load(path, sep, sheet, skip, header)
        rows = self._cache[key]
        for column in columns if rows else ():
            if column not in rows[0]:
                raise SourceError(
                    f"{self._slug}: {selector} has no column '{column}'{what and f' for {what}'}"
                    f"{did_you_mean(column, rows[0])} (columns: {', '.join(rows[0])})"
                )
        return rows

    def _bytes(self, path: str) -> bytes:
        with self._open(path) as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        if len(data) > MAX_TABLE_BYTES:
            raise SourceError(
                f"{self._slug}: {path} is larger than {MAX_TABLE_BYTES >> 20} MiB, no label table is"
            )
        return data

    def _load(self, path: str, sep: str | None, sheet: str | None, skip: int, header: bool) -> list[Row]:
        data = self._bytes(path)
        suffix = path.rsplit(".", 1)[-1].lower()
        try:
            if suffix in ("xlsx", "xlsm"):
                return _spreadsheet(data, sheet, skip, header)
            if suffix == "json":
                return _records(json.loads(data))
            return _delimited(_decode(data), sep or ("\t" if suffix == "tsv" else None), skip, header)
        except MissingExtraError:
            raise
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
            raise SourceError(f"{self._slug}: {path} cannot be read as a table: {error}") from error


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _clean(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # spreadsheets keep whole numbers as 3.0
    return str(value).strip()


def _delimited(text: str, sep: str | None, skip: int, header: bool) -> list[Row]:
    import pandas as pd

    if not text.strip():
        return []
    frame = pd.read_csv(
        io.StringIO(text),
        sep=sep if sep is not None else ",",
        skiprows=skip,
        header=0 if header else None,
        dtype=str,
        keep_default_na=False,
        engine="python" if sep is not None and len(sep) > 1 else "c",
        skipinitialspace=True,
        index_col=False,
    )
    frame.columns = [str(column).strip() for column in frame.columns]
    return [{str(k): _clean(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _spreadsheet(data: bytes, sheet: str | None, skip: int, header: bool) -> list[Row]:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", "tables", "reading an .xlsx label table") from error
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    names = [name for name in book.sheetnames if sheet is None or name.startswith(sheet)]
    if not names:
        raise ValueError(f"no sheet whose name begins with '{sheet}' (sheets: {', '.join(book.sheetnames)})")
    lines = list(book[names[0]].iter_rows(values_only=True))[skip:]
    if not lines:
        return []
    columns = [_clean(cell) for cell in lines[0]] if header else [str(i) for i in range(len(lines[0]))]
    return [
        {column: _clean(cell) for column, cell in zip(columns, line, strict=False)}
        for line in lines[1 if header else 0 :]
        if any(cell is not None for cell in line)
    ]


def _records(value: object) -> list[Row]:
    if isinstance(value, dict):
        lists: Iterable[list[object]] = [v for v in value.values() if isinstance(v, list)]
        value = max(lists, key=len, default=[])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("expected a list of records")
    return [{str(k): _clean(v) for k, v in item.items()} for item in value]
