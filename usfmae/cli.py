"""The command `usfmae`. Each function here only declares options; the work is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from openus import console
from openus.console import DebugOption, JsonOption, QuietOption, SeedOption, WorkersOption
from usfmae.tasks.commands import add_commands

app = typer.Typer(
    name="usfmae",
    help="Pretrain a masked autoencoder on ultrasound, and use it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

DataArgument = Annotated[str, typer.Argument(help="Corpus folder, or the URL of one.", show_default=False)]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Pretrain a masked autoencoder on ultrasound, and use it."""
    if version:
        from usfmae import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(
    epilog=console.examples(
        "usfmae pretrain openus-46 --out runs/base --plan",
        "usfmae pretrain s3://bucket/corpus --recipe fast --out runs/fast --workers 8",
        "usfmae pretrain openus-46 --out runs/x --set training.epochs=50",
    )
)
def pretrain(
    data: DataArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder; an existing run goes on where it stopped.")
    ],
    recipe: Annotated[str, typer.Option(help="demo, paper, base, fast, or a YAML file.")] = "base",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: training.epochs=3. Repeatable.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop once the run has taken so many steps.")
    ] = None,
    max_time: Annotated[str | None, typer.Option(help="Stop after this time: 90s, 30m, 11h30m.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done and what it costs; do nothing.")
    ] = False,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="With --plan: for so many processes like this one.")
    ] = None,
    decoded: Annotated[
        str, typer.Option(help="Keep decoded pictures after the first epoch: memory, or a folder.")
    ] = "",
    decode: Annotated[
        str, typer.Option(help="Where JPEGs are decoded: cpu, gpu (nvJPEG), or auto: the faster, measured.")
    ] = "auto",
    shard_cache: Annotated[
        Path | None, typer.Option(help="Where remote shards are kept. [default: $OPENUS_CACHE/shards]")
    ] = None,
    shard_cache_gb: Annotated[
        float, typer.Option(min=0.0, help="Most gigabytes of them; 0: 34.", show_default=False)
    ] = 0.0,
    strict_data: Annotated[
        bool, typer.Option(help="End at the first sample that cannot be decoded.")
    ] = False,
    workers: WorkersOption = 0,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Pretrain on DATA by a recipe. Ctrl-C saves; the same command goes on.

    DATA may also be WebDataset tars without a manifest, as 'https://host/set-{000..012}.tar': streamed, with weaker
    promises.
    """
    console.set_debug(debug)
    from usfmae.train.command import pretrain_command

    pretrain_command(
        data, recipe, out, overrides=set_ or (), max_steps=max_steps, max_time=max_time, plan=plan,
        ranks=ranks, decoded=decoded, decode=decode, shard_cache=shard_cache,
        shard_cache_gb=shard_cache_gb, strict_data=strict_data, workers=workers, seed=seed, device=device,
        as_json=json, quiet=quiet,
    )  # fmt: skip


@app.command(
    short_help="Draw input, mask and reconstruction.",
    epilog=console.examples("usfmae reconstruct RUN --mask-ratio 0.9"),
)
def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights with a decoder.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Corpus; the one the run was trained on where not given.")
    ] = None,
    set_: Annotated[str, typer.Option("--set", help="Set of the corpus.")] = "pretrain",
    key: Annotated[list[str] | None, typer.Option(help="Sample by its key. Repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="Samples drawn where no --key is given.")] = 6,
    mask_ratio: Annotated[float | None, typer.Option(min=0.0, max=0.99, help="Other than the run's.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG; RUN/reconstruction.png where not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the samples and what is hidden of them.")] = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw what the network paints: input, masked input, reconstruction, in one PNG."""
    console.set_debug(debug)
    from usfmae.tasks.reconstruct import reconstruct_command

    reconstruct_command(
        run, data, set_name=set_, keys=key or (), count=count, mask_ratio=mask_ratio, out=out, seed=seed,
        device=device, as_json=json,
    )  # fmt: skip


add_commands(app)


def main() -> NoReturn:
    """Entry point of the installed command."""
    console.run(app, "usfmae")


if __name__ == "__main__":
    main()
