"""Patient, split and labels of an unknown folder: from its folders, its file names, its tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openus.errors import OpenUSError
from openus.propose.globs import literal
from openus.propose.look import Opener, stem_of, suffix_of, words_of
from openus.select.tables import Row, Tables

Rule = dict[str, Any]

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_WORDS = {
    "image", "images", "img", "imgs", "picture", "pictures", "scan", "scans", "frame", "frames", "video", "videos",
    "clip", "clips", "volume", "volumes", "data", "raw", "original", "originals", "us", "ultrasound", "png", "jpg",
    "jpeg", "bmp", "dicom", "dcm", "nii",
}  # fmt: skip
PATIENT_WORDS = {
    "patient", "patients", "pat", "pt", "case", "cases", "subject", "subjects", "subj", "sub", "person", "pid",
}  # fmt: skip
SPLIT_WORDS = {"split", "set", "fold", "subset", "partition", *SPLITS}
EMPTY = {"", "nan", "na", "n/a", "none", "null", "-", "?"}
NUMBERED = re.compile(r"(?i)^(?P<prefix>[a-z]*[ _-]?)\d+[a-z]?$")
MOST_CLASSES = 20
LARGEST_GRADE = 20
LEAST_SHARE = 0.8
"""Part of the pictures a rule must give a value to."""


@dataclass
class Rules:
    """The rule fields of a manifest, and what a person should know of how they were found."""

    patient: Rule | None = None
    split: Rule | None = None
    labels: dict[str, Rule] = field(default_factory=dict)
    told: set[tuple[str, ...]] = field(default_factory=set)
    """Values of columns that are labels already: the same column often stands in several tables."""
    notes: list[str] = field(default_factory=list)

    def label(self, name: str, rule: Rule) -> None:
        """Add a label under a name that is still free."""
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "class"
        number = 2
        free = plain
        while free in self.labels:
            free, number = f"{plain}_{number}", number + 1
        self.labels[free] = rule


def find_rules(
    pictures: Sequence[str], tables: Sequence[str], everything: Sequence[str], opener: Opener
) -> Rules:
    """All rules that can be told: tables before folders, folders before file names."""
    rules = Rules()
    _folders(pictures, rules)
    if rules.patient is None:
        _patient_in_name(pictures, rules)
    _tables(pictures, tables, everything, opener, rules)
    if not rules.labels:
        _class_in_name(pictures, rules)
    return rules


# ── folders ────────────────────────────────────────────────────────────────────────────────────────────────


def _folders(pictures: Sequence[str], rules: Rules) -> None:
    """A role for each level of folders, counted from the file up: so a folder more around changes nothing."""
    parts = [path.split("/")[:-1] for path in pictures]
    for up in range(1, min(map(len, parts), default=0) + 1):
        values = Counter(folders[-up] for folders in parts)
        rest = "/" + r"[^/]+/" * (up - 1) + "[^/]+$"
        if len(values) < 2 or all(set(words_of(v)) & IMAGE_WORDS for v in values):
            continue
        if rules.split is None and all(value.lower() in SPLITS for value in values):
            classes = {value: SPLITS[value.lower()] for value in sorted(values)}
            rules.split = {"path": _one_of(values) + rest, "classes": classes}
        elif rules.patient is None and all(NUMBERED.match(value) for value in values):
            rules.patient = {"path": f"(?:^|/)(?P<value>{_numbered(values)}){rest}"}
        elif (
            len(values) <= MOST_CLASSES
            and min(values.values()) > 1
            and not any(v.isdecimal() for v in values)
        ):
            rules.label("class", {"path": _one_of(values) + rest, "classes": _classes(values)})
        elif rules.patient is None and len(values) > MOST_CLASSES:
            rules.patient = {"path": f"(?:^|/)(?P<value>[^/]+){rest}"}
            rules.notes.append(f"each of {len(values)} folders is taken for a patient; is it one?")


def _one_of(values: Iterable[str]) -> str:
    return f"(?:^|/)(?P<value>{'|'.join(re.escape(value) for value in sorted(values))})"


def _classes(values: Collection[str]) -> dict[str, str]:
    """Raw value to class name: words in lower case, where they stay different; codes as they are written."""
    if any(re.search(r"[^A-Za-z _-]", value) or (value.isupper() and len(value) < 4) for value in values):
        return {value: value for value in sorted(values)}
    names = {value: " ".join(value.replace("_", " ").lower().split()) for value in sorted(values)}
    return names if len(set(names.values())) == len(names) else {value: value for value in names}


def _numbered(values: Iterable[str]) -> str:
    """A pattern for values like ``p01``, ``case_7`` or ``0012a``."""
    prefixes = {match["prefix"] for value in values if (match := NUMBERED.match(value))}
    head = re.escape(prefixes.pop()) if len(prefixes) == 1 else r"[A-Za-z]*[ _-]?"
    return head + r"\d+[A-Za-z]?"


# ── file names ─────────────────────────────────────────────────────────────────────────────────────────────


def _patient_in_name(pictures: Sequence[str], rules: Rules) -> None:
    """``patient07_2.png``, ``p07_a.png``: a word for people with a number, or a first part that many share."""
    words = "|".join(sorted((*PATIENT_WORDS, "p"), key=len, reverse=True))
    for value, after in (
        (rf"(?i:{words})[_-]?\d+", r"(?![^/]*/)(?!\d)"),
        (r"[A-Za-z]{0,4}\d+", r"[_-][^/]*$"),
    ):
        guess = value.startswith("[")
        before = "(?:^|/)" if guess else r"(?:^|[/_. -])"
        path = f"{before}(?P<value>{value}){after}"
        found = [match["value"] for picture in pictures if (match := re.search(path, picture))]
        if len(found) < LEAST_SHARE * len(pictures) or not 1 < len(set(found)) < len(found):
            continue
        heads = {re.sub(r"\d+$", "", name) for name in found}
        if len(heads) == 1:  # say it simply where all are written alike
            path = f"{before}(?P<value>{re.escape(heads.pop())}\\d+){after}"
        rules.patient = {"path": path} | ({"optional": True} if len(found) < len(pictures) else {})
        if guess:
            rules.notes.append(
                f"the first part of the names ('{found[0]}') is taken for the patient; is it one?"
            )
        return


def _class_in_name(pictures: Sequence[str], rules: Rules) -> None:
    """``benign (1).png``: a first word that a few kinds of files share."""
    path = r"(?:^|/)(?P<value>[A-Za-z]+)(?=[ _(-]*\d)[^/]*$"
    found = Counter(match["value"] for picture in pictures if (match := re.search(path, picture)))
    if sum(found.values()) == len(pictures) and 1 < len(found) <= MOST_CLASSES and min(found.values()) > 1:
        rules.label("class", {"path": path, "classes": _classes(found)})
        rules.notes.append(f"the first words of the names ({', '.join(sorted(found))}) are taken for classes")


# ── tables ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Join:
    """How a table's rows belong to pictures: `match` gives the key of a picture, `column` holds it."""

    column: str
    match: str
    keys: tuple[str, ...]
    share: float


