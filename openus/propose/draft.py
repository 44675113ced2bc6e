"""The proposed manifest: put together, tried on the folder, written as YAML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openus.archives import Entry, Tree
from openus.catalogue import parse
from openus.errors import SourceError, UsageError
from openus.manifest import Source
from openus.propose.globs import folder_patterns, marked_patterns, repair, split_by_place
from openus.propose.look import Findings, look, words_of, wrapper_of
from openus.propose.masks import mask_rule
from openus.propose.rules import Rules, find_rules
from openus.select import Selection, select

ANATOMY = (
    "breast", "thyroid", "liver", "kidney", "heart", "lung", "prostate", "ovary", "fetus", "fetal head", "muscle",
    "nerve", "carotid artery", "abdomen", "pancreas", "spleen", "bladder", "uterus", "brain", "eye", "skin",
)  # fmt: skip
HEAD = """\
# Proposed by openus add-source from the names and contents of {files} files. Check it, above all:
# licence, anatomy and title, which no file tells{more}.
"""


@dataclass
class Draft:
    """A proposal: the manifest as fields, as text and as a checked `Source`; what it selects; what to look at."""

    fields: dict[str, Any]
    text: str
    source: Source
    selection: Selection
    findings: Findings
    notes: list[str] = field(default_factory=list)


def slug_of(name: str) -> str:
    """A slug from a folder's or archive's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "my-dataset"


def propose(place: Path, slug: str, *, title: str = "", anatomy: str = "") -> Draft:
    """Propose a manifest for the dataset at `place`, a folder or an archive.

    The proposal is read back and applied to the folder; rules that do not stand that are left out and noted.
    Raises `UsageError` where there are no pictures.
    """
    tree = Tree([place])
    entries = tree.entries()
    findings = look(entries, tree.open)
    if not findings.pictures:
        told = f"{len(entries)} files, {len(findings.masks)} of them like masks" if entries else "no files"
        raise UsageError(f"{place}: no pictures, clips or volumes were found among {told}")
    paths = [entry.path for entry in entries]
    images, exclude = _selectors(findings, paths)
    rules = find_rules(findings.pictures, findings.tables, paths, tree.open)
    fields = _fields(
        slug, title or place.stem, anatomy or _anatomy(slug, paths), findings, images, exclude, rules
    )
    if findings.kind == "image" and findings.masks:
        masks = mask_rule(findings.pictures, findings.masks, tree.open)
        if masks is None:
            rules.notes.append(
                "the names do not tell which mask belongs to which picture; add 'masks' by hand"
            )
        else:
            fields["masks"] = masks
    wrapper = wrapper_of(paths) or "\n"  # the top folder tells a person nothing
    notes = [" ".join(note.replace(wrapper, "").split()) for note in (*findings.notes, *rules.notes)]
    selection = _tried(fields, entries, tree, notes)
    fields["expected"] = _expected(selection, findings)
    fields["confidence"] = "unknown: proposed from the files, not checked by a person"
    text = _text(fields, len(entries), notes)
    source = parse(yaml.safe_load(text), Source, f"the proposal for {place}")
    return Draft(fields, text, source, selection, findings, notes)


def _selectors(findings: Findings, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    apart, among = split_by_place(findings.masks, findings.pictures)
    wrapper = wrapper_of(paths)
    exclude = folder_patterns(apart, wrapper) if apart else []
    exclude += marked_patterns(among, findings.marks)
    return repair(findings.pictures, paths, folder_patterns(findings.pictures, wrapper), exclude)


def _fields(
    slug: str,
    title: str,
    anatomy: str,
    findings: Findings,
    images: list[str],
    exclude: list[str],
    rules: Rules,
) -> dict[str, Any]:
    manual = f"Give your copy with --local {slug}=PATH, or put it into the drop folder of this source."
    fields: dict[str, Any] = {
        "schema": 1,
        "slug": slug,
        "name": title,
        "title": title,
        "anatomy": anatomy,
        "kind": findings.kind,
        "licence": {"name": "unknown", "redistribution": "recipe-only"},
        "routes": [{"host": "manual", "access": "request", "steps": [manual]}],
        "images": images,
    }
    if exclude:
        fields["exclude"] = exclude
    if findings.kind == "video":
        fields["frames"] = {"stride": 5, "cap": 64}
    elif findings.kind == "volume":
        fields["frames"] = {"axis": "z", "nonempty": True}
    found = {"patient": rules.patient, "labels": rules.labels, "split": rules.split}
    return fields | {name: rule for name, rule in found.items() if rule}


def _anatomy(slug: str, paths: Sequence[str]) -> str:
    """An organ that the name, or else the folders, speak of."""
    for words in (set(words_of(slug)), {word for path in paths for word in words_of(path)}):
        found = next((name for name in ANATOMY if set(name.split()) <= words), "")
        if found:
            return found
    return "unknown"


def _tried(fields: dict[str, Any], entries: Sequence[Entry], tree: Tree, notes: list[str]) -> Selection:
    """Apply the proposal as a build would; a rule that fails on this very folder is taken out."""
    for name in ("", "labels", "split", "patient"):
        if name and fields.pop(name, None) is None:
            continue
        source = parse(fields, Source, "the proposal")
        try:
            return select(source, entries, tree.open)
        except SourceError as error:
            problem = str(error).removeprefix(f"{source.slug}: ")
            notes.append(f"a rule was left out or is to be mended: {problem}")
    raise UsageError(f"no manifest fits this folder: {notes[-1]}")


def _expected(selection: Selection, findings: Findings) -> dict[str, Any]:
    images = selection.images
    expected: dict[str, Any] = {"members": len(images)}
    if findings.kind == "image":
        expected["frames"] = len(images)
    patients = {image.patient for image in images} - {""}
    if patients:
        expected["patients"] = len(patients)
    names = sorted({name for image in images for name in image.labels})
    if names:
        expected["labels"] = {
            name: dict(sorted(Counter(i.labels[name] for i in images if name in i.labels).items()))
            for name in names
        }
    return expected


class _Dumper(yaml.SafeDumper):
    """Never writes anchors: a manifest is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(fields: dict[str, Any], files: int, notes: Sequence[str]) -> str:
    body = yaml.dump(
        fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    asked = "".join(f"# - {note}\n" for note in notes)
    more = ", and these" if notes else ""
    return HEAD.format(files=f"{files:,}", more=more) + asked + body
