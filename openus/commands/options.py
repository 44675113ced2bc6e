"""Options that several commands have, or that are of a kind, and how many workers they begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

CPUS = os.cpu_count() or 1
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Where downloads are kept. [default: $OPENUS_CACHE or ~/.cache/openus]"),
]
MirrorOption = Annotated[
    list[str] | None,
    typer.Option("--mirror", help="Folder or URL holding HOST/PATH copies, asked first. Repeatable."),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only what is already on this machine.")]
ManifestsOption = Annotated[
    Path | None,
    typer.Option("--manifests", help="A folder with manifests of your own, added to the built-in ones."),
]
PlaceArgument = Annotated[str, typer.Argument(help="A corpus folder, or its address.", show_default=False)]
CorpusArgument = Annotated[Path, typer.Argument(help="A corpus folder.", show_default=False)]
EngineOption = Annotated[str, typer.Option("--engine", help="Where the work runs: local or ray.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="A Ray cluster that is there. [default: $RAY_ADDRESS, else one is started]"
    ),
]
TaskMemoryOption = Annotated[
    str | None, typer.Option("--task-memory", help="What a task may take on a cluster. [default: 2GiB]")
]
ScratchOption = Annotated[
    Path | None,
    typer.Option(
        "--scratch", help="Folder of each machine, where OUT is an address. [default: a temporary one]"
    ),
]
FromRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--from-recipe", help="Rebuild the shards of a published recipe: ORG/NAME, a folder or URL."
    ),
]
