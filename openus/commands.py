"""What the commands do, between their options (`cli.py`) and the work (`build.py`, `fetch.py`, `verify.py`)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from openus import console, views
from openus.catalogue import Catalogue
from openus.engine.choose import EngineOptions, engine_of
from openus.errors import NeedsPersonError, OpenUSError, UsageError
from openus.manifest import LEVELS, CleanLevel, Corpus, FramePolicy, Source
from openus.missing import missing

Report = Callable[[str, int, int | None], None]
_UNITS = {
    "sources": "sources", "decode": "files", "dedup": "samples", "pack": "samples", "fingerprint": "pictures",
    "compare": "pairs",
}  # fmt: skip


@contextmanager
def reporter(quiet: bool, unit: str = "files") -> Iterator[Report]:
    """A progress display that the stages feed by (stage, units done now, total)."""
    with console.progress(quiet, unit) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage.startswith("fetch "):
                # Transfers report bytes done so far, not steps.
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total, unit="bytes")
                bar.update(tasks[stage], completed=done, total=total)
                return
            if total is None:
                return
            if stage == "sources":  # what was fetched of the last one is told by its row of the closing table
                for name in [name for name in tasks if name.startswith("fetch ")]:
                    bar.update(tasks.pop(name), visible=False)
            if stage not in tasks:
                each = _UNITS.get(stage, unit)
                tasks[stage] = bar.add_task(stage, total=total, unit=each)
            bar.update(tasks[stage], advance=done, total=total)

        yield report


def build_corpus(
    out: str,
    catalogue: Catalogue,
    *,
    engine: EngineOptions,
    scratch: Path | None,
    from_recipe: str | None,
    corpus: str,
    slugs: Sequence[str],
    mirrors: Sequence[str],
    local: Sequence[str],
    cache: Path | None,
    offline: bool,
    size: str | None,
    clean: Sequence[str],
    frames: Sequence[str],
    strict: bool,
    retry_failed: bool,
    timeout: float,
    demo: bool,
    workers: int,
    seed: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build a corpus and print its closing table; raises when nothing, or under --strict not all, could be had."""
    from openus.build import BuildOptions, EmptyBuildError, build
    from openus.depot import depot
    from openus.fetch import default_cache
    from openus.shards.corpus import told_missing

    started = time.monotonic()
    home = depot(out, scratch)
    if from_recipe is not None:
        from openus.publish.rebuild import refuse_settings

        refuse_settings(corpus, source=slugs, size=size, clean=clean, frames=frames, demo=demo, seed=seed)
    places = _local(local, home.folder / ".work" / "inputs")
    if demo:
        from openus.demo import DEMO_MANIFESTS, prepare

        catalogue = Catalogue(*catalogue.roots[1:], DEMO_MANIFESTS)
        corpus = "demo"
        made = prepare(home.folder / ".work" / "demo-inputs", quiet=quiet)
        places = {slug: path for slug, path in made.items() if not slugs or slug in slugs} | places
    plan = _adjusted(catalogue.corpus(corpus), catalogue, size, frames, seed)
    plan = _with_levels(plan, catalogue, clean)
    recipe = None
    if from_recipe is not None:
        from openus.publish.rebuild import from_recipe as follow

        recipe, catalogue = follow(from_recipe, home.folder / ".work" / "recipe")
        plan, slugs = recipe.corpus, [source.slug for source in recipe.sources]
    options = BuildOptions(
        cache=cache or default_cache(),
        mirrors=tuple(mirrors),
        local=places,
        offline=offline,
        workers=workers,
        retry_failed=retry_failed,
        timeout=timeout,
        clusters=recipe.clusters if recipe else None,
    )
    try:
        with (
            engine_of(engine, home, workers, _sayer(quiet or as_json)) as crew,
            reporter(quiet or as_json) as report,
        ):
            result = build(home.folder, plan, catalogue, options, slugs, report, crew)
    except EmptyBuildError as empty:
        if as_json:
            console.print_json({"out": out, "missing": told_missing(empty.results)})
        else:
            missing([item for item in empty.results if item.problem is not None], options.cache)
            views.rejected(empty.results)
        raise
    if not as_json:
        views.build_table(result, out, options.cache, time.monotonic() - started)
    if recipe is not None:
        from openus.publish.rebuild import conclude

        conclude(recipe, home.folder, result, out, as_json)
    elif as_json:
        console.print_json(result.summary | {"out": out})
    if result.missing and strict:
        names = ", ".join(item.source.slug for item in result.missing)
        raise OpenUSError(f"--strict: missing sources: {names}")


