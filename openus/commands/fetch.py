"""`openus fetch`: sources one after the other, and waiting for what a person places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openus import console
from openus.catalogue import Catalogue
from openus.commands import views
from openus.commands.progress import reporter
from openus.errors import NeedsPersonError, OpenUSError
from openus.fetch import default_cache, drop_folder, obtain
from openus.manifest import Source
from openus.transfer.drop import wait_for_files
from openus.transfer.lock import LockFile
from openus.transfer.mirrors import Mirrors


def fetch_sources(
    catalogue: Catalogue,
    slugs: Sequence[str],
    *,
    cache: Path | None,
    mirrors: Sequence[str],
    offline: bool,
    wait: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch sources one after the other; what one of them lacks does not stop the next."""
    Mirrors(mirrors)  # a wrong one is no failure of each source
    place = cache or default_cache()
    wanted = list(catalogue.sources(slugs))
    outcome: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for source in wanted:
        with reporter(quiet or as_json, "bytes") as report:
            try:
                try:
                    got = obtain(
                        source,
                        cache=place,
                        mirrors=mirrors,
                        offline=offline,
                        on_bytes=lambda file, done, total: report(f"fetch {file.name}", done, total),
                    )
                except NeedsPersonError as person:
                    if not wait:
                        raise
                    views.steps(source, person)
                    _await_person(source, place)
                    got = obtain(source, cache=place, offline=True)
                outcome[source.slug] = {
                    "route": got.route,
                    "bytes": got.bytes,
                    "paths": [str(p) for p in got.roots],
                }
            except OpenUSError as error:
                failed.append(source.slug)
                steps = list(error.steps) if isinstance(error, NeedsPersonError) else []
                outcome[source.slug] = {"error": str(error), "steps": steps}
    if as_json:
        console.print_json(outcome)
    else:
        views.fetched(outcome)
    if failed:
        raise OpenUSError(f"{len(failed)} of {len(wanted)} sources are not here yet: {', '.join(failed)}")


def _await_person(source: Source, cache: Path) -> None:
    """Watch the drop folder until all files of a source are there; each change is told."""
    folder = drop_folder(source, cache)
    folder.mkdir(parents=True, exist_ok=True)
    console.err.print(f"waiting for files in {folder} (Ctrl-C to stop; what is there stays)", soft_wrap=True)
    for state in wait_for_files(source, folder, LockFile(cache)):
        if state.problem:
            console.err.print(state.problem, style="yellow", markup=False, soft_wrap=True)
        elif state.missing:
            console.err.print(f"still missing: {', '.join(state.missing)}", markup=False, soft_wrap=True)
