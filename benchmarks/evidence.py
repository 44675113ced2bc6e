"""Does pretraining help? One command from a corpus to the table, in minutes on one GPU.

    python benchmarks/evidence.py CORPUS OUT [--minutes 8] [--small | --tiny] [--fold N]... [--seeds N]

A ViT-S/8 is pretrained on the unlabelled lung clips, then for each official fold of BUS-BRA a little longer with that
fold's training pictures, never its test fold. Rows of the table, from there: `mae`, fine-tuned for benign or malignant;
`focus`, which first learned the outlines of the lesions and then looks at each lesion enlarged. Beside them the same
ViT and two ResNets from random weights. All steps are `usfmae` commands, printed as they run; the runs of a table go
several at once, since one small network leaves a large GPU idle. Last, frozen features of the pretrained and of a fresh
ViT are probed with few and with all labels. CORPUS comes from `benchmarks/evidence/corpus.yaml`
(docs/results.md has the command). What is not done when the minutes are over is left out of the table, and said; the
same command goes on where it stopped. `--small` is the size for two CPU cores, which need some three hours: a ViT-Ti/16
at 128 px, without the row `focus`. `--tiny` shows on a CPU that every step works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "evidence"
MODELS = {
    "focus": "{out}/lesions/runs/bus-bra-lesion/mae/seed0/{{fold}}",
    "mae": "{out}/pretrained/{{fold}}",
    "scratch": "scratch:small/8",
    "resnet18": "timm:resnet18",
    "resnet50": "timm:resnet50",
}
"""Rows of the table by importance, the first one compared with the others."""


@dataclass(frozen=True)
class Size:
    """How much of it is done, and what that changes in the recipes."""

    models: tuple[str, ...] = tuple(MODELS)
    scratch: str = MODELS["scratch"]
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    seeds: int = 1
    jobs: int = 5
    """Trainings at the same time, on a CPU each with its share of the cores."""
    workers: tuple[int, int] = (8, 3)
    images: tuple[int, int] = (400_000, 100_000)
    """Seen in pretraining: of the lung clips, and of each fold's mixture."""
    side: int = 160
    """Of the images, in pixels."""
    pretraining: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()

    @staticmethod
    def changes(fields: tuple[str, ...]) -> list[str]:
        """`--set` for each of these fields."""
        return [word for field in fields for word in ("--set", field)]


LARGE = Size()
SMALL = Size(
    models=("mae", "scratch", "resnet18", "resnet50"), scratch="scratch:tiny/16",
    jobs=2, workers=(1, 1), images=(60_000, 300_000), side=128,
    pretraining=(
        "model.size=tiny", "model.patch_size=16", "model.decoder_embed_dim=192",
        "model.decoder_depth=2", "training.batch_size=128", "optim.base_lr=1.2e-3",
    ),
    tuning=("epochs=24", "patience=8"),
)  # fmt: skip
TINY = Size(
    models=("focus", "mae", "scratch", "resnet18"), scratch="scratch:tiny/8", jobs=2, workers=(1, 1), images=(128, 128),
    side=64,
    pretraining=(
        "model.size=tiny", "model.depth=2", "training.batch_size=32", "training.precision=fp32",
    ),
    tuning=("focus.size=48", "epochs=1", "resamples=50", "batch_size=64"),
)  # fmt: skip