def _sayer(quiet: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not quiet:
            console.err.print(line, markup=False, soft_wrap=True)

    return say


def _local(pairs: Sequence[str], inputs: Path) -> dict[str, Path]:
    """Data at hand by source; what lies in object storage is brought into the folder `inputs`."""
    from openus.bucket import bring

    places: dict[str, Path] = {}
    for pair in pairs:
        slug, equals, path = pair.partition("=")
        if not equals or not slug or not path:
            raise UsageError(
                f"--local {pair}: expected SLUG=PATH, for example --local bus-bra=~/Downloads/BUSBRA.zip"
            )
        if "://" in path:
            places[slug] = bring(path, inputs / slug)
            continue
        place = Path(path).expanduser()
        if not place.exists():
            raise UsageError(f"--local {pair}: there is nothing at {place}")
        places[slug] = place
    return places


def _adjusted(
    corpus: Corpus, catalogue: Catalogue, size: str | None, frames: Sequence[str], seed: int | None
) -> Corpus:
    """The corpus with the options of the command line in place of its own settings."""
    changes: dict[str, Any] = {}
    if seed is not None:
        changes["seed"] = seed
    if size is not None:
        if size != "native" and not (size.isdigit() and int(size) > 0):
            raise UsageError(f"--size {size}: expected a number of pixels, or 'native'")
        changes["clean"] = corpus.clean.model_copy(update={"size": size if size == "native" else int(size)})
    if frames:
        changes["frames"] = corpus.frames | _policies(frames, corpus, catalogue)
    return corpus.model_copy(update=changes)


def _with_levels(corpus: Corpus, catalogue: Catalogue, clean: Sequence[str]) -> Corpus:
    """The corpus with the levels of `--clean`; one for all replaces what the sources ask for, too."""
    for_all: list[CleanLevel] = []
    named: dict[str, CleanLevel] = {}
    for text in clean:
        slug, equals, word = text.rpartition("=")
        level = next((known for known in LEVELS if known == word), None)
        if level is None or (equals and not slug):
            raise UsageError(f"--clean {text}: expected none, sector or full, perhaps after SLUG=")
        if slug:
            named[catalogue.source(slug).slug] = level
        else:
            for_all.append(level)
    levels = dict(corpus.clean_sources)
    settings = corpus.clean
    if for_all:
        settings = settings.model_copy(update={"level": for_all[-1]})
        levels = dict.fromkeys(catalogue.slugs if corpus.sources == "all" else corpus.sources, for_all[-1])
    return corpus.model_copy(update={"clean": settings, "clean_sources": levels | named})


def _policies(frames: Sequence[str], corpus: Corpus, catalogue: Catalogue) -> dict[str, FramePolicy]:
    policies: dict[str, FramePolicy] = {}
    for text in frames:
        slug, _, numbers = text.rpartition("=")
        parts = numbers.split(",")
        if not all(part.isdigit() and int(part) > 0 for part in parts) or len(parts) > 2:
            raise UsageError(f"--frames {text}: expected STRIDE or STRIDE,CAP, perhaps after SLUG=")
        update = {"stride": int(parts[0]), "cap": int(parts[1]) if len(parts) == 2 else None}
        known = catalogue.slugs if corpus.sources == "all" else corpus.sources
        for name in [slug] if slug else known:
            source = catalogue.source(name)
            policies[name] = corpus.frames.get(name, source.frames).model_copy(update=update)
    return policies


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
    from openus.fetch import default_cache, obtain

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
    from openus.drop import wait_for_files
    from openus.fetch import drop_folder
    from openus.lock import LockFile

    folder = drop_folder(source, cache)
    folder.mkdir(parents=True, exist_ok=True)
    console.err.print(f"waiting for files in {folder} (Ctrl-C to stop; what is there stays)", soft_wrap=True)
    for state in wait_for_files(source, folder, LockFile(cache)):
        if state.problem:
            console.err.print(state.problem, style="yellow", markup=False, soft_wrap=True)
        elif state.missing:
            console.err.print(f"still missing: {', '.join(state.missing)}", markup=False, soft_wrap=True)


def verify_corpus(out: str, *, deep: bool, workers: int, quiet: bool, as_json: bool) -> None:
    """Verify a corpus; raises after naming every problem."""
    from openus.depot import depot
    from openus.publish.checks import record_verified
    from openus.shards.verify import verify

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
    from openus.build import BuildOptions
    from openus.demo import DEMO_MANIFESTS, prepare
    from openus.depot import depot
    from openus.fetch import default_cache
    from openus.repair import repair

    home = depot(out, scratch)
    # A folder that stands in for storage comes and goes with each stage; inputs stay until the end.
    inputs = home.folder.with_suffix(".inputs") if home.remote else home.folder / ".work" / "inputs"
    options = BuildOptions(
        cache=cache or default_cache(),
        mirrors=tuple(mirrors),
        local=_local(local, inputs),
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
