"""Small charts as SVG text: they stay sharp in print and need no library in the page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 220, 56


def histogram(values: NDArray[np.floating] | NDArray[np.integer], bins: int = 22, unit: str = "") -> str:
    """Bars of how often each range of `values` [N] occurs, with the smallest, middle and largest value below."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return '<span class="dim">none</span>'
    low, high = float(known.min()), float(known.max())
    if low == high:
        return f'<p class="same">all {_short(low)}{unit}</p>'
    counts, _ = np.histogram(known, bins=bins, range=(low, high))
    step = _WIDTH / bins
    bars = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{_HEIGHT - h:.1f}" width="{step - 1:.1f}" height="{h:.1f}"/>'
        for i, h in enumerate(_HEIGHT * counts / counts.max())
        if h > 0
    )
    middle = float(np.median(known))
    marks = "".join(
        f'<text x="{x}" y="{_HEIGHT + 13}" text-anchor="{anchor}">{_short(value)}{unit}</text>'
        for x, anchor, value in ((0, "start", low), (_WIDTH, "end", high))
    )
    label = f"from {_short(low)}{unit} to {_short(high)}{unit}, median {_short(middle)}{unit}"
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT + 16}" role="img" aria-label="{label}">'
        f"<title>{label}</title>"
        f'<g class="bars">{bars}</g>{marks}'
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 13}" text-anchor="middle">median {_short(middle)}{unit}</text></svg>'
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"
