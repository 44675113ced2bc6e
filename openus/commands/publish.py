"""`openus publish`: from a checked corpus to its repositories, or what that would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from openus import console
from openus.commands.progress import reporter
from openus.commands.views import plural
from openus.console import amount
from openus.errors import CorpusError, UsageError, did_you_mean
from openus.publish.checks import lacking
from openus.publish.gate import CLASSES, read_permits
from openus.publish.plan import Plan, describe, make_plan
from openus.publish.stage import FOLDER, Staged, stage
from openus.publish.targets import Target, deliver, parse_target
from openus.shards.corpus import read_corpus
from openus.storage.locks import one_builder

STALE = ("*/*.tar", "manifest/*.parquet", "rows/*.parquet", "pictures.png")


def publish(
    root: Path,
    *,
    to: str,
    name: str,
    classes: list[str],
    allow: list[str],
    reviewed: str,
    private: bool,
    dry_run: bool,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Divide the corpus by licence, write the repositories as folders, send them, and say what went where.

    Raises:
        CorpusError: the corpus has not passed `openus verify` and `openus audit`.
        UsageError: wrong options.
        OpenUSError: the target refused or failed; run again, it goes on.
    """
    summary = read_corpus(root)
    target = parse_target(to)
    for word in classes:
        if word not in CLASSES:
            raise UsageError(
                f"--class {word}: no such class{did_you_mean(word, CLASSES)} ({', '.join(CLASSES)})"
            )
    permits = read_permits(allow, list(summary["sources"]))
    account, _, theirs = target.base.partition("/") if target.hub else ("ORG", "", "")
    plan = make_plan(root, name or theirs, permits, reviewed, account)
    if classes:
        chosen = tuple(repository for repository in plan.repositories if repository.to in classes)
        plan = Plan(plan.root, plan.name, plan.summary, chosen, plan.home, plan.permits, plan.reviewed)
    if not plan.repositories:
        raise UsageError(f"{root}: nothing of it is of the class {', '.join(classes)}")
    problems = lacking(root, summary, reviewed)
    if dry_run:
        _show_plan(plan, target, problems, as_json)
        return
    if problems:
        raise CorpusError(f"{root}: not ready to be published: {'; '.join(problems)}")
    with one_builder(root / FOLDER):
        # All is packed and looked at before anything leaves.
        with reporter(quiet or as_json, "samples") as report:
            staged = [stage(plan, repository, workers, report) for repository in plan.repositories]
        done = [_send(one, target, private, quiet or as_json) for one in staged]
    if as_json:
        console.print_json({"published": done, "home": list(plan.home)})
        return
    for entry in done:
        size = f"{plural(entry['files'], 'file')}, {amount(entry['bytes'])}"
        console.out.print(f"[green]✓[/] {entry['class']}: {size} at {entry['url']}", soft_wrap=True)
    _show_home(plan)


def _send(staged: Staged, target: Target, private: bool, quiet: bool) -> dict[str, Any]:
    repository = staged.repository
    with reporter(quiet or target.hub, "bytes") as report:
        result = deliver(
            staged.folder,
            staged.files,
            target,
            target.of(repository.name),
            report,
            private=private,
            stale=STALE,
            quiet=quiet or not console.err.is_terminal,
        )
    return {"class": repository.to, "bytes": staged.bytes, "folder": str(staged.folder), **result}


def _show_plan(plan: Plan, target: Target, problems: list[str], as_json: bool) -> None:
    facts = describe(plan)
    for entry, repository in zip(facts["repositories"], plan.repositories, strict=True):
        entry["to"] = target.of(repository.name)
    if as_json:
        console.print_json(facts | {"lacking": problems})
        return
    for number, entry in enumerate(facts["repositories"]):
        size = f"{entry['samples']:,} samples, {amount(entry['bytes'])}"
        if number:
            console.out.print()
        console.out.print(f"[bold]{'hf://' * target.hub}{escape(entry['to'])}[/]: {size}", soft_wrap=True)
        what = "pictures and rows" if entry["pixels"] else "no pixels"
        console.out.print(f"  {what}; {CLASSES[entry['class']]}", markup=False)
        table = Table(box=None, padding=(0, 0, 0, 2))
        for title, side in (
            ("source", "left"),
            ("licence", "left"),
            ("samples", "right"),
            ("pictures", "right"),
        ):
            table.add_column(title, justify=side, header_style="dim")  # type: ignore[arg-type]
        for source in entry["sources"]:
            size = amount(source["bytes"]) if entry["pixels"] else "–"
            table.add_row(source["source"], escape(source["licence"]), f"{source['samples']:,}", size)
        console.out.print(table)
        for name, part in entry["sets"].items():
            kind = f"{name}/{name}-*.tar" if entry["pixels"] else f"rows/{name}-*.parquet"
            console.out.print(
                f"  {kind}: {plural(part['files'], 'file')}, {amount(part['bytes'])}", markup=False
            )
    _show_home(plan)
    for slug, text in plan.permits.items():
        console.out.print(
            f"relied on for {slug}: {json.dumps(text, ensure_ascii=False)}", markup=False, soft_wrap=True
        )
    if problems:
        console.out.print("\n[yellow]Before this can be published:[/]")
        for problem in problems:
            console.out.print(f"  - {problem}", markup=False, soft_wrap=True)
    console.out.print("\nNothing was written or sent (--dry-run).")


def _show_home(plan: Plan) -> None:
    if not plan.home:
        return
    console.out.print("\n[bold]Pixels that stay at home[/]")
    for entry in plan.home:
        text = f"  {entry['source']}: {entry['samples']:,} samples: {entry['reason']}"
        console.out.print(text, markup=False, soft_wrap=True)
