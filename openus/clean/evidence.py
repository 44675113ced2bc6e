"""What the first frames of a clip show together: where anything ever lights up, and what never moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np

from openus.clean.grey import to_grey
from openus.decode.frame import Frame, Pixels

LOOK_BYTES = 64 << 20
"""At most so many bytes of decoded frames are held back while a clip is looked at."""


@dataclass(frozen=True)
class Evidence:
    """Projections of the frames that were looked at, each uint8 [H, W] grey.

    peak: the brightest value of each pixel. Outside the field of view it stays at the background.
    still: the darkest value of each pixel. Moving speckle fades from it; what is burned in stays.
    mean: the average. Burned-in text stands sharp on smoothed tissue.
    frames: how many were looked at.
    """

    peak: Pixels
    still: Pixels
    mean: Pixels
    frames: int


def look(frames: Iterable[Frame], most: int) -> tuple[list[Frame], Iterator[Frame]]:
    """Take frames from the front of a stream until `most`, `LOOK_BYTES`, or a frame of another size is met.

    Returns:
        the frames taken (at least one, if there is one), and the whole stream, those included.
    """
    rest = iter(frames)
    taken: list[Frame] = []
    spare: list[Frame] = []
    size = 0
    for frame in rest:
        if taken and (size + frame.pixels.nbytes > LOOK_BYTES or frame.pixels.shape != taken[0].pixels.shape):
            spare = [frame]
            break
        taken.append(frame)
        size += frame.pixels.nbytes
        if len(taken) >= most:
            break
    return taken, chain(taken, spare, rest)


def gather(frames: Iterable[Pixels], dark: float = 6.0) -> Evidence:
    """Project frames of one size, uint8 [H, W] or [H, W, 3].

    Frames whose mean is below `dark` (the black ones many clips begin with) do not count, unless all are.
    """
    greys = [to_grey(pixels) for pixels in frames]
    lit = greys if len(greys) == 1 else [grey for grey in greys if cv2.mean(grey)[0] >= dark] or greys
    if len(lit) == 1:
        return Evidence(lit[0], lit[0], lit[0], 1)
    peak, still = lit[0].copy(), lit[0].copy()
    total = lit[0].astype(np.float32)
    for grey in lit[1:]:
        cv2.max(peak, grey, peak)
        cv2.min(still, grey, still)
        cv2.accumulate(grey, total)
    return Evidence(peak, still, np.asarray(total / len(lit) + 0.5, np.uint8), len(lit))
