"""`usfmae reconstruct`: see what the network paints for images of a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openus.console import out as stdout
from openus.console import print_json
from openus.errors import UsageError, did_you_mean
from usfmae.model.masking import MASKINGS
from usfmae.model.painting import Painted, draw_grid, paint
from usfmae.model.targets import TARGETS
from usfmae.model.weights import Weights, build_mae, load_weights
from usfmae.stream.index import Index, open_index
from usfmae.train.pictures import NOTE, draw_rows, square, title


def reconstruct(
    weights: Weights,
    index: Index,
    out: Path,
    *,
    keys: Sequence[str] = (),
    count: int = 6,
    mask_ratio: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Painted]:
    """Paint samples of `index` (those of `keys`, else `count` drawn by `seed`) and write the grid to `out`.

    Raises `WeightsError` for weights without a decoder, `UsageError` for a key that is not in the set.
    """
    mae = build_mae(weights).to(device)
    if mask_ratio is not None:
        mae.config = mae.config.with_(mask_ratio=mask_ratio)
    objective = weights.config.get("recipe", {}).get("objective", {})
    rows = find_rows(index, keys) if keys else draw_rows(index.count, count, seed)
    images = np.stack([square(index, row, mae.config.img_size) for row in rows])
    titles = [title(index, row) for row in rows]
    seeds = [seed * 1_000_003 + row for row in rows]
    hide = MASKINGS[objective.get("masking", "random")]
    painted = paint(mae, images, seeds, titles, hide, TARGETS[objective.get("target", "pixels")])
    draw_grid(painted, out, heading(weights), NOTE if mae.config.norm_pix_loss else "")
    return painted


def heading(weights: Weights) -> str:
    """What the picture shows, in one line."""
    model, step = weights.model, weights.config.get("step")
    words = [f"ViT {model.embed_dim} x {model.depth}", f"{model.img_size} px", f"patch {model.patch_size}"]
    if step is not None:
        words.append(f"step {step:,}")
    return "Masked autoencoder: " + ", ".join(words)


def find_rows(index: Index, keys: Sequence[str]) -> list[int]:
    """Rows of the named samples. Raises `UsageError`."""
    names = index.table.column("key").to_pylist()
    place = {name: number for number, name in enumerate(names)}
    for key in keys:
        if key not in place:
            raise UsageError(
                f"--key {key}: not a sample of the set '{index.set}'{did_you_mean(key, names[:20_000])}"
            )
    return [place[key] for key in keys]


def reconstruct_command(
    run: Path,
    data: str | None,
    *,
    set_name: str,
    keys: Sequence[str],
    count: int,
    mask_ratio: float | None,
    out: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Run and say where the picture is."""
    from usfmae.train.distributed import pick_device

    weights = load_weights(run)
    picture = out or (run / "reconstruction.png" if run.is_dir() else run.with_suffix(".png"))
    painted = reconstruct(
        weights, open_index(data or data_of(run), set_name), picture, keys=keys, count=count, mask_ratio=mask_ratio,
        seed=seed, device=pick_device(device),
    )  # fmt: skip
    if as_json:
        samples = [{"sample": p.title.split("  ·  ")[-1], "loss": p.loss} for p in painted]
        result: dict[str, Any] = {"picture": str(picture), "weights": str(weights.path), "samples": samples}
        print_json(result)
        return
    mean = sum(p.loss for p in painted) / len(painted)
    stdout.print(f"{picture}: {len(painted)} images, mean loss {mean:.4f}", soft_wrap=True)


def data_of(run: Path) -> str:
    """The corpus a run was trained on. Raises `UsageError` where that is not recorded."""
    note = run / "run.json"
    if not note.is_file():
        raise UsageError(
            f"{run}: no run.json beside these weights says which corpus they saw; give it with --data"
        )
    return str(json.loads(note.read_text())["data"])
