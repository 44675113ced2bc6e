"""Does pretraining help? One command from a corpus to the table, in minutes on one GPU.

    python benchmarks/evidence.py CORPUS OUT [--minutes 8] [--tiny]

A ViT-S/8 is pretrained on the unlabelled lung clips, then for each official fold of BUS-BRA a little longer with that
fold's training pictures, never its test fold. Rows of the table, from there: `mae`, fine-tuned for benign or malignant;
`focus`, which first learned the outlines of the lesions and then looks at each lesion enlarged. Beside them the same
ViT and two ResNets from random weights. All steps are `usfmae` commands, printed as they run; the runs of a table go
several at once, since one small network leaves a large GPU idle. CORPUS comes from `benchmarks/evidence/corpus.yaml`
(docs/results.md has the command). What is not done when the minutes are over is left out of the table, and said; the
same command goes on where it stopped. `--tiny` shows on a CPU that every step works.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "evidence"
FOLDS = range(1, 6)
MODELS = {
    "focus": "{out}/lesions/runs/bus-bra-lesion/mae/seed0/{{fold}}",
    "mae": "{out}/pretrained/{{fold}}",
    "scratch": "scratch:small/8",
    "resnet18": "timm:resnet18",
    "resnet50": "timm:resnet50",
}
"""Rows of the table by importance, the first one compared with the others."""


@dataclass
class Session:
    """Where things lie, until when there is time, and what runs."""

    data: Path
    out: Path
    tiny: bool
    deadline: float
    began: float = field(default_factory=time.monotonic)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def start(self, name: str, *words: object) -> None:
        """Begin `usfmae WORDS` in the background, its output in OUT/NAME.log."""
        command = [sys.executable, str(ROOT / "cli.py"), "usfmae", *map(str, words)]
        print(f"{self.now():6.1f} s  usfmae {' '.join(map(str, words))}", flush=True)
        with (self.out / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)

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

    def changes(self, *tiny: str) -> list[str]:
        """`--set` for each of these changes, at toy size only."""
        return [word for change in tiny if self.tiny for word in ("--set", change)]


def pretrain(s: Session) -> bool:
    """The lung clips, then each fold's training pictures: OUT/lung and OUT/pretrained/foldK. Whether all are there."""
    toy = s.changes(
        "model.size=tiny", "model.img_size=64", "model.depth=2", "training.most_images=128", "training.batch_size=32",
        "training.precision=fp32",
    )  # fmt: skip
    common = ["--recipe", HERE / "pretrain.yaml", "--quiet", "--decoded", "memory", *toy]
    workers = (1, 1) if s.tiny else (8, 3)
    s.start("lung", "pretrain", s.data, "--out", s.out / "lung", *common, "--workers", workers[0])
    if not s.wait("lung"):
        return False
    for fold in FOLDS:
        others = ", ".join(f"fold{other}" for other in FOLDS if other != fold)
        s.start(
            f"pretrain-fold{fold}", "pretrain", s.data, "--out", s.out / "pretrained" / f"fold{fold}", *common,
            "--workers", workers[1], "--set", f"data.also={{bus-bra: [{others}]}}",
            "--set", "data.mixture.factors={covid-blues: 0.1}", "--set", f"model.init={s.out / 'lung'}",
            "--set", f"training.most_images={128 if s.tiny else 100_000}",
        )  # fmt: skip
    return s.wait(*(f"pretrain-fold{fold}" for fold in FOLDS))


def table(s: Session, name: str, benchmark: str, models: dict[str, str], jobs: int, *more: str) -> bool:
    """Compare `models` in OUT/`name`; whether it came to its end."""
    rows = [word for model, spec in models.items() for word in ("--model", f"{model}={spec}")]
    toy = s.changes("size=64", "focus.size=48", "epochs=1", "resamples=50", "batch_size=64")
    own = {"focus": s.out / "focus.yaml", "scratch": HERE / "scratch-vit.yaml"}
    recipes = [word for model in models if model in own for word in ("--recipe-of", f"{model}={own[model]}")]
    s.start(
        name, "benchmark", s.data, "--benchmark", benchmark, *rows, "--out", s.out / name, "--jobs", jobs,
        "--recipe", HERE / "pretrained.yaml", "--scratch-recipe", HERE / "scratch.yaml", *recipes, *more, *toy,
    )  # fmt: skip
    return s.wait(name)


def complete(s: Session, model: str) -> bool:
    """Whether all folds of a model are there."""
    return all(
        (s.out / "table/runs/bus-bra" / model / f"seed0/fold{fold}/metrics.json").is_file() for fold in FOLDS
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="CORPUS")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    s = Session(options.data, options.out, options.tiny, time.monotonic() + 60 * options.minutes - 15)
    models = {name: spec.format(out=options.out) for name, spec in MODELS.items()}
    if s.tiny:
        models |= {"scratch": "scratch:tiny/8"}
        models.pop("resnet50")
    segmenter = models["focus"]
    (s.out / "focus.yaml").write_text((HERE / "focus.yaml").read_text().replace("SEGMENTER", segmenter))
    # Pretraining goes alone: networks that take turns on a GPU slow each other down by their number.
    short = ("--set", "epochs=12", "--set", "resamples=50")
    begun = pretrain(s) and table(s, "lesions", "bus-bra-lesion", {"mae": models["mae"]}, 5, *short)
    if not begun:
        del models["focus"], models["mae"]
    table(s, "table", "bus-bra", models, 2 if s.tiny else 5)
    s.deadline = time.monotonic() + (600 if s.tiny else 60)
    done = {name: spec for name, spec in models.items() if complete(s, name)}
    for name, rows in (("table", [*done]), ("twins", ["mae", "scratch"])):  # the second: pretraining alone
        if rows and {*rows} <= {*done}:
            if name != "table":
                for row in rows:
                    place = s.out / name / "runs/bus-bra" / row
                    shutil.copytree(s.out / "table/runs/bus-bra" / row, place, dirs_exist_ok=True)
            if table(s, name, "bus-bra", {row: done[row] for row in rows}, 1):
                print((s.out / name / "table.md").read_text())
    result = {"name": "evidence", "seconds": round(s.now(), 1), "rows": list(done), "failed": s.failed}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
