"""Thinning of cine: frames of one clip that hardly differ from those kept just before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from openus.manifest import CineSettings


def thin_clip(hashes: Iterable[NDArray[np.uint8]], settings: CineSettings) -> Iterator[tuple[bool, int, int]]:
    """Go through the hashes (uint8 [32]) of a clip's frames in time, and yield (kept, distance, reference) of each.

    A frame is kept when it is further than `settings.distance` bits from each of the last `settings.window` frames
    kept; only those are held in memory. `reference` is the place in the clip of the nearest of them, at that
    distance; for a kept frame it is its own place.
    """
    last: deque[tuple[int, NDArray[np.uint8]]] = deque(maxlen=settings.window)
    for place, frame in enumerate(hashes):
        near = min(
            ((int(np.bitwise_count(frame ^ other).sum()), at) for at, other in last), default=(257, place)
        )
        if near[0] <= settings.distance:
            yield False, *near
        else:
            last.append((place, frame))
            yield True, 0, place


def spread(count: int, cap: int | None) -> NDArray[np.bool_]:
    """Which of `count` frames stay under a cap: evenly spaced, the first always; bool [count]."""
    stays = np.ones(count, bool)
    if cap is not None and count > cap:
        stays[:] = False
        stays[(np.arange(cap) * count) // cap] = True
    return stays
