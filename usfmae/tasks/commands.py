"""The commands of the tasks: options and help here, the work imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openus import console
from openus.console import DebugOption, JsonOption, QuietOption
from openus.errors import UsageError, did_you_mean
from usfmae.tasks.exchange.commands import export, import_, publish

DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A corpus folder, or the URL of one.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
BenchmarkOption = Annotated[
    str, typer.Option("--benchmark", "-b", help="Name of a benchmark, or its YAML file.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help="A pretraining run, a checkpoint folder, or a weights file. For folds, {fold} in it is the name of each.",
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Any timm model by name, from random weights.")
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="With --model: timm's published weights (downloaded by timm).")
]
ScratchOption = Annotated[
    str | None,
    typer.Option(
        "--scratch", help="Our ViT of a size (tiny … large; small/8: patches of 8 px), from random weights."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws the validation part, the head and the order.")]


ProtocolOption = Annotated[
    str | None, typer.Option("--protocol", help="How the benchmark is divided. [default: its first]")
]
FoldOption = Annotated[
    list[int] | None, typer.Option("--fold", help="A fold, from 1; repeatable. [default: all folds]")
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size", min=16, help="Side of the square input, px. [default: that of the weights, or 224]"
    ),
]
AspectOption = Annotated[str, typer.Option("--aspect", help="stretch, pad or crop to a square.")]
PoolOption = Annotated[str, typer.Option("--pool", help="mean of the patch tokens, class token, or both.")]


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module on the application."""
    for work, short, example in (
        (finetune, "Train on a benchmark's folds, and score them.", "finetune OUT -b bus-bra -w RUN -o MODEL --fold 1"),
        (predict, "Class probabilities for any file openus decodes.", "predict MODEL/fold1 picture.png cine.dcm"),
        (probe, "Judge frozen features by simple heads.", "probe OUT -b bus-bra -w RUN -o PROBE --curve"),
        (embed, "Features of every sample, or of files, as Parquet.", "embed OUT -w RUN -o features.parquet"),
        (benchmark, "Compare models: paired tests, intervals, the table.",
         "benchmark OUT -m ours=RUN -m scratch:small -m timm:resnet50 -b bus-bra -o TABLE --plan"),
        (import_, "Bring weights of other layouts in.", "import their_weights.pth -o FOLDER"),
        (export, "Write a model for timm, Hugging Face or ONNX.", "export MODEL/fold1 --format onnx -o EXPORTED"),
        (publish, "Publish a model with its card.", "publish RUN --to hf://ORG/NAME --dry-run"),
        (show, "One HTML page about a model.", "show RUN OUT -o PAGE --map umap"),
    ):  # fmt: skip
        app.command(
            work.__name__.rstrip("_"), short_help=short, epilog=console.examples(f"usfmae {example}")
        )(work)


def finetune(
    data: DataArgument,
    benchmark: BenchmarkOption,
    out: OutOption,
    weights: WeightsOption = None,
    model: ModelOption = None,
    pretrained: PretrainedOption = False,
    scratch: ScratchOption = None,
    protocol: ProtocolOption = None,
    fold: FoldOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Name or YAML file. [default: finetune-base at the size of the weights, or finetune-scratch]",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field: epochs=20, augment.rotate=0. Repeatable."),
    ] = None,
    fraction: Annotated[
        float, typer.Option("--fraction", min=0.0, max=1.0, help="Share of the training labels to use.")
    ] = 1.0,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune a pretrained encoder (or any timm model) on a labelled set, and score its test folds.

    Writes metrics.json, predictions.parquet, pictures, and the model that `usfmae predict` takes. An
    interrupted run goes on when the same command is given again.
    """
    console.set_debug(debug)
    from usfmae.tasks.finetune import finetune as work
    from usfmae.tasks.network.lineage import own_size
    from usfmae.tasks.network.start import Start
    from usfmae.tasks.recipe import load_recipe
    from usfmae.tasks.report.terminal import show_result

    start = Start(weights=weights, timm=model, pretrained=pretrained, size=scratch)
    changes = list(set_ or ())
    size = own_size(start.of_fold("fold1")) if recipe is None else None
    if size and not any(change.startswith("size=") for change in changes):
        changes.insert(0, f"size={size}")  # a small network is not blown up because a recipe does not know it
    settings = load_recipe(recipe or ("finetune-scratch" if start.fresh else "finetune-base"), changes)
    result = work(
        data, benchmark, start, settings, out, protocol=protocol, folds=fold, seed=seed, fraction=fraction,
        device=device, quiet=quiet or json_,
    )  # fmt: skip
    if json_:
        console.print_json(result)
    else:
        show_result(result, out)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `usfmae finetune` wrote.")],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Images, clips, volumes, DICOM: what openus decodes."),
    ],
    stride: Annotated[int, typer.Option("--stride", min=1, help="Of a clip, take every n-th frame.")] = 1,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", min=1, help="Of a clip, at most so many, evenly spaced.")
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="Show each frame's probabilities as well.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a PNG of the inputs with their probabilities.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Frames at once.")] = 32,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Class probabilities for any file openus can decode, cleaned and sized as in training.

    A clip gets one answer, the mean over its frames. Files that cannot be read are named, the others are
    still answered, and the exit code is 1.
    """
    console.set_debug(debug)
    from usfmae.tasks.predict import predict as work
    from usfmae.tasks.report.terminal import show_predictions

    results = work(
        model, files, stride=stride, max_frames=max_frames, batch_size=batch_size, device=device,
        picture=picture, quiet=quiet or json_,
    )  # fmt: skip
    if json_:
        console.print_json([result.to_json() for result in results])
    else:
        show_predictions(results, frames)
    report_errors([result.error for result in results if result.error])


