"""The command `openus`. Options live here; the work is imported when a command runs, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openus import __version__
from openus.commands import build_options, dedup_options, publish_options
from openus.commands.options import (
    CPUS,
    CacheOption,
    CorpusArgument,
    ManifestsOption,
    MirrorOption,
    OfflineOption,
    PlaceArgument,
    ScratchOption,
)
from openus.console import (
    DebugOption,
    JsonOption,
    QuietOption,
    WorkersOption,
    examples,
    run,
    set_debug,
)

app = typer.Typer(
    name="openus",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help doubles the time of --help, mostly for a Markdown parser
    help="Rebuild the OpenUS ultrasound corpus: fetch, decode, clean, deduplicate, pack, verify.",
    epilog="Begin with 'openus build demo/corpus --demo', or see what there is with 'openus sources'.",
)


def _catalogue(manifests: Path | None) -> Any:
    from openus.catalogue import Catalogue

    return Catalogue(*([manifests] if manifests else []))


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    short_help="The 46 datasets, filtered, with estimates.",
    epilog=examples(
        "openus sources", "openus sources --anatomy breast --access open", "openus sources --json"
    ),
)
def sources(
    anatomy: Annotated[str | None, typer.Option(help="Only this organ or region.")] = None,
    access: Annotated[str | None, typer.Option(help="open, account, registration or request.")] = None,
    kind: Annotated[str | None, typer.Option(help="image, video or volume.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="What each source gives under its frame policy.")
    ] = False,
    cache: CacheOption = None,
    manifests: ManifestsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the datasets of OpenUS-46: what they are, how to get them, what their licence allows."""
    set_debug(debug)
    from openus.commands import views

    filters = {"anatomy": anatomy, "access": access, "kind": kind}
    views.sources(_catalogue(manifests), cache, filters, estimate, as_json)


