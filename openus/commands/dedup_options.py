"""Options of `openus dedup`; the work is imported when it runs (`openus.commands.copies`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openus.commands.options import CPUS
from openus.console import DebugOption, JsonOption, QuietOption, WorkersOption, examples, set_debug

SHORT = "Find copies in a corpus, folder or list."
EXAMPLES = examples(
    "openus dedup openus-46 --report copies.html",
    "openus dedup ~/scans --out copies.csv",
    "openus dedup data --held-out 'test/**'",
)


def dedup(
    where: Annotated[
        Path,
        typer.Argument(
            help="A corpus, a folder, an archive, or a table (csv, tsv, parquet) with a column 'path'.",
            show_default=False,
        ),
    ],
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a page with the pairs side by side.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write all pairs as .csv or .parquet.")] = None,
    score: Annotated[
        float | None,
        typer.Option(
            min=0.5, max=1.0, help="Similarity from which two are one. [default: the corpus's, 0.88]"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Leave these files of a folder out. Repeatable.")
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="These are a test set: they stay, copies of them leak. Repeatable."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Where fingerprints are kept. [default: the cache]")
    ] = None,
    workers: WorkersOption = CPUS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Find pictures that are one and the same: resized, compressed, cropped, framed, written on. Deletes nothing.

    Fingerprints are kept: run it again after adding files, and only the new ones are compared with the others.
    """
    set_debug(debug)
    from openus.commands.copies import dedup as find

    find(
        where,
        score=score,
        exclude=exclude or [],
        held_out=held_out or [],
        index=index,
        out=out,
        page=report,
        workers=workers,
        quiet=quiet,
        as_json=as_json,
    )
