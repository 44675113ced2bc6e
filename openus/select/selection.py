"""Which files of a dataset are images, and what is known of each: labels, patient, clip, split, mask."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import BinaryIO

from openus.archives import Entry
from openus.decode.stack import clips
from openus.errors import DecodeError, ManifestError, SourceError, did_you_mean
from openus.glob import Glob, any_matches
from openus.manifest import Rule, Source
from openus.select.tables import TableMissingError, Tables


@dataclass(frozen=True, slots=True)
class Selected:
    """An image file: where it lies in the dataset (`path`), its name in the corpus (`member`), what is known."""

    path: str
    member: str
    size: int
    unit: str
    random: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    clip: str = ""
    split: str = ""
    mask: str = ""
    """Path of the mask in the dataset; "" where there is none."""
    rows: tuple[int, ...] = ()
    """Places of a clip's frames in the stack at `path`; empty where the file is one image, clip or volume."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """A file that is not an image, with the reason: excluded, not-selected, or the word of the source's code."""

    member: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    images: tuple[Selected, ...]
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()
    """What a person should know: members without a row in a table, masks that are missing."""


def select(
    source: Source, entries: Sequence[Entry], opener: Callable[[str], BinaryIO], salt: str = ""
) -> Selection:
    """Apply a source's manifest to the files of a copy of it.

    Raises:
        SourceError: nothing matches the selectors, a table or column is missing, a class is unknown.
    """
    keep, drop = [Glob(p) for p in source.images], [Glob(p) for p in source.exclude]
    chosen = [e for e in entries if any_matches(keep, e.path) and not any_matches(drop, e.path)]
    if not chosen:
        raise SourceError(
            f"{source.slug}: none of {len(entries)} files matches {', '.join(source.images)}; "
            f"is this the right folder or archive?{_sample(entries)}"
        )
    names = _members([entry.path for entry in entries], _wrapper([entry.path for entry in chosen], keep))
    code = _code(source)
    tables = Tables(source.slug, [entry.path for entry in entries], opener)
    annotator = _Annotator(source, tables, code, salt)
    images: list[Selected] = []
    excluded: list[Excluded] = []
    selected = {entry.path for entry in chosen}
    masks = _MaskFinder(source, [e.path for e in entries if e.path not in selected])
    for entry in sorted(entries, key=lambda e: e.path):
        member = names[entry.path]
        if entry.path not in selected:
            reason = "excluded" if any_matches(drop, entry.path) else "not-selected"
            excluded.append(Excluded(member, reason))
            continue
        refusal = code.keep(member, tables) if code is not None and hasattr(code, "keep") else None
        if refusal:
            excluded.append(Excluded(member, refusal))
            continue
        for part, size, rows in _parts(source, entry, member, opener):
            known = annotator(part)
            images.append(
                Selected(
                    entry.path,
                    part,
                    size,
                    entry.unit,
                    entry.random,
                    known.labels,
                    known.patient,
                    known.clip,
                    known.split,
                    masks(entry.path),
                    rows,
                )
            )
    return Selection(tuple(images), tuple(excluded), (*annotator.notes(), *masks.notes()))


def _parts(
    source: Source, entry: Entry, member: str, opener: Callable[[str], BinaryIO]
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(member, bytes, rows) of an image file: itself, or the clips of a stack."""
    if source.stack is None:
        yield member, entry.size, ()
        return
    try:
        with opener(entry.path) as file:
            found = clips(file, member, source.stack)
    except DecodeError as error:
        raise SourceError(f"{source.slug}: {error}") from error
    total = sum(len(clip.rows) for clip in found)
    for clip in found:
        yield f"{member}/{clip.name}", entry.size * len(clip.rows) // total, clip.rows


def _sample(entries: Sequence[Entry]) -> str:
    shown = [entry.path for entry in entries[:3]]
    return f" (it holds {', '.join(shown)}{', …' if len(entries) > 3 else ''})" if shown else " (it is empty)"


def _wrapper(paths: Sequence[str], globs: Sequence[Glob]) -> str:
    """The longest folder all paths share whose removal leaves every path fitting a pattern.

    An archive's top folder or a re-upload's nesting so never becomes part of a sample's identity.
    """
    shared = paths[0].rsplit("/", 1)[0].split("/") if "/" in paths[0] else []
    for path in paths:
        parts = path.split("/")[:-1]
        while parts[: len(shared)] != shared:
            shared.pop()
    for depth in range(len(shared), 0, -1):
        wrapper = "/".join(shared[:depth]) + "/"
        if all(any_matches(globs, path[len(wrapper) :]) for path in paths):
            return wrapper
    return ""


def _members(paths: Sequence[str], wrapper: str) -> dict[str, str]:
    """The name of each file inside the dataset: without the wrapper, and with ``X/X/…`` told as ``X/…``.

    An archive that holds a folder of its own name gives the former, the same archive unpacked the latter.
    """
    plain = {path: path.removeprefix(wrapper) for path in paths}
    short = {path: re.sub(r"^([^/]+)/\1/", r"\1/", name) for path, name in plain.items()}
    return short if len(set(short.values())) == len(short) else plain


def _code(source: Source) -> ModuleType | None:
    if source.code is None:
        return None
    try:
        return importlib.import_module(f"openus.sources.{source.code}")
    except ModuleNotFoundError as error:
        raise ManifestError(
            f"{source.slug}: 'code: {source.code}' names no module in openus.sources"
        ) from error


@dataclass(frozen=True, slots=True)
class _Known:
    labels: Mapping[str, str]
    patient: str
    clip: str
    split: str


