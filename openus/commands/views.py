"""Tables and lists for people, and the same as JSON for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from rich.table import Table

from openus.commands.missing import missing
from openus.console import amount, err, out, print_json
from openus.errors import NeedsPersonError, UsageError, did_you_mean
from openus.estimate import estimate_all

if TYPE_CHECKING:
    from openus.catalogue import Catalogue
    from openus.manifest import Source
    from openus.shards.verify import Verdict
    from openus.stages.repair import Repair
    from openus.stages.results import BuildResult, SourceResult

_SHOWN_PROBLEMS, _SHOWN_CLASSES = 20, 8


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(
            column,
            justify=justify,
            overflow="fold",
            no_wrap=column
            in ("#", "source", "access", "sharing", "expected", "here", "set", "bytes", "time", "confidence"),
        )
    return table


def number(value: int | None) -> str:
    """A count for people: thousands separated, "?" where unknown."""
    return "?" if value is None else f"{value:,}"


def plural(count: int, thing: str) -> str:
    """``1 shard``, ``1,024 shards``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def sources(
    catalogue: Catalogue, cache: Path | None, wanted: Mapping[str, str | None], estimate: bool, as_json: bool
) -> None:
    """`openus sources`: a row per source, filtered."""
    from openus.fetch import cached, default_cache

    place = cache or default_cache()
    rows: list[dict[str, Any]] = []
    for source in sorted(catalogue.sources(), key=lambda s: (s.number or 10**6, s.slug)):
        facts = {"anatomy": source.anatomy, "access": source.access, "kind": source.kind}
        if all(value is None or value.lower() in facts[name].lower() for name, value in wanted.items()):
            rows.append(
                {
                    "number": source.number,
                    "slug": source.slug,
                    **facts,
                    "licence": source.licence.name,
                    "redistribution": source.licence.redistribution,
                    "expected": source.expected.frames,
                    "members": source.expected.members,
                    "cached": cached(source, place),
                }
            )
    if not rows:
        raise UsageError(_no_source(catalogue, wanted))
    if estimate:
        _estimate(catalogue, [row["slug"] for row in rows], as_json)
        return
    if as_json:
        print_json(rows)
        return
    narrow = out.width < 100
    cells: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "#": lambda row: str(row["number"] or ""),
        "source": lambda row: f"[bold]{row['slug']}[/]",
        "anatomy": lambda row: escape(row["anatomy"]),
        "kind": lambda row: row["kind"],
        "access": lambda row: row["access"],
        "sharing": lambda row: row["redistribution"].removesuffix("-only"),
        "expected": _expected,
        "here": lambda row: "✓" if narrow and row["cached"] else row["cached"],
    }
    shown = {name: cell for name, cell in cells.items() if not (narrow and name in ("#", "kind"))}
    table = _table(*shown, right=("#", "expected"))
    if narrow:
        table.padding = (0, 1, 0, 0)
    for row in rows:
        table.add_row(*(cell(row) for cell in shown.values()))
    out.print(table)
    out.print(f"\n{len(rows)} sources. Details: openus show SLUG", style="dim")


def _no_source(catalogue: Catalogue, wanted: Mapping[str, str | None]) -> str:
    """Which word of a filter no source has, and what there is instead."""
    given = {name: value for name, value in wanted.items() if value}
    for name, value in given.items():
        known = sorted({getattr(source, name) for source in catalogue.sources()})
        if not any(value.lower() in word.lower() for word in known):
            return f"no source has {name}={value}{did_you_mean(value, known)} (there are: {', '.join(known)})"
    return f"no source has {' and '.join(f'{name}={value}' for name, value in given.items())}"


def _expected(row: Mapping[str, Any]) -> str:
    """Frames where they are known, else the files that hold them."""
    if row["expected"] is not None or row["members"] is None:
        return number(row["expected"])
    return f"{row['members']:,} {'clips' if row['kind'] == 'video' else 'files'}"


def _estimate(catalogue: Catalogue, slugs: list[str], as_json: bool) -> None:
    rows = estimate_all(catalogue, slugs)
    if as_json:
        print_json(rows)
        return
    columns = ("#", "source", "frames", "policy", "samples", "confidence")
    narrow = out.width < 100
    table = _table(*columns[narrow:], right=("#", "frames", "samples"))
    if narrow:
        table.padding = (0, 1, 0, 0)
    for row in rows:
        cells = (
            str(row["number"] or ""),
            row["slug"],
            number(row["frames"]),
            row["policy"],
            number(row["samples"]),
            row["confidence"],
        )
        table.add_row(*cells[narrow:])
    known = [row["samples"] for row in rows if row["samples"] is not None]
    out.print(table)
    out.print(
        f"\nabout {sum(known):,} samples from {len(known)} sources; {len(rows) - len(known)} unknown. "
        "Estimates, not counts."
    )


