"""What `openus add-source` does, between its options (`cli.py`) and the proposal."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from openus import console
from openus.catalogue import Catalogue
from openus.errors import UsageError, a_few
from openus.manifest import SLUG
from openus.propose.draft import Draft, propose, slug_of
from openus.propose.look import wrapper_of
from openus.storage.files import write_bytes

EXAMPLES = 3
CLASSES = 8


def add_source(
    folder: Path, *, slug: str | None, title: str, anatomy: str, out: Path, force: bool, as_json: bool
) -> None:
    """Propose a manifest for `folder`, show what it selects, write it. Raises `UsageError` before any work
    where the slug is taken or the manifest is there already."""
    folder = folder.expanduser()
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder or archive")
    name = slug or slug_of(folder.resolve().stem)
    if not re.match(SLUG, name):
        raise UsageError(f"--slug {name}: use lower-case letters, digits and hyphens")
    if name in Catalogue().slugs:
        raise UsageError(f"'{name}' is a source of OpenUS-46 already; give another name with --slug")
    target = _target(out.expanduser(), name)
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; replace it with --force, or write elsewhere with --out")
    draft = propose(folder, name, title=title, anatomy=anatomy)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, draft.text.encode())
    if as_json:
        console.print_json(_summary(draft, target))
        return
    _preview(draft)
    _commands(draft, target, folder)


def _target(out: Path, slug: str) -> Path:
    """A YAML file as it is; else the file in a folder of manifests, which may have a folder for sources."""
    if out.suffix in (".yaml", ".yml"):
        if re.sub(r"^\d+-", "", out.stem) != slug:
            raise UsageError(
                f"--out {out}: a manifest is called like its slug; expected {slug}.yaml, or --slug"
            )
        return out
    return (out / "sources" if (out / "sources").is_dir() else out) / f"{slug}.yaml"


def _summary(draft: Draft, target: Path) -> dict[str, object]:
    images = draft.selection.images
    return {
        "manifest": str(target),
        "slug": draft.source.slug,
        "kind": draft.source.kind,
        "selected": len(images),
        "excluded": len(draft.selection.excluded),
        "masks": sum(bool(image.mask) for image in images),
        "patients": len({image.patient for image in images} - {""}),
        "splits": dict(Counter(image.split for image in images if image.split)),
        "labels": draft.fields["expected"].get("labels", {}),
        "examples": [image.member for image in images[:EXAMPLES]],
        "notes": draft.notes,
    }


def _preview(draft: Draft) -> None:
    selection, source = draft.selection, draft.source
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(draft):
        table.add_row(name, escape(value))
    console.out.print(f"[bold]{source.slug}[/]: {len(selection.images):,} {source.kind}s")
    console.out.print(table)
    for note in [*draft.notes, *selection.notes]:
        console.out.print(f"  look at: {note}", style="yellow", markup=False, soft_wrap=True)


def _lines(draft: Draft) -> Iterable[tuple[str, str]]:
    images, source, findings = draft.selection.images, draft.source, draft.findings
    yield "selected by", ", ".join(source.images)
    yield "for example", ", ".join(image.member for image in images[:EXAMPLES])
    if source.exclude:
        yield "excluded by", ", ".join(source.exclude)
    wrapper = wrapper_of([*findings.pictures, *findings.masks, *findings.tables, *findings.others])
    for place, reason in sorted(findings.reasons.items()):
        yield "masks", f"{place.removeprefix(wrapper)} ({reason.removeprefix('named: ')})"
    if source.masks is not None:
        yield "", f"{sum(bool(image.mask) for image in images):,} of {len(images):,} images have one"
    left = [path.removeprefix(wrapper) for path in (*findings.tables, *findings.others)]
    if left:
        yield "not pictures", a_few(left, EXAMPLES)
    patients = {image.patient for image in images} - {""}
    yield (
        "patients",
        f"{len(patients):,}" if patients else "unknown: splits will go by clip, then by duplicates",
    )
    splits = Counter(image.split for image in images if image.split)
    if splits:
        yield "split", _counts(splits)
    for name, counts in draft.fields["expected"].get("labels", {}).items():
        yield f"label {name}", _counts(counts)


def _counts(counts: dict[str, int]) -> str:
    return a_few([f"{name} {count:,}" for name, count in counts.items()], CLASSES)


def _commands(draft: Draft, target: Path, folder: Path) -> None:
    slug, manifests = draft.source.slug, target.parent
    if manifests.name == "sources":
        manifests = manifests.parent
    mine = f"--manifests {shlex.quote(str(manifests))}"
    local = shlex.quote(f"{slug}={folder}")
    console.out.print(f"\nwritten to [bold]{escape(str(target))}[/]; correct it, then:", soft_wrap=True)
    for line in (f"openus show {slug} {mine}", f"openus build OUT {mine} --source {slug} --local {local}"):
        console.out.print(f"  {line}", markup=False, soft_wrap=True)