class _Annotator:
    def __init__(self, source: Source, tables: Tables, code: ModuleType | None, salt: str) -> None:
        self.source, self.tables, self.salt = source, tables, salt
        self.annotate = getattr(code, "annotate", None)
        self.rules = {
            f"label '{name}'": _RuleReader(source, tables, rule, name) for name, rule in source.labels.items()
        }
        self.patient = self._reader("patient", source.patient)
        self.clip = self._reader("clip", source.clip)
        self.split = self._reader("split", source.split)

    def _reader(self, what: str, rule: Rule | None) -> _RuleReader | None:
        if rule is None:
            return None
        return self.rules.setdefault(what, _RuleReader(self.source, self.tables, rule, what))

    def __call__(self, member: str) -> _Known:
        labels = {name: self.rules[f"label '{name}'"](member) for name in self.source.labels}
        patient = self.patient(member) if self.patient else ""
        clip = self.clip(member) if self.clip else ("" if self.source.kind == "image" else member)
        split = self.split(member) if self.split else ""
        if self.annotate is not None:
            more = self.annotate(member, self.tables)
            labels |= more.get("labels", {})
            patient, clip, split = (
                more.get(k, v) for k, v in (("patient", patient), ("clip", clip), ("split", split))
            )
        named = {name: value for name, value in sorted(labels.items()) if value}
        return _Known(named, self._pseudonym(patient), clip, split)

    def _pseudonym(self, patient: str) -> str:
        if not patient or self.source.patients_public:
            return patient
        text = f"openus\0{self.salt}\0{self.source.slug}\0{patient}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def notes(self) -> list[str]:
        for what, rule in self.rules.items():
            if rule.asked and rule.missing == rule.asked and not rule.rule.optional:
                raise SourceError(
                    f"{self.source.slug}: not one of {rule.asked} files has a value for {what} by "
                    f"{rule.rule.table or rule.rule.path}; the names or the table differ from the manifest"
                )
        missing = [
            f"{what}: {rule.missing} of {rule.asked} files have no value"
            for what, rule in self.rules.items()
            if rule.missing
        ]
        torn = [
            f"{what}: {rule.rule.table} has rows that disagree on {', '.join(min(rule.torn))}, so none is used"
            + (f" (and {len(rule.torn) - 1} more like it)" if len(rule.torn) > 1 else "")
            for what, rule in self.rules.items()
            if rule.torn
        ]
        return missing + torn


class _RuleReader:
    """Evaluates one rule for member after member; the table is read once."""

    def __init__(self, source: Source, tables: Tables, rule: Rule, name: str) -> None:
        self.slug, self.rule, self.name, self.tables = source.slug, rule, name, tables
        self.pattern = re.compile(rule.path or rule.match or "")
        self.asked = self.missing = 0
        self.torn: set[tuple[str, ...]] = set()
        """Keys whose rows in the table disagree on the value."""
        self._values: dict[tuple[str, ...], str] | None = None

    def __call__(self, member: str) -> str:
        self.asked += 1
        raw = self._raw(member)
        if not raw:
            self.missing += 1
            return ""
        classes = self.rule.classes
        if classes is None:
            return self.rule.prefix + raw
        if raw in classes:
            return self.rule.prefix + classes[raw]
        if self.rule.open_classes:
            return self.rule.prefix + raw
        raise SourceError(
            f"{self.slug}: {self.name} of {member} is '{raw}', not one of {', '.join(classes)}"
            f"{did_you_mean(raw, classes)}; the data differ from the manifest"
        )

    def _raw(self, member: str) -> str:
        if self.rule.value is not None:
            return self.rule.value
        found = self.pattern.search(member)
        if found is None:
            return ""
        if self.rule.path is not None:
            return found["value"] or ""
        if self._values is None:
            self._values = self._index()
        groups = found.groupdict()
        key = (groups["key"],) if "key" in groups else tuple(groups[f"key{i}"] for i in range(len(groups)))
        return self._values.get(tuple(part.strip() for part in key), "")

    def _index(self) -> dict[tuple[str, ...], str]:
        """The value of each key; none where several rows of one key disagree, for nothing tells which is meant."""
        rule = self.rule
        assert rule.table is not None and rule.key is not None
        keys = (rule.key,) if isinstance(rule.key, str) else rule.key
        try:
            rows = self.tables.read(
                rule.table, columns=(*keys, str(rule.column)), what=self.name,
                sep=rule.sep, sheet=rule.sheet, skip=rule.skip, header=rule.header,
            )  # fmt: skip
        except TableMissingError:
            if rule.optional:
                return {}
            raise
        values: dict[tuple[str, ...], str] = {}
        for row in rows:
            key, value = tuple(row[column] for column in keys), row[str(rule.column)]
            if values.setdefault(key, value) != value:
                self.torn.add(key)
        return values | dict.fromkeys(self.torn, "")


class _MaskFinder:
    """Finds the mask of an image: the file whose path ends with the template filled from the image's path."""

    def __init__(self, source: Source, others: Sequence[str]) -> None:
        self.rule = source.masks
        self.by_name: dict[str, list[str]] = {}
        self.asked = self.missing = 0
        if self.rule is not None:
            for path in others:
                self.by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)

    def __call__(self, path: str) -> str:
        if self.rule is None:
            return ""
        self.asked += 1
        found = re.search(self.rule.match, path)
        wanted = self.rule.path.format(**found.groupdict()) if found else ""
        hits = [
            p
            for p in self.by_name.get(wanted.rsplit("/", 1)[-1], [])
            if p == wanted or p.endswith("/" + wanted)
        ]
        if not wanted or not hits:
            self.missing += 1
            return ""
        # Of several copies, the one that shares the longest beginning with the image.
        return max(hits, key=lambda p: (_shared_prefix(p, path), p))

    def notes(self) -> list[str]:
        return [f"masks: {self.missing} of {self.asked} images have none"] if self.missing else []


def _shared_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