def show(source: Source, as_json: bool) -> None:
    """`openus show`: everything the manifest knows."""
    if as_json:
        print_json(source.model_dump(mode="json", by_alias=True))
        return
    out.print(f"[bold]{source.slug}[/]  {escape(source.title)}")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(source):
        facts.add_row(name, escape(value))
    out.print(facts)


def _facts(source: Source) -> list[tuple[str, str]]:
    expected = source.expected
    rows = [
        ("number", str(source.number or "")),
        ("anatomy", source.anatomy),
        ("kind", source.kind),
        ("homepage", source.homepage or ""),
        (
            "licence",
            f"{source.licence.name} → {source.licence.redistribution}"
            + (f" ({source.licence.note})" if source.licence.note else ""),
        ),
    ]
    if source.citation:
        doi = f", doi:{source.citation.doi}" if source.citation.doi else ""
        rows.append(("cite", f"{source.citation.title} ({source.citation.year or 'n.d.'}){doi}"))
    for position, route in enumerate(source.routes, 1):
        rows.append(
            (
                f"route {position}",
                f"{route.host} {route.id or route.url or ''} [{route.access}]"
                + (f"  {route.note}" if route.note else ""),
            )
        )
        rows += [("", f"  {file.name}  {amount(file.bytes) if file.bytes else ''}") for file in route.files]
        rows += [("", f"  {number}. {step}") for number, step in enumerate(route.steps, 1)]
    rows += [("images", ", ".join(source.images)), ("excluded", ", ".join(source.exclude))]
    policy = source.frames
    if source.kind != "image":
        rows.append(
            (
                "frames",
                f"every {policy.stride}, at most {policy.cap or 'all'} of a clip"
                + (f", along {policy.axis}" if source.kind == "volume" else ""),
            )
        )
    for name, rule in source.labels.items():
        rows.append(
            (
                f"label {name}",
                ", ".join(dict.fromkeys(rule.classes.values())) if rule.classes else "any value",
            )
        )
    # What a source's own function finds shows only in the labels that are expected of it.
    by_code = f"see openus/sources/{source.code}.py" if source.code else ""
    found = [name for name in expected.labels if name not in source.labels]
    rows += [(f"label {name}", ", ".join(expected.labels[name]) + f" ({by_code})") for name in found]
    rows.append(("patient", "known" if source.patient else by_code or "unknown"))
    rows.append(("split", "published" if source.split else by_code or "none published"))
    rows.append(("masks", "yes" if source.masks else by_code or "no"))
    rows.append(
        (
            "expected",
            f"{number(expected.members)} files, {number(expected.frames)} frames, {number(expected.patients)} patients",
        )
    )
    rows += [("overlap" if i == 0 else "", text) for i, text in enumerate(source.overlaps)]
    rows += [("trap" if i == 0 else "", text) for i, text in enumerate(source.traps)]
    rows.append(("confidence", source.confidence))
    return [(name, value) for name, value in rows if value]


def steps(source: Source, person: NeedsPersonError) -> None:
    """What a person must do for one source."""
    err.print(
        f"[bold]{source.slug}[/]: {escape(str(person).removeprefix(source.slug + ': '))}", soft_wrap=True
    )
    for position, step in enumerate(person.steps, 1):
        err.print(f"  {position}. {step}", markup=False, soft_wrap=True)


def fetched(outcome: Mapping[str, Mapping[str, Any]]) -> None:
    """The result of `openus fetch`."""
    for slug, entry in outcome.items():
        if "error" in entry:
            out.print(f"[red]{slug}[/]: {escape(entry['error'].removeprefix(slug + ': '))}", soft_wrap=True)
            for position, step in enumerate(entry["steps"], 1):
                out.print(f"  {position}. {step}", markup=False, soft_wrap=True)
        else:
            out.print(f"[green]{slug}[/]: {amount(entry['bytes'])} by {entry['route']}", soft_wrap=True)
            for path in entry["paths"]:
                out.print(f"  {path}", markup=False, soft_wrap=True)