def probe(
    data: DataArgument,
    benchmark: BenchmarkOption,
    out: OutOption,
    weights: WeightsOption = None,
    model: ModelOption = None,
    pretrained: PretrainedOption = False,
    scratch: ScratchOption = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="knn, linear, attentive, retrieval; repeatable. [default: knn, linear]"),
    ] = None,
    fraction: Annotated[
        list[float] | None, typer.Option("--fraction", help="Share of the labels; repeatable. [default: 1]")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Shares 1, 5, 10, 20, 50 and 100 %.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of each share below 1.")] = 3,
    protocol: ProtocolOption = None,
    fold: FoldOption = None,
    size: SizeOption = None,
    aspect: AspectOption = "stretch",
    pool: PoolOption = "mean",
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Judge frozen features on a labelled set: nearest neighbours, linear, attentive, retrieval, few labels."""
    console.set_debug(debug)
    from usfmae.tasks.network.lineage import own_size
    from usfmae.tasks.network.start import Start
    from usfmae.tasks.probe import probe as work
    from usfmae.tasks.report.terminal import show_probe

    shares = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0] if curve else (fraction or [1.0])
    start = Start(weights=weights, timm=model, pretrained=pretrained, size=scratch)
    result = work(
        data, benchmark, start, out, heads=head or ("knn", "linear"), fractions=shares, seeds=seeds,
        protocol=protocol, folds=fold, size=size or own_size(start.of_fold("fold1")) or 224,
        aspect=_word(aspect, "aspect", ("stretch", "pad", "crop")), pool=_word(pool, "pool", ("mean", "class", "both")),
        device=device, quiet=quiet or json_,
    )  # fmt: skip
    if json_:
        console.print_json(result)
    else:
        show_probe(result, out)


def embed(
    inputs: Annotated[
        list[str], typer.Argument(metavar="DATA|FILE…", help="A corpus, or files openus decodes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")],
    weights: WeightsOption = None,
    model: ModelOption = None,
    pretrained: PretrainedOption = False,
    set_: Annotated[str, typer.Option("--set", help="Of a corpus: which set.")] = "pretrain",
    size: SizeOption = None,
    aspect: AspectOption = "stretch",
    pool: PoolOption = "mean",
    stride: Annotated[int, typer.Option("--stride", min=1, help="Of a clip, take every n-th frame.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 64,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the features of every sample of a set, or of any files, as a Parquet table."""
    console.set_debug(debug)
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: features are written as Parquet; give a name that ends in .parquet")
    from usfmae.tasks.embed import embed as work
    from usfmae.tasks.network.lineage import own_size
    from usfmae.tasks.network.start import Start

    start = Start(weights=weights, timm=model, pretrained=pretrained)
    result = work(
        inputs, start, out, set_name=set_, size=size or own_size(start) or 224,
        aspect=_word(aspect, "aspect", ("stretch", "pad", "crop")), pool=_word(pool, "pool", ("mean", "class", "both")),
        stride=stride, batch=batch_size, device=device, quiet=quiet or json_,
    )  # fmt: skip
    if json_:
        console.print_json(
            {"out": str(out), "rows": result.rows, "features": result.width, "errors": result.errors}
        )
    else:
        console.out.print(f"{result.rows:,} rows of {result.width} features written to {out}", markup=False)
    report_errors(result.errors)


def benchmark(
    data: DataArgument,
    out: OutOption,
    model: Annotated[
        list[str],
        typer.Option(
            "--model", "-m", help="[NAME=]PATH, timm:NAME, timm:NAME+pretrained or scratch:SIZE; repeatable."
        ),
    ],
    benchmark: Annotated[
        list[str],
        typer.Option("--benchmark", "-b", help="Name of a benchmark, or its YAML file; repeatable."),
    ],
    protocol: ProtocolOption = None,
    fold: FoldOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each fold, seeds 0, 1, …")] = 1,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="For models with weights.")] = "finetune-base",
    scratch_recipe: Annotated[
        str, typer.Option("--scratch-recipe", help="For models from random weights.")
    ] = "finetune-scratch",
    recipe_of: Annotated[
        list[str] | None, typer.Option("--recipe-of", help="NAME=RECIPE, for one of the models; repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of all recipes: size=160. Repeatable.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would run and how long it takes; run nothing.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Runs at the same time; 3 or so fill a large GPU.")
    ] = 1,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare models on benchmarks under one protocol: runs, intervals, paired tests, and the table.

    The first model is the one the others are compared with. Stopped at any time, the same command goes on.
    """
    console.set_debug(debug)
    from usfmae.tasks.benchmark import benchmark as work
    from usfmae.tasks.benchmark import own_recipes, parse_model, told_plan, told_time
    from usfmae.tasks.recipe import load_recipe
    from usfmae.tasks.report.terminal import show_markdown

    recipes = (load_recipe(recipe, set_ or ()), load_recipe(scratch_recipe, set_ or ()))
    entries = own_recipes([parse_model(word, *recipes) for word in model], recipe_of or (), set_ or ())
    result = work(
        data, entries, benchmark, out, protocol=protocol, folds=fold,
        seeds=seeds, device=device, jobs=jobs, quiet=quiet or json_, plan_only=plan,
    )  # fmt: skip
    if json_:
        console.print_json(result)
    elif plan:
        console.out.print(told_plan(result["runs"], result["to_do"], result["expected_seconds"]))
        for name, seconds in result["models"].items():
            console.out.print(f"  {name}: {told_time(seconds)}", markup=False, soft_wrap=True)
    else:
        show_markdown((out / "table.md").read_text())
        console.out.print(
            f"written to {out}: table.md, table.csv, table.tex, table.png, results.json", markup=False
        )
    if result.get("failed"):
        raise typer.Exit(1)


def _word(value: str, name: str, known: tuple[str, ...]) -> Any:
    """A word of a short list, or a UsageError that says which there are."""
    if value not in known:
        raise UsageError(f"no {name} '{value}'{did_you_mean(value, known)} (known: {', '.join(known)})")
    return value


def report_errors(errors: list[str]) -> None:
    """A line for each failed input, then exit code 1; nothing where all went well."""
    for error in errors:
        console.err.print(f"usfmae: error: {error}", style="red", markup=False, soft_wrap=True)
    if errors:
        raise typer.Exit(1)


def show(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run, a checkpoint or a fine-tuned model.")
    ],
    data: DataArgument,
    out: OutOption,
    set_: Annotated[str, typer.Option("--set", help="Which set of the corpus.")] = "pretrain",
    colour: Annotated[
        str, typer.Option("--colour", help="Of the map: source, anatomy, kind, split, or a label.")
    ] = "source",
    layout: Annotated[str, typer.Option("--map", help="How the map is laid out: pca or umap.")] = "pca",
    count: Annotated[int, typer.Option("--count", min=1, max=24, help="Images in each sheet.")] = 8,
    most: Annotated[int, typer.Option("--points", min=3, help="Images in the map, at most.")] = 1500,
    size: Annotated[
        int | None, typer.Option("--size", min=16, help="Input side, px. [default: the model's]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the images and what is hidden of them.")] = 0,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """One page about a model: map of features, where it looks, what it paints, what it finds alike."""
    console.set_debug(debug)
    from usfmae.tasks.show import show as work

    page = work(
        model, data, out, set_name=set_, colour=colour, layout=_word(layout, "map", ("pca", "umap")), count=count,
        most=most, size=size, seed=seed, device=device, quiet=quiet or json_,
    )  # fmt: skip
    if json_:
        console.print_json({"page": str(page)})
    else:
        console.out.print(f"open {page}", markup=False, soft_wrap=True)
