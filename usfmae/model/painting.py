"""Pictures of what the network paints: a grid of input, masked input, reconstruction, and both put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from usfmae.model.mae import MAE
from usfmae.model.masking import Masking

Grey = NDArray[np.uint8]

HIDDEN = (58, 78, 96)  # the colour of hidden patches: blue-grey, which no ultrasound image has
PAPER, INK, FAINT, BLANK = (255, 255, 255), (28, 32, 36), (120, 128, 136), (234, 238, 242)
MARGIN, GAP, TILE = 28, 12, 224


@dataclass
class Painted:
    """One image and what became of it; pictures are uint8 [S,S]."""

    title: str
    original: Grey
    seen: Grey  # what the encoder was given, before patches were hidden (differs for restoring targets)
    hidden: NDArray[np.bool_]  # [grid,grid]
    painted: Grey  # every hidden patch painted, every visible one as the input has it
    loss: float  # as in training: of the scored hidden patches


@torch.no_grad()
def paint(
    mae: MAE, images: Grey, seeds: Sequence[int], titles: Sequence[str], hide: Masking, worsen: object = None
) -> list[Painted]:
    """Hide and paint uint8 images [B,S,S]. `worsen`: as in `usfmae.model.targets`, or None.

    With `norm_pix_loss` a patch is painted in units of its own mean and contrast; they are taken from the input
    to undo that, as everyone does, so that only structure inside patches is the network's.
    """
    config = mae.config
    device = next(mae.parameters()).device
    seed_tensor = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    mean = torch.tensor(config.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(config.std, device=device).view(1, -1, 1, 1)
    x = (torch.from_numpy(images).to(device)[:, None].float() / 255 - mean) / std
    was_training = mae.training
    mae.eval()
    hiding = hide(x, config, seed_tensor, 0)
    seen = x if hiding.seen is None else hiding.seen
    seen = worsen(seen, seed_tensor) if callable(worsen) else seen
    result = mae(x, hiding.noise, num_keep=hiding.num_keep, scored=hiding.scored, seen=seen)
    every = hiding.noise.argsort(dim=1, stable=True)[:, hiding.num_keep :]
    pred = result.pred if every.shape == result.hidden.shape else _paint_all(mae, seen, result.keep, every)
    mae.train(was_training)

    patches = mae.patchify(x)
    place = every[..., None].expand(-1, -1, patches.shape[-1])
    if config.norm_pix_loss:
        var, middle = torch.var_mean(patches.gather(1, place), dim=-1, keepdim=True)
        pred = pred * (var + 1e-6).sqrt() + middle
    whole = mae.unpatchify(patches.scatter(1, place, pred.to(patches.dtype)))
    hidden = torch.zeros(patches.shape[:2], dtype=torch.bool, device=device).scatter(1, every, True)

    def grey(y: Tensor) -> Grey:
        values = ((y * std + mean).mean(dim=1) * 255).round().clamp(0, 255)
        return values.to(torch.uint8).cpu().numpy()

    paintings, givens = grey(whole), grey(seen)
    grids = hidden.view(-1, config.grid, config.grid).cpu().numpy()
    losses = result.per_sample.cpu().tolist()
    return [
        Painted(title, images[i], givens[i], grids[i], paintings[i], losses[i])
        for i, title in enumerate(titles)
    ]


def _paint_all(mae: MAE, seen: Tensor, keep: Tensor, every: Tensor) -> Tensor:
    """A network that was trained to paint a share of the hidden patches can paint all of them."""
    patches = mae.patchify(seen)
    levels = mae.encode(patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1])), keep)
    return mae.decode(levels, keep, every)


def draw_grid(painted: Sequence[Painted], path: Path, heading: str, note: str = "") -> None:
    """Write a PNG with one row for each image."""
    columns = ["input", shares_hidden(painted), "reconstruction", "visible + painted"]
    head, row = 92, TILE + 34
    width = 2 * MARGIN + len(columns) * TILE + (len(columns) - 1) * GAP
    height = head + len(painted) * row + (30 if note else 0) + MARGIN - 10
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    big, normal, small = (ImageFont.load_default(size) for size in (20, 15, 13))
    draw.text((MARGIN, 20), heading, INK, font=big)
    for number, name in enumerate(columns):
        x = MARGIN + number * (TILE + GAP) + TILE // 2
        draw.text((x, head - 12), name, FAINT, font=normal, anchor="ms")
    for number, item in enumerate(painted):
        y = head + number * row
        for column, tile in enumerate(_tiles(item)):
            sheet.paste(tile, (MARGIN + column * (TILE + GAP), y))
        draw.text(
            (MARGIN, y + TILE + 5),
            _shorten(item.title, draw, small, width - 2 * MARGIN - 150),
            INK,
            font=small,
        )
        draw.text((width - MARGIN, y + TILE + 5), f"loss {item.loss:.3f}", FAINT, font=small, anchor="ra")
    if note:
        draw.text((MARGIN, height - MARGIN - 4), note, FAINT, font=small)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)


def shares_hidden(painted: Sequence[Painted]) -> str:
    """What stands above the masked pictures: their share is told where it is one for all of them."""
    ratios = [float(p.hidden.mean()) for p in painted]
    return f"masked, {np.mean(ratios):.0%} hidden" if max(ratios) - min(ratios) < 0.1 else "masked"


def _tiles(item: Painted) -> list[Image.Image]:
    """The four pictures of a row, each TILE x TILE."""
    side = item.original.shape[0]
    patch = side // item.hidden.shape[0]
    where = np.kron(item.hidden, np.ones((patch, patch), bool))
    masked = np.repeat(item.seen[:, :, None], 3, axis=2)
    masked[where] = HIDDEN
    alone = np.where(where[:, :, None], item.painted[:, :, None], np.array(BLANK, np.uint8)[None, None])
    pasted = np.where(where, item.painted, item.original)
    pictures = (item.original, masked, alone.astype(np.uint8), pasted)
    return [Image.fromarray(p).convert("RGB").resize((TILE, TILE), _filter(p)) for p in pictures]


def _filter(picture: NDArray[np.uint8]) -> Image.Resampling:
    """Patch edges stay sharp where they are drawn; grey pictures are enlarged smoothly."""
    return (
        Image.Resampling.NEAREST
        if picture.ndim == 3 and TILE % picture.shape[0] == 0
        else Image.Resampling.BICUBIC
    )


def _shorten(
    text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int
) -> str:
    """`text` cut in its middle until it fits."""
    while len(text) > 12 and draw.textlength(text, font=font) > room:
        middle = len(text) // 2
        text = text[: middle - 2] + "…" + text[middle + 2 :]
    return text
