"""Options of `openus publish`; the work is imported when it runs (`openus.commands.publish`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openus.commands.options import CPUS
from openus.console import DebugOption, JsonOption, QuietOption, WorkersOption, examples, set_debug

SHORT = "To the Hub or a store, as licences allow."
EXAMPLES = examples(
    "openus publish openus-46 --to hf://ORG/openus-46 --dry-run",
    "openus publish openus-46 --to s3://bucket/corpora",
    "openus publish OUT --to SHELF --allow my-scans='CC BY 4.0, decided on 3 May'",
)


def publish(
    out: Annotated[Path, typer.Argument(help="A corpus folder.", show_default=False)],
    to: Annotated[
        str,
        typer.Option("--to", help="hf://ORG/NAME, a folder, s3://… or another address.", show_default=False),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name",
            help="Name of the repositories. [default: the address's on the Hub, else the corpus's]",
            show_default=False,
        ),
    ] = "",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only this class of licence: by, by-nc, …, recipe. Repeatable."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", help="SLUG=TEXT or SLUG=@FILE: licence text relied on for a source. Repeatable."
        ),
    ] = None,
    reviewed: Annotated[
        str, typer.Option("--reviewed", help="What a person saw who looked at the findings of the audit.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="New repositories on the Hub are private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go where, and do nothing.")
    ] = False,
    workers: WorkersOption = CPUS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish what the licences allow: a repository for each class of licence, and for sources that may not be passed
    on a recipe from which 'openus build --from-recipe' makes the same shards where the data are.

    Refuses a corpus that has not passed 'openus verify' and 'openus audit'. Run it again to go on.
    """
    set_debug(debug)
    from openus.commands.publish import publish as work

    work(
        out,
        to=to,
        name=name,
        classes=classes or [],
        allow=allow or [],
        reviewed=reviewed,
        private=private,
        dry_run=dry_run,
        workers=workers,
        quiet=quiet,
        as_json=as_json,
    )
