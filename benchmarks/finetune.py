"""Fine-tuning against the plain way, and what a prediction costs beyond its imports.

    python benchmarks/finetune.py [--images 192] [--model vit_small_patch16_224] [--size 160] [--rounds 3]

One BUS-BRA-like fold is trained for an epoch at a time, in turn, on the same cores: by `usfmae` (decoded once,
changed in batch on the device, bf16 where the hardware has it) and by a plain loop (ImageFolder, torchvision
transforms on PIL images, DataLoader workers, timm model, AdamW, float32). Each epoch decodes what it must; ours
decodes before the first, and that time is counted into it and spread over the recipe's epochs. The real pictures
are used where they lie beside the checkout, simulated ones otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._corpus import pictures
from usfmae.tasks.classify import ClassificationObjective
from usfmae.tasks.data.square import square
from usfmae.tasks.network.build import build
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.start import Start
from usfmae.tasks.recipe import load_recipe
from usfmae.tasks.training.loop import Samples, fit


def write_folder(folder: Path, count: int) -> list[Path]:
    """An ImageFolder of two classes, in the pictures' own sizes, as a person unpacks a dataset."""
    files = []
    for number, grey in enumerate(pictures(count, 256)):
        path = folder / ("malignant" if number % 3 == 0 else "benign") / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), grey)
        files.append(path)
    return files


class Plain:
    """timm, ImageFolder and torchvision as their tutorials put them together."""

    def __init__(self, folder: Path, args: argparse.Namespace, device: torch.device) -> None:
        import timm
        from torch.utils.data import DataLoader
        from torchvision import datasets
        from torchvision import transforms as T

        steps = [
            T.Resize((args.size, args.size)), T.RandomHorizontalFlip(),
            T.RandomAffine(10, (0.05, 0.05), (0.9, 1.2)), T.ColorJitter(0.1, 0.2), T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]  # fmt: skip
        data = datasets.ImageFolder(str(folder), T.Compose(steps))
        self.loader = DataLoader(data, args.batch, shuffle=True, num_workers=args.workers, drop_last=True)
        self.model = timm.create_model(args.model, num_classes=2, img_size=args.size).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)
        self.device = device

    def epoch(self) -> int:
        """Train on every image once; how many there were."""
        self.model.train()
        seen = 0
        for images, labels in self.loader:
            loss = torch.nn.functional.cross_entropy(
                self.model(images.to(self.device)), labels.to(self.device)
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += len(labels)
        _wait(self.device)
        return seen


def ours(files: list[Path], args: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, float]:
    """One epoch through the loop of `usfmae finetune`: images a second, and where the time went."""
    began = time.perf_counter()
    images = np.stack([square(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), args.size) for path in files])[
        :, None
    ]
    decoding = time.perf_counter() - began
    labels = np.array([path.parent.name == "malignant" for path in files], np.int64)
    recipe = load_recipe("finetune-scratch", ["epochs=1", f"size={args.size}", f"batch_size={args.batch}"])
    network = build(Start(timm=args.model), outputs=2, size=args.size).to(device)
    train = Samples(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
    val = Samples(train.images[:8], train.targets[:8])
    objective = ClassificationObjective(labels, 2, recipe, 1)
    fitted = fit(network, train, val, objective, recipe, seed=0, folder=folder, fingerprint="benchmark")
    epochs = load_recipe("finetune-base").epochs
    seconds = fitted.train_seconds + decoding / epochs
    return {
        "rate": fitted.train_samples / seconds,
        "share": fitted.model_seconds / fitted.train_seconds if device.type == "cpu" else float("nan"),
        "decoding": decoding,
    }


def cold_prediction(rounds: int) -> tuple[float, float]:
    """Processor seconds of `usfmae predict` on one PNG, and of importing torch and timm: the least of some runs."""
    from usfmae.model.weights import CONFIG, save_weights

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = build(Start(size="small"), outputs=2, size=224)
        shape: dict[str, Any] = {"size": 224, "aspect": "stretch"}
        config = {
            "kind": "classifier", "architecture": network.architecture, "input": network.input | shape,
            "classes": ["benign", "malignant"], "tta": "none",
        }  # fmt: skip
        save_weights(folder, network.body.state_dict(), config)
        assert (folder / CONFIG).is_file()
        cv2.imwrite(str(folder / "one.png"), next(pictures(1, 256)))
        imports = [sys.executable, "-c", "import torch, timm"]
        whole = [
            sys.executable,
            "-m",
            "usfmae.cli",
            "predict",
            str(folder),
            str(folder / "one.png"),
            "--device",
            "cpu",
        ]
        pairs = [(_cpu_seconds(whole), _cpu_seconds(imports)) for _ in range(rounds)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _cpu_seconds(command: list[str]) -> float:
    """User and system time: the wall clock of a busy machine says little."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure in turn, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = pick_device()
    mine: list[dict[str, float]] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_folder(folder / "images", args.images)
        plain = Plain(folder / "images", args, device)
        for number in range(args.rounds):
            (folder / f"run{number}").mkdir()
            mine.append(ours(files, args, device, folder / f"run{number}"))
            began = time.perf_counter()
            theirs.append(plain.epoch() / (time.perf_counter() - began))
            print(
                f"round {number + 1}: usfmae {mine[-1]['rate']:8.1f} images/s   plain {theirs[-1]:8.1f} images/s"
            )
    cold, imports = cold_prediction(args.rounds)
    speed = float(np.median([one["rate"] for one in mine]) / np.median(theirs))
    share = float(np.median([one["share"] for one in mine]))
    known = np.isfinite(share)
    print(f"\n{args.model}, {args.size} px, batch {args.batch}, {args.images} images, {device.type}")
    print(f"  usfmae finetune / plain loop    {speed:6.2f} x   (goal 1.5)")
    print(
        f"  time in the model               {share:6.1%}     (goal 90 %)"
        if known
        else "  time in the model    GPU"
    )
    print(f"  predict, cold / imports alone   {cold / imports:6.2f} x   (goal at most 1.5)")
    print(f"  decoding all images once        {np.median([one['decoding'] for one in mine]):6.2f} s")
    ratios = {"finetune": round(speed, 3), "predict_cold": round(cold / imports, 3)}
    if known:
        ratios["model_share"] = round(share, 3)
    goals = {"finetune": ">= 1.5", "model_share": ">= 0.9", "predict_cold": "<= 1.5"}
    holds = speed >= 1.5 and (share >= 0.9 or not known) and cold / imports <= 1.5
    chip = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    machine = f"{chip}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(
        json.dumps(
            {"name": "finetune", "machine": machine, "ratios": ratios, "goals": goals, "holds": bool(holds)}
        )
    )


if __name__ == "__main__":
    main()
