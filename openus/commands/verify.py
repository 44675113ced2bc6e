"""`openus verify`: every problem by its name."""

from __future__ import annotations

from openus import console
from openus.commands import views
from openus.commands.progress import reporter
from openus.errors import OpenUSError
from openus.publish.checks import record_verified
from openus.shards.verify import verify
from openus.storage.choose import depot


def verify_corpus(out: str, *, deep: bool, workers: int, quiet: bool, as_json: bool) -> None:
    """Verify a corpus; raises after naming every problem."""
    home = depot(out)
    with home.reader(), reporter(quiet or as_json, "samples") as report:
        verdict = verify(home.folder, deep=deep, workers=workers, report=report, home=home)
    if as_json:
        console.print_json(vars(verdict) | {"sound": not verdict.problems})
    else:
        views.verdict(out, verdict, deep)
    if verdict.problems:
        raise OpenUSError(
            f"{out}: {views.plural(len(verdict.problems), 'problem')}; 'openus repair {out}' mends what is damaged"
        )
    if home.remote:
        return
    try:
        record_verified(home.folder, deep)  # what `openus publish` asks for
    except OSError as error:
        console.err.print(f"{out}: the result cannot be noted there ({error.strerror})", style="yellow")
