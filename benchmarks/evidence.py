"""Does pretraining help? One command from a corpus to the table, in minutes on one GPU.

    python benchmarks/evidence.py CORPUS OUT [--minutes 5] [--tiny]

A ViT-S is pretrained on the unlabelled lung clips, then for each official fold of BUS-BRA a little longer with that
fold's training pictures, never its test fold. From there it learns the outlines of lesions, and benign or malignant.
Beside it: the same ViT without the outlines, the same ViT from random weights, and ResNets from random weights. All
steps are `usfmae` commands, printed as they run; several run at once, since one small network leaves a large GPU idle.
CORPUS comes from `benchmarks/evidence/corpus.yaml` (docs/results.md has the command). What is not done when the
minutes are over is left out of the table, and said. `--tiny` shows on a CPU that every step works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "evidence"
FOLDS = range(1, 6)
MODELS = {
    "outlines": "",
    "mae": "",
    "scratch": "scratch:small",
    "resnet18": "timm:resnet18",
    "resnet50": "timm:resnet50",
}
"""Rows of the table, the first one compared with the others."""


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
    """The lung clips once, then each fold's training pictures: OUT/lung and OUT/pretrained/foldK."""
    toy = s.changes(
        "model.size=tiny", "model.img_size=64", "model.depth=2", "training.most_images=128", "training.batch_size=32",
        "training.precision=fp32", "training.compile=false",
    )  # fmt: skip
    common = [
        "--recipe",
        HERE / "pretrain.yaml",
        "--quiet",
        "--decoded",
        "memory",
        "--workers",
        1 if s.tiny else 4,
        *toy,
    ]
    s.start("lung", "pretrain", s.data, "--out", s.out / "lung", *common)
    if not s.wait("lung"):
        return False
    for fold in FOLDS:
        others = ", ".join(f"fold{other}" for other in FOLDS if other != fold)
        s.start(
            f"pretrain-fold{fold}", "pretrain", s.data, "--out", s.out / "pretrained" / f"fold{fold}", *common,
            "--set", f"data.also={{bus-bra: [{others}]}}", "--set", "data.mixture.factors={covid-blues: 0.1}",
            "--set", f"model.init={s.out / 'lung'}", "--set", f"training.most_images={128 if s.tiny else 250_000}",
        )  # fmt: skip
    return s.wait(*(f"pretrain-fold{fold}" for fold in FOLDS))


def table(
    s: Session, name: str, benchmark: str, models: dict[str, str], jobs: int, out: str, *more: str
) -> None:
    """Begin a comparison of `models` in OUT/`out`."""
    rows = [word for model, spec in models.items() for word in ("--model", f"{model}={spec}")]
    toy = s.changes("size=64", "epochs=1", "resamples=50", "batch_size=64")
    s.start(
        name, "benchmark", s.data, "--benchmark", benchmark, *rows, "--out", s.out / out, "--jobs", jobs,
        "--recipe", HERE / "pretrained.yaml", "--scratch-recipe", HERE / "scratch.yaml", *more, *toy,
    )  # fmt: skip


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
    models = dict(MODELS) | {
        "outlines": str(s.out / "lesions/runs/bus-bra-lesion/mae/seed0/{fold}"),
        "mae": str(s.out / "pretrained/{fold}"),
    }
    if s.tiny:
        models |= {"scratch": "scratch:tiny"}
        models.pop("resnet50")
    fresh = [name for name in models if name not in ("outlines", "mae")]
    lesion = ("--set", "epochs=20", "--set", "resamples=50")
    if pretrain(s):  # alone: networks that take turns on a GPU slow each other down by their number
        table(s, "lesions", "bus-bra-lesion", {"mae": models["mae"]}, 5, "lesions", *lesion)
        if s.wait("lesions"):
            begun = {name: models[name] for name in ("outlines", "mae")}
            table(s, "pretrained", "bus-bra", begun, 6, "table")
            s.wait("pretrained")
    table(s, "from-scratch", "bus-bra", {name: models[name] for name in fresh}, 4, "table")
    s.wait("from-scratch")
    s.deadline = time.monotonic() + (600 if s.tiny else 60)
    done = {name: spec for name, spec in models.items() if complete(s, name)}
    if done:
        table(s, "table", "bus-bra", done, 1, "table")
        if s.wait("table"):
            print((s.out / "table/table.md").read_text())
    result = {"name": "evidence", "seconds": round(s.now(), 1), "rows": list(done), "failed": s.failed}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
