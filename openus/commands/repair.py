"""`openus repair`: what was damaged, and what was made of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openus import console
from openus.catalogue import Catalogue
from openus.commands import views
from openus.commands.build import local_places
from openus.commands.progress import reporter
from openus.demo import DEMO_MANIFESTS, prepare
from openus.errors import OpenUSError
from openus.fetch import default_cache
from openus.stages.build import BuildOptions
from openus.stages.repair import repair
from openus.storage.choose import depot
from openus.transfer.mirrors import Mirrors


def repair_corpus(
    out: str,
    catalogue: Catalogue,
    *,
    dry_run: bool,
    scratch: Path | None,
    mirrors: Sequence[str],
    local: Sequence[str],
    cache: Path | None,
    offline: bool,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Mend a corpus and tell what was wrong; raises if something is left."""
    Mirrors(mirrors)  # a wrong one is no failure of each source
    home = depot(out, scratch)
    # A folder that stands in for storage comes and goes with each stage; inputs stay until the end.
    inputs = home.folder.with_suffix(".inputs") if home.remote else home.folder / ".work" / "inputs"
    options = BuildOptions(
        cache=cache or default_cache(),
        mirrors=tuple(mirrors),
        local=local_places(local, inputs),
        offline=offline,
        workers=workers,
    )
    demo = home.folder / ".work" / "demo-inputs"
    if demo.is_dir():
        catalogue = Catalogue(*catalogue.roots[1:], DEMO_MANIFESTS)
        options = replace(options, local={**prepare(demo, quiet=quiet), **options.local})
    with reporter(quiet or as_json) as report:
        found = repair(home.folder, catalogue, options, dry_run=dry_run, report=report, home=home)
    if home.remote:
        shutil.rmtree(inputs, ignore_errors=True)
    if as_json:
        damaged = [vars(damage) | {"mended": damage.file in found.mended} for damage in found.damaged]
        console.print_json({"damaged": damaged, "decoded_again": found.redone, "sound": not found.left})
    else:
        views.repaired(out, found)
    if found.left:
        raise OpenUSError(
            f"{out}: {views.plural(len(found.left), 'file')} damaged"
            + ("; run it without --dry-run to mend that" if dry_run else " that could not be mended")
        )
