"""Models from and for others: `usfmae import` reads them, `usfmae export` writes them, `usfmae publish` sends them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openus import console
from openus.console import DebugOption, JsonOption, QuietOption


def import_(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="A weights file, or a folder holding one.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    mean: Annotated[
        float | None,
        typer.Option("--mean", help="Mean the weights were trained with, 0..1. [default: as found]"),
    ] = None,
    std: Annotated[float | None, typer.Option("--std", help="The same for the deviation.")] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring other people's weights into a folder that finetune, probe and embed take.

    Reads reference MAE, USF-MAE, timm ViT, DINOv2, Hugging Face ViT and ViTMAE, mmpretrain ViT, SAM, UltraSam;
    recognised by content, every key accounted for, no pickled code executed.
    """
    console.set_debug(debug)
    from usfmae.tasks.exchange.importing import import_weights
    from usfmae.tasks.report.terminal import show_import

    account = import_weights(weights, out, mean=mean, std=std)
    if json_:
        console.print_json(account)
    else:
        show_import(account)


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run, a checkpoint or a fine-tuned model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    form: Annotated[
        str, typer.Option("--format", "-f", help="safetensors, timm, hf-vitmae, hf-vit or onnx.")
    ] = "safetensors",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model for other software, with a model card: timm, Hugging Face, ONNX (checked), safetensors."""
    console.set_debug(debug)
    from usfmae.tasks.exchange.exporting import export as work

    written = work(source, out, form)
    if json_:
        console.print_json(written)
    else:
        console.out.print(
            f"written to {written['out']}: {', '.join(written['files'])}", markup=False, soft_wrap=True
        )
        if "difference" in written:
            console.out.print(f"largest difference from ours: {written['difference']:.1e}", markup=False)


def publish(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run, a checkpoint or a fine-tuned model.")],
    to: Annotated[str, typer.Option("--to", help="hf://ORG/NAME, a folder, s3://… or another address.")],
    licence: Annotated[
        str,
        typer.Option("--license", help="Identifier of the Hub for the weights; 'other': the card explains."),
    ] = "other",
    private: Annotated[
        bool, typer.Option("--private", help="A new repository on the Hub is private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files, tell of them, send nothing.")
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish a model with its card: for timm's hf_hub:, transformers' from_pretrained, and usfmae."""
    console.set_debug(debug)
    from usfmae.tasks.exchange.publishing import publish as work

    silent = quiet or json_ or not console.err.is_terminal
    done = work(source, to, licence=licence, private=private, dry_run=dry_run, quiet=silent)
    if json_:
        console.print_json(done)
        return
    say = console.out.print
    say(
        f"{done.get('url', done['to'])}: {', '.join(done['forms'])}, {console.amount(done['bytes'])}",
        soft_wrap=True,
    )
    for form, why in done["left_out"].items():
        say(f"  not as {form}: {why}", markup=False, soft_wrap=True)
    for name, size in done["files"].items() if dry_run else ():
        say(f"  {name}: {console.amount(size)}", markup=False)
    if dry_run:
        say("Nothing was sent (--dry-run).")