def _tables(
    pictures: Sequence[str], tables: Sequence[str], everything: Sequence[str], opener: Opener, rules: Rules
) -> None:
    reader = Tables("table", everything, opener)
    for path in tables:
        name = path.rsplit("/", 1)[-1]
        alike = [other for other in everything if other.rsplit("/", 1)[-1] == name]
        selector = literal(name if len(alike) == 1 else path)
        try:
            rows = reader.read(selector)
        except OpenUSError as error:
            rules.notes.append(f"{path} was not read: {error}")
            continue
        join = _join(pictures, rows, rules)
        if join is None:
            rules.notes.append(f"no column of {path} names the pictures or patients, so it gives no labels")
            continue
        _columns(selector, rows, join, rules)


def _join(pictures: Sequence[str], rows: Sequence[Row], rules: Rules) -> _Join | None:
    """The column whose values are the names, the stems or the patients of most pictures."""
    ends = sorted({re.escape(suffix_of(p)) for p in pictures})
    end = ends[0] if len(ends) == 1 else f"(?:{'|'.join(ends)})"
    forms = {
        rf"(?:^|/)(?P<key>[^/]+{end})$": [p.rsplit("/", 1)[-1] for p in pictures],
        rf"(?:^|/)(?P<key>[^/]+){end}$": [stem_of(p) for p in pictures],
        rf"(?:^|/)(?P<key>[^/]+/[^/]+{end})$": ["/".join(p.split("/")[-2:]) for p in pictures],
    }
    if rules.patient is not None and "path" in rules.patient:
        pattern = rules.patient["path"]
        found = [m["value"] if (m := re.search(pattern, p)) else "" for p in pictures]
        forms[pattern.replace("(?P<value>", "(?P<key>")] = found
    joins = []
    for column in rows[0] if rows else ():
        there = {row[column] for row in rows} - {""}
        for match, keys in forms.items():
            share = sum(key in there for key in keys) / len(keys)
            joins.append(_Join(column, match, tuple(keys), share))
    best = max(joins, key=lambda join: join.share, default=None)
    return best if best is not None and best.share >= LEAST_SHARE else None


def _columns(selector: str, rows: Sequence[Row], join: _Join, rules: Rules) -> None:
    """A rule for each column that tells a patient, a split or a class."""
    by_key = {row[join.column]: row for row in rows}
    joined = [by_key[key] for key in join.keys if key in by_key]
    base: Rule = {"table": selector, "match": join.match, "key": join.column}
    left: list[str] = []
    for column in rows[0]:
        values = Counter(row[column] for row in joined if row[column].lower() not in EMPTY)
        words = set(words_of(column)) | {column.lower()}
        if (
            column == join.column
            or not values
            or (told := tuple(row[column] for row in joined)) in rules.told
        ):
            continue
        gaps = sum(values.values()) < len(join.keys)
        rule = base | {"column": column} | ({"optional": True} if gaps else {})
        if words & PATIENT_WORDS:
            if rules.patient is None or "table" not in rules.patient:
                rules.patient = rule
        elif words & SPLIT_WORDS:
            if (
                (rules.split is None or "table" not in rules.split)
                and len(values) <= MOST_CLASSES
                and not gaps
            ):
                named = all(value.lower() in SPLITS for value in values)
                classes = {value: SPLITS[value.lower()] for value in sorted(values)} if named else {}
                rules.split = rule | ({"classes": classes} if classes else {})
            else:
                left.append(column)
        elif _is_class(values, len(joined)):
            # Values of rows whose pictures are not here are listed too, so that a complete copy fits as well.
            rules.label(column, rule | {"classes": _classes({row[column] for row in rows} - {""})})
            rules.told.add(told)
        else:
            left.append(column)
    if left:
        rules.notes.append(f"columns of {selector} that are not used: {', '.join(left)}")


def _is_class(values: Counter[str], rows: int) -> bool:
    """A few values that recur; numbers only where they are small, as grades and scores are, not ages or sizes."""
    numbers = [float(value) for value in values if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", value)]
    if len(numbers) == len(values) and max(numbers) > LARGEST_GRADE:
        return False
    return 2 <= len(values) <= min(MOST_CLASSES, max(2, rows // 2))