@dataclass
class Session:
    """Where things lie, until when there is time, and what runs."""

    data: Path
    out: Path
    size: Size
    deadline: float
    began: float = field(default_factory=time.monotonic)
    threads: dict[str, str] = field(default_factory=dict)
    """What tells each of several trainings at once its share of the cores."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def start(self, name: str, *words: object) -> None:
        """Begin `usfmae WORDS` in the background, its output in OUT/NAME.log."""
        command = [sys.executable, str(ROOT / "cli.py"), "usfmae", *map(str, words)]
        print(f"{self.now():6.1f} s  usfmae {' '.join(map(str, words))}", flush=True)
        with (self.out / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | self.threads
            )

    def wait(self, *names: str) -> bool:
        """Until these have ended, or the time is over; whether all went well."""
        for name in names:
            process = self.running.pop(name)
            try:
                code = process.wait(max(0.0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                code = process.wait()
                print(f"{self.now():6.1f} s  {name}: stopped, the time is over", flush=True)
            if code:
                self.failed.append(name)
                tail = (self.out / f"{name}.log").read_text(errors="replace")[-500:]
                print(f"{self.now():6.1f} s  {name}: exit code {code}\n{tail}", flush=True)
            else:
                print(f"{self.now():6.1f} s  {name}: done", flush=True)
        return not {*names} & {*self.failed}

    def now(self) -> float:
        return time.monotonic() - self.began


def pretrain(s: Session) -> bool:
    """The lung clips, then each fold's training pictures: OUT/lung and OUT/pretrained/foldK. Whether all are there."""
    size = s.size
    common = [
        "--recipe", HERE / "pretrain.yaml", "--quiet", "--decoded", "memory",
        *size.changes((f"model.img_size={size.side}", *size.pretraining)),
    ]  # fmt: skip
    seen = [f"training.most_images={count}" for count in size.images]
    s.start(
        "lung",
        "pretrain",
        s.data,
        "--out",
        s.out / "lung",
        *common,
        "--workers",
        size.workers[0],
        "--set",
        seen[0],
    )
    if not s.wait("lung"):
        return False
    share = max(1, (os.cpu_count() or 1) // size.jobs)
    s.threads = {"OMP_NUM_THREADS": str(share)}
    well = True
    for first in range(0, len(size.folds), size.jobs):
        wave = size.folds[first : first + size.jobs]
        for fold in wave:
            others = ", ".join(f"fold{other}" for other in LARGE.folds if other != fold)
            s.start(
                f"pretrain-fold{fold}", "pretrain", s.data, "--out", s.out / "pretrained" / f"fold{fold}", *common,
                "--workers", size.workers[1], "--set", f"data.also={{bus-bra: [{others}]}}",
                "--set", "data.mixture.factors={covid-blues: 0.1}", "--set", f"model.init={s.out / 'lung'}",
                "--set", seen[1],
            )  # fmt: skip
        well &= s.wait(*(f"pretrain-fold{fold}" for fold in wave))
    s.threads = {}
    return well


def table(s: Session, name: str, benchmark: str, models: dict[str, str], jobs: int, *more: str) -> bool:
    """Compare `models` in OUT/`name`; whether it came to its end."""
    rows = [word for model, spec in models.items() for word in ("--model", f"{model}={spec}")]
    own = {"focus": s.out / "focus.yaml", "scratch": HERE / "scratch-vit.yaml"}
    recipes = [word for model in models if model in own for word in ("--recipe-of", f"{model}={own[model]}")]
    folds = [word for fold in s.size.folds for word in ("--fold", fold)]
    s.start(
        name, "benchmark", s.data, "--benchmark", benchmark, *rows, "--out", s.out / name, "--jobs", jobs, *folds,
        "--recipe", HERE / "pretrained.yaml", "--scratch-recipe", HERE / "scratch.yaml", *recipes, *more,
        *s.size.changes((f"size={s.size.side}", *s.size.tuning)),
    )  # fmt: skip
    return s.wait(name)


def probes(s: Session, models: dict[str, str]) -> None:
    """Frozen features of the ViT, pretrained and fresh, in OUT/probe-MODEL."""
    folds = [word for fold in s.size.folds for word in ("--fold", fold)]
    for model, option in (("mae", "--weights"), ("scratch", "--scratch")):
        if model not in models:
            continue
        s.start(
            f"probe-{model}", "probe", s.data, "--benchmark", "bus-bra", option, models[model].removeprefix("scratch:"),
            "--out", s.out / f"probe-{model}", "--size", s.size.side, "--head", "knn", "--head", "linear", "--curve",
            "--quiet", *folds,
        )  # fmt: skip
        if s.wait(f"probe-{model}"):
            print((s.out / f"probe-{model}.log").read_text())


def complete(s: Session, model: str) -> bool:
    """Whether all folds of a model are there, with all seeds."""
    runs = s.out / "table/runs/bus-bra" / model
    return all(
        (runs / f"seed{seed}/fold{fold}/metrics.json").is_file()
        for seed in range(s.size.seeds) for fold in s.size.folds
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="CORPUS")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--minutes", type=float, default=5.0)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", dest="size", action="store_const", const=SMALL, default=LARGE)
    sizes.add_argument("--tiny", dest="size", action="store_const", const=TINY)
    parser.add_argument("--fold", dest="folds", type=int, action="append", choices=LARGE.folds)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    size: Size = replace(options.size, seeds=options.seeds)
    if options.folds:
        size = replace(size, folds=tuple(options.folds))
    s = Session(options.data, options.out, size, time.monotonic() + 60 * options.minutes - 15)
    models = {name: MODELS[name].format(out=options.out) for name in size.models} | {"scratch": size.scratch}
    segmenter = models.get("focus", "")
    (s.out / "focus.yaml").write_text((HERE / "focus.yaml").read_text().replace("SEGMENTER", segmenter))
    # Pretraining goes alone: networks that take turns on a GPU slow each other down by their number.
    short = ("--set", "epochs=12", "--set", "resamples=50")
    begun = pretrain(s) and (
        not segmenter or table(s, "lesions", "bus-bra-lesion", {"mae": models["mae"]}, 5, *short)
    )
    if not begun:
        models = {name: spec for name, spec in models.items() if name not in ("focus", "mae")}
    table(s, "table", "bus-bra", models, size.jobs, "--seeds", str(size.seeds))
    s.deadline = time.monotonic() + (60 if size is LARGE else 600)
    done = {name: spec for name, spec in models.items() if complete(s, name)}
    for name, rows in (("table", [*done]), ("twins", ["mae", "scratch"])):  # the second: pretraining alone
        if rows and {*rows} <= {*done}:
            if name != "table":
                for row in rows:
                    place = s.out / name / "runs/bus-bra" / row
                    shutil.copytree(s.out / "table/runs/bus-bra" / row, place, dirs_exist_ok=True)
            if table(s, name, "bus-bra", {row: done[row] for row in rows}, 1, "--seeds", str(size.seeds)):
                print((s.out / name / "table.md").read_text())
    probes(s, models)
    result = {"name": "evidence", "seconds": round(s.now(), 1), "rows": list(done), "failed": s.failed}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
