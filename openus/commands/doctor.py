"""What `openus doctor` does, between its options (`cli.py`) and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from openus import console
from openus.catalogue import Catalogue
from openus.commands.progress import reporter
from openus.doctor import examine_machine, examine_sources
from openus.doctor.table import show_machine, show_sources
from openus.errors import OpenUSError
from openus.fetch import default_cache
from openus.stages.build import chosen_sources


def doctor(
    out: Path,
    catalogue: Catalogue,
    *,
    corpus: str,
    slugs: Sequence[str],
    cache: Path | None,
    online: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Examine the machine, and under `online` the routes. Raises only where not one source can be had."""
    plan = catalogue.corpus(corpus)
    sources = list(chosen_sources(plan, catalogue, slugs))
    place = (cache or default_cache()).expanduser().absolute()
    checks = examine_machine(sources, plan, out, place)
    if not as_json:
        show_machine(checks)
    found = []
    if online:
        with reporter(quiet or as_json, "sources") as report:
            found = examine_sources(sources, place, report=report)
        if not as_json:
            console.out.print()
            show_sources(found)
    if as_json:
        console.print_json({"machine": [asdict(c) for c in checks], "sources": [asdict(s) for s in found]})
    elif not online:
        console.out.print("\nRoutes and licence pages are asked with --online.", style="dim")
    if online and not any(source.way for source in found):
        raise OpenUSError(
            f"none of {len(found)} sources can be had: no route works and nothing is in {place}; is there a network?"
        )
