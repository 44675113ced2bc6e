"""Options of `openus build`; the work is imported when it runs (`openus.commands.build`)."""

from __future__ import annotations

from typing import Annotated

import typer

from openus.commands.options import (
    CPUS,
    AddressOption,
    CacheOption,
    EngineOption,
    FromRecipeOption,
    ManifestsOption,
    MirrorOption,
    OfflineOption,
    ScratchOption,
    TaskMemoryOption,
)
from openus.console import (
    DebugOption,
    JsonOption,
    QuietOption,
    SeedOption,
    WorkersOption,
    examples,
    set_debug,
)

SHORT = "From sources to a corpus of shards."
EXAMPLES = examples(
    "openus build",
    "openus build OUT --source stu-hospital",
    "openus build OUT --mirror ../mirror --local bus-bra=~/Downloads/BUSBRA",
    "openus build demo/corpus --demo",
)


def build(
    out: Annotated[
        str, typer.Argument(help="Corpus folder to make or to go on with, or an address of one (s3://…).")
    ] = "openus-46",
    corpus: Annotated[str, typer.Option(help="Name of a corpus, or a YAML file.")] = "openus-46",
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Only this source. Repeatable.")
    ] = None,
    mirror: MirrorOption = None,
    local: Annotated[
        list[str] | None,
        typer.Option("--local", help="SLUG=PATH of data already downloaded or unpacked. Repeatable."),
    ] = None,
    cache: CacheOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    task_memory: TaskMemoryOption = None,
    scratch: ScratchOption = None,
    offline: OfflineOption = False,
    size: Annotated[
        str | None, typer.Option(help="Short side in pixels, or 'native'. [default: the corpus's]")
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            "--clean",
            help="none, sector or full; SLUG=LEVEL for one source. Repeatable. [default: the corpus's]",
        ),
    ] = None,
    frames: Annotated[
        list[str] | None,
        typer.Option("--frames", help="SLUG=STRIDE[,CAP] or STRIDE[,CAP] for all. Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when a source is missing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try files again that failed before.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that decoding one file may take, +1 per frame; 0: no limit.")
    ] = 600,
    demo: Annotated[
        bool, typer.Option("--demo", help="Build the small demo corpus: no download needed.")
    ] = False,
    from_recipe: FromRecipeOption = None,
    manifests: ManifestsOption = None,
    workers: WorkersOption = CPUS,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build a corpus: fetch what is open, list what needs a person, and turn all of it into shards.

    Run it again to go on after an interruption, or to add what has arrived since.
    """
    set_debug(debug)
    from openus.catalogue import Catalogue
    from openus.commands.build import build_corpus
    from openus.engine.choose import EngineOptions

    build_corpus(
        out,
        Catalogue(*([manifests] if manifests else [])),
        engine=EngineOptions(engine, address, task_memory),
        scratch=scratch,
        from_recipe=from_recipe,
        corpus=corpus,
        slugs=source or [],
        mirrors=mirror or [],
        local=local or [],
        cache=cache,
        offline=offline,
        size=size,
        clean=clean or [],
        frames=frames or [],
        strict=strict,
        retry_failed=retry_failed,
        timeout=timeout,
        demo=demo,
        workers=workers,
        seed=seed,
        quiet=quiet,
        as_json=as_json,
    )