def build_table(result: BuildResult, place: str, cache: Path, seconds: float) -> None:
    """The closing table of a build at `place`, and what is left for a person to do."""
    right = ("files", "frames", "kept", "bytes", "time")
    table = _table("source", "files", "frames", "kept", "rejected", "bytes", "time", right=right)
    for item in result.results:
        if item.problem is None:
            _build_row(table, item, result.summary["sources"][item.source.slug])
    out.print(table)
    for item in result.results:
        notes = result.summary["sources"][item.source.slug]["notes"] if item.problem is None else []
        for note in notes:
            out.print(f"  note on {item.source.slug}: {note}", style="yellow", markup=False, soft_wrap=True)
    for name, entry in result.summary["sets"].items():
        shards = entry["shards"]
        total = amount(sum(shard["bytes"] for shard in shards))
        out.print(f"[bold]{name}[/]: {entry['samples']:,} samples in {plural(len(shards), 'shard')}, {total}")
    missing(result.missing, cache)
    out.print(
        f"\n{place}: done in {seconds:.1f} s. Check it with: openus verify {place}",
        markup=False,
        soft_wrap=True,
    )


def rejected(results: Sequence[SourceResult]) -> None:
    """The first inputs that each source lost, where nothing was kept."""
    for item in results:
        for row in item.rejected[:_SHOWN_PROBLEMS]:
            text = f"{item.source.slug}: {row['member']}: {row['stage']}: {row['reason']}: {row['detail']}"
            out.print(text, markup=False, soft_wrap=True)


def _build_row(table: Table, item: SourceResult, entry: Mapping[str, Any]) -> None:
    frames, reasons = entry["frames"], Counter(entry["rejected"])
    reasons.pop("policy", None)
    why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    table.add_row(
        f"[bold]{item.source.slug}[/]",
        number(entry["members"]["selected"]),
        number(frames["announced"]),
        number(frames["kept"]),
        why or "0",
        amount(item.tally.bytes),
        f"{item.seconds + item.tally.seconds:.1f} s",
    )


def verdict(folder: str, found: Verdict, deep: bool) -> None:
    """The result of `openus verify`."""
    for problem in found.problems[:_SHOWN_PROBLEMS]:
        out.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    if len(found.problems) > _SHOWN_PROBLEMS:
        out.print(f"… and {len(found.problems) - _SHOWN_PROBLEMS} more (all of them with --json)")
    if not found.problems:
        how = "each decoded" if deep else "each byte range hashed"
        out.print(
            f"[green]✓[/] {folder}: {plural(found.shards, 'shard')}, {found.samples:,} samples ({how}), "
            f"{amount(found.bytes)}; every input is accounted for",
            soft_wrap=True,
        )


def repaired(folder: str, found: Repair) -> None:
    """The result of `openus repair`."""
    for damage in found.damaged:
        mended = damage.file in found.mended
        out.print(
            f"{'[green]✓[/]' if mended else '[red]✗[/]'} {escape(damage.file)}: {escape(damage.problem)}"
            f"{'; written anew, to the same bytes' if mended else ''}",
            soft_wrap=True,
        )
    if found.redone:
        out.print(f"decoded again for it: {', '.join(found.redone)}")
    if not found.damaged:
        out.print(f"[green]✓[/] {folder}: nothing is damaged", soft_wrap=True)


def stats(folder: Path, by: str, as_json: bool) -> None:
    """`openus stats`: counts by a column of the manifest."""
    from openus.shards.stats import corpus_stats

    result = corpus_stats(folder, by)
    if as_json:
        print_json(result)
        return
    table = _table(
        by,
        "samples",
        "clips",
        "patients",
        "median size",
        "bytes",
        right=("samples", "clips", "patients", "bytes"),
    )
    for row in result["rows"]:
        table.add_row(
            row[by] or "(none)",
            number(row["samples"]),
            number(row["clips"]),
            number(row["patients"]),
            row["median_size"],
            amount(row["bytes"]),
        )
    out.print(table)
    counts = Table(box=None, show_header=False, pad_edge=False)
    counts.add_column(style="cyan", no_wrap=True)
    counts.add_column(overflow="fold")
    for label, classes in result["labels"].items():
        more = f", and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
        counts.add_row(escape(label), escape(_counted(classes)) + more)
    if result["rejected"]:
        counts.add_row("rejected", _counted(result["rejected"]))
    if counts.rows:
        out.print()
        out.print(counts)


def _counted(classes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in list(classes.items())[:_SHOWN_CLASSES])


def report(folder: Path, seed: int, as_json: bool) -> None:
    """`openus report`: the page about a corpus."""
    from openus.report import write_report
    from openus.shards.keep import keep_anew, pages

    written = write_report(folder, seed)
    keep_anew(folder, pages(folder))
    if as_json:
        print_json(
            {
                "page": str(written.page),
                "bytes": written.bytes,
                "sheets": [str(path) for path in written.sheets],
                "pictures": written.pictures,
                "checks": written.checks,
            }
        )
        return
    out.print(
        f"{written.page}: {amount(written.bytes)}, {written.pictures} pictures, {written.checks} things to look at",
        markup=False,
        soft_wrap=True,
    )
