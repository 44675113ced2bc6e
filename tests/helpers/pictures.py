"""Simulated pictures that behave like scans where copies are concerned: layout, speckle, a dark margin."""

from __future__ import annotations

import cv2
import numpy as np


def scan(seed: int, height: int = 200, width: int = 260, speckle: int | None = None) -> np.ndarray:
    """A picture uint8 [height, width]; `seed` decides the layout, `speckle` (the same by default) the grain."""
    layout = np.random.default_rng(seed)
    tissue = cv2.GaussianBlur(layout.random((height, width)), (0, 0), 14)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    for _ in range(4):
        centre = (int(layout.integers(40, width - 40)), int(layout.integers(40, height - 40)))
        axes = (int(layout.integers(8, 40)), int(layout.integers(8, 30)))
        cv2.ellipse(tissue, centre, axes, float(layout.uniform(0, 180)), 0, 360, float(layout.random()), -1)
    grain = np.random.default_rng(10_000 + (seed if speckle is None else speckle))
    amplitude = np.log(np.maximum(cv2.GaussianBlur(grain.rayleigh(1.0, (height, width)), (0, 0), 1.6), 1e-3))
    bright = 40 + 110 * tissue + 32 * (amplitude - amplitude.mean()) / amplitude.std()
    bright[:8], bright[-6:], bright[:, :12], bright[:, -12:] = 0, 0, 0, 0
    return np.asarray(np.clip(bright, 0, 255), np.uint8)