@app.command(short_help="All about one dataset.", epilog=examples("openus show bus-bra"))
def show(
    slug: Annotated[str, typer.Argument(help="A source, as `openus sources` names it.")],
    manifests: ManifestsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Tell all about one dataset: routes, files, selectors, labels, splits, licence, traps."""
    set_debug(debug)
    from openus.commands import views

    views.show(_catalogue(manifests).source(slug), as_json)


@app.command(
    short_help="Download, or say what a person must do.",
    epilog=examples("openus fetch stu-hospital covid-blues", "openus fetch echonet-dynamic --wait"),
)
def fetch(
    slugs: Annotated[list[str], typer.Argument(help="Sources to fetch.")],
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    offline: OfflineOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for files that a person must place.")] = False,
    manifests: ManifestsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Download sources into the cache; for those that need a person, say what to do, step by step."""
    set_debug(debug)
    from openus.commands.fetch import fetch_sources

    fetch_sources(
        _catalogue(manifests),
        slugs,
        cache=cache,
        mirrors=mirror or [],
        offline=offline,
        wait=wait,
        quiet=quiet,
        as_json=as_json,
    )


app.command(short_help=build_options.SHORT, epilog=build_options.EXAMPLES)(build_options.build)


@app.command(
    short_help="Check this machine and, with --online, every route.",
    epilog=examples("openus doctor", "openus doctor OUT --source bus-bra --online", "openus doctor --json"),
)
def doctor(
    out: Annotated[Path, typer.Argument(help="The corpus folder a build would make.")] = Path("openus-46"),
    corpus: Annotated[str, typer.Option(help="Name of a corpus, or a YAML file.")] = "openus-46",
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Only this source. Repeatable.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask every route for its files, and every licence page.")
    ] = False,
    cache: CacheOption = None,
    manifests: ManifestsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check what a build needs: tools, packages, disk space, credentials, drop folders; with --online also whether
    every route still leads to the expected files and every licence page is still there.

    Credentials are looked for, never shown. Exits 1 only where not one source can be had.
    """
    set_debug(debug)
    from openus.commands.doctor import doctor as examine

    examine(
        out,
        _catalogue(manifests),
        corpus=corpus,
        slugs=source or [],
        cache=cache,
        online=online,
        quiet=quiet,
        as_json=as_json,
    )


@app.command(
    short_help="Check every byte and every account.", epilog=examples("openus verify openus-46 --deep")
)
def verify(
    out: PlaceArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every picture, too.")] = False,
    workers: WorkersOption = CPUS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every byte of a corpus against its manifests, and that every input is accounted for."""
    set_debug(debug)
    from openus.commands.verify import verify_corpus

    verify_corpus(out, deep=deep, workers=workers, quiet=quiet, as_json=as_json)


@app.command(
    short_help="Rebuild what is damaged, and only that.",
    epilog=examples(
        "openus repair openus-46 --dry-run",
        "openus repair openus-46",
        "openus repair s3://bucket/openus-46",
        "openus repair OUT --local bus-bra=~/Downloads/BUSBRA",
    ),
)
def repair(
    out: PlaceArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what is damaged.")] = False,
    mirror: MirrorOption = None,
    local: Annotated[
        list[str] | None,
        typer.Option("--local", help="SLUG=PATH, as for 'openus build'. Repeatable."),
    ] = None,
    cache: CacheOption = None,
    scratch: ScratchOption = None,
    offline: OfflineOption = False,
    manifests: ManifestsOption = None,
    workers: WorkersOption = CPUS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rebuild the damaged or lost files of a corpus to the bytes they had, and leave the others alone.

    What OUT/.work still holds is used first; only where that is damaged too are sources decoded again, and then the
    options that say where they lie must be those of the build.
    """
    set_debug(debug)
    from openus.commands.repair import repair_corpus

    repair_corpus(
        out,
        _catalogue(manifests),
        dry_run=dry_run,
        scratch=scratch,
        mirrors=mirror or [],
        local=local or [],
        cache=cache,
        offline=offline,
        workers=workers,
        quiet=quiet,
        as_json=as_json,
    )


@app.command(
    short_help="Look for residual text and names.", epilog=examples("openus audit openus-46 --sample 500")
)
def audit(
    out: CorpusArgument,
    sample: Annotated[int, typer.Option(min=1, help="So many pictures are searched for text.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Draws the pictures that are searched.")] = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look at a corpus as a privacy officer would: residual text, suspicious attributes, names in paths."""
    set_debug(debug)
    from openus.commands.audit import audit_corpus

    audit_corpus(out, sample=sample, seed=seed, quiet=quiet, as_json=as_json)


app.command(short_help=publish_options.SHORT, epilog=publish_options.EXAMPLES)(publish_options.publish)


@app.command(short_help="Count what a corpus holds.", epilog=examples("openus stats openus-46 --by anatomy"))
def stats(
    out: CorpusArgument,
    by: Annotated[str, typer.Option(help="source, anatomy, set, licence or split.")] = "source",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Count what a corpus holds: samples, clips, patients, sizes, labels, reasons of rejection."""
    set_debug(debug)
    from openus.commands import views

    views.stats(out, by, as_json)


@app.command(short_help="One page to judge a corpus by.", epilog=examples("openus report openus-46"))
def report(
    out: CorpusArgument,
    seed: Annotated[int, typer.Option("--seed", help="Draws the pictures that are shown.")] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write OUT/report.html: what was found and kept, pictures of each source, duplicates, what to look at.

    The page stands alone and loads nothing; contact sheets as PNG lie in OUT/report.
    """
    set_debug(debug)
    from openus.commands import views

    views.report(out, seed, as_json)


@app.command(
    short_help="A manifest for shards that others made.",
    epilog=examples(
        "openus index 'their-{000..012}.tar' --out mine", "openus index https://host/a.tar --out mine"
    ),
)
def index(
    urls: Annotated[
        list[str], typer.Argument(help="WebDataset tars: paths or addresses.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the index.", show_default=False)],
    set_: Annotated[str, typer.Option("--set", help="Name of the set.")] = "pretrain",
    source: Annotated[str, typer.Option(help="Written into every row.")] = "foreign",
    anatomy: Annotated[str, typer.Option(help="The same.")] = "unknown",
    licence: Annotated[str, typer.Option(help="The same.")] = "unknown",
    picture: Annotated[str | None, typer.Option(help="Member to take, as image.png, of several.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Read tars once and write a corpus folder whose shards stay where they are, so that usfmae reads them exactly."""
    set_debug(debug)
    from openus.commands.index import index_command

    row = {"source": source, "anatomy": anatomy, "licence": licence, "picture": picture}
    index_command(urls, out, set_=set_, row=row, quiet=quiet, as_json=as_json)


app.command(short_help=dedup_options.SHORT, epilog=dedup_options.EXAMPLES)(dedup_options.dedup)


@app.command(
    "add-source",
    short_help="Propose a manifest for a dataset of your own.",
    epilog=examples("openus add-source my-thyroid", "openus add-source scans.zip --slug my-scans --out mine"),
)
def add_source(
    folder: Annotated[Path, typer.Argument(help="Your dataset: a folder or an archive.", show_default=False)],
    slug: Annotated[str | None, typer.Option(help="Its name in the corpus. [default: the folder's]")] = None,
    title: Annotated[str, typer.Option(help="What people should read.")] = "",
    anatomy: Annotated[str, typer.Option(help="Organ or region. [default: guessed from names]")] = "",
    out: Annotated[
        Path, typer.Option("--out", help="Folder of manifests, or the YAML file to write.")
    ] = Path("manifests"),
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest that is there.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look through a folder and propose a manifest: pictures, masks, labels, patients, splits; show what it selects.

    The manifest is written to MANIFESTS/SLUG.yaml. Correct it, then build with --manifests.
    """
    set_debug(debug)
    from openus.commands.add_source import add_source as add

    add(folder, slug=slug, title=title, anatomy=anatomy, out=out, force=force, as_json=as_json)


def main() -> None:
    """Entry point of the installed command."""
    run(app, "openus")


if __name__ == "__main__":
    main()
