"""Images of a corpus as the network wants them, and the reconstruction grid written beside each checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usfmae.model.mae import MAE
from usfmae.model.masking import MASKINGS
from usfmae.model.painting import Grey, draw_grid, paint
from usfmae.model.targets import TARGETS
from usfmae.stream.decode import cut, decode_grey
from usfmae.stream.index import Index
from usfmae.train.recipe import Recipe

NOTE = "Patches were scored by their own mean and contrast; both are taken from the input to draw them."


class Gallery:
    """The same few images, masked alike, painted at every checkpoint: ``RUN/pictures/step-….png``."""

    def __init__(self, index: Index, recipe: Recipe) -> None:
        self.recipe = recipe
        drawn = draw_rows(len(index.rows), recipe.report.pictures, recipe.training.seed)
        rows = index.rows[drawn].tolist()
        self.images = np.stack([square(index, row, recipe.model.img_size) for row in rows])
        self.titles, self.seeds = [title(index, row) for row in rows], rows

    def write(self, mae: MAE, run: Path, step: int) -> Path:
        """Paint and draw; the network is left as it was."""
        objective = self.recipe.objective
        hide, worsen = MASKINGS[objective.masking], TARGETS[objective.target]
        painted = paint(mae, self.images, self.seeds, self.titles, hide, worsen)
        path = run / "pictures" / f"step-{step:08d}.png"
        draw_grid(
            painted, path, f"{self.recipe.name}, step {step:,}", NOTE if mae.config.norm_pix_loss else ""
        )
        return path


def draw_rows(total: int, count: int, seed: int) -> list[int]:
    """`count` rows of `total`, drawn by `seed`; all of them where there are fewer."""
    return sorted(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False).tolist())


def title(index: Index, row: int) -> str:
    """Source, anatomy and key of a sample."""
    values = index.row(row)
    return f"{values['source']}  ·  {values['anatomy']}  ·  {values['key']}"


def square(index: Index, row: int, side: int) -> Grey:
    """The central square of a sample, uint8 [side, side]."""
    width, height = int(index.width[row]), int(index.height[row])
    edge = min(width, height)
    return view(index, row, side, (width - edge) // 2, (height - edge) // 2, edge, edge)


def stretched(index: Index, rows: Sequence[int], side: int) -> Grey:
    """Whole samples without regard to their aspect, uint8 [n, side, side]."""
    views = [view(index, row, side, 0, 0, int(index.width[row]), int(index.height[row])) for row in rows]
    return np.stack(views)


def view(index: Index, row: int, side: int, x: int, y: int, w: int, h: int) -> Grey:
    """A box of a sample, resized to uint8 [side, side]."""
    grey = decode_grey(index.read(row), int(index.width[row]), int(index.height[row]))
    out = np.empty((side, side), np.uint8)
    cut(grey, x, y, w, h, out)
    return out
