"""`openus build`: the settings of the command line put into the corpus, and the closing table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openus import console
from openus.catalogue import Catalogue
from openus.commands import views
from openus.commands.missing import missing
from openus.commands.progress import reporter, sayer
from openus.demo import DEMO_MANIFESTS, prepare
from openus.engine.choose import EngineOptions, engine_of
from openus.errors import OpenUSError, UsageError
from openus.fetch import default_cache
from openus.manifest import LEVELS, CleanLevel, Corpus, FramePolicy
from openus.publish.rebuild import conclude, refuse_settings
from openus.publish.rebuild import from_recipe as follow
from openus.stages.build import BuildOptions, build
from openus.stages.record import told_missing
from openus.stages.results import EmptyBuildError
from openus.storage.bucket import bring
from openus.storage.choose import depot
from openus.transfer.mirrors import Mirrors


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
    Mirrors(mirrors)  # a wrong one is no failure of each source
    started = time.monotonic()
    home = depot(out, scratch)
    if from_recipe is not None:
        refuse_settings(corpus, source=slugs, size=size, clean=clean, frames=frames, demo=demo, seed=seed)
    places = local_places(local, home.folder / ".work" / "inputs")
    if demo:
        catalogue = Catalogue(*catalogue.roots[1:], DEMO_MANIFESTS)
        corpus = "demo"
        made = prepare(home.folder / ".work" / "demo-inputs", quiet=quiet)
        places = {slug: path for slug, path in made.items() if not slugs or slug in slugs} | places
    plan = _adjusted(catalogue.corpus(corpus), catalogue, size, frames, seed)
    plan = _with_levels(plan, catalogue, clean)
    recipe = None
    if from_recipe is not None:
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
            engine_of(engine, home, workers, sayer(quiet or as_json)) as crew,
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
        conclude(recipe, home.folder, result, out, as_json)
    elif as_json:
        console.print_json(result.summary | {"out": out})
    if result.missing and strict:
        names = ", ".join(item.source.slug for item in result.missing)
        raise OpenUSError(f"--strict: missing sources: {names}")


def local_places(pairs: Sequence[str], inputs: Path) -> dict[str, Path]:
    """Data at hand by source; what lies in object storage is brought into the folder `inputs`."""
    places: dict[str, Path] = {}
    for pair in pairs:
        slug, _, path = pair.partition("=")
        if not slug or not path:
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
        if size != "native" and not (size.isdecimal() and int(size) > 0):
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
    """The policies of `--frames`; one for a source wins over one for all, wherever it stands."""
    policies: dict[str, FramePolicy] = {}
    for text in sorted(frames, key=lambda text: "=" in text):
        slug, equals, numbers = text.rpartition("=")
        parts = numbers.split(",")
        right = all(part.isdecimal() and int(part) > 0 for part in parts) and len(parts) <= 2
        if not right or (equals and not slug):
            raise UsageError(f"--frames {text}: expected STRIDE or STRIDE,CAP, perhaps after SLUG=")
        update = {"stride": int(parts[0]), "cap": int(parts[1]) if len(parts) == 2 else None}
        known = catalogue.slugs if corpus.sources == "all" else corpus.sources
        for name in [slug] if slug else known:
            source = catalogue.source(name)
            policies[name] = corpus.frames.get(name, source.frames).model_copy(update=update)
    return policies
