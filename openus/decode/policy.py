"""From the frames a file has to the frames a source wants: stride, cap, non-empty, orientation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from openus.decode.frame import Frame, Pixels
from openus.decode.grey import IDENTITY, Scale
from openus.decode.limits import DecodeLimits
from openus.manifest import FramePolicy

LIT_LEVEL, LIT_SHARE = 10, 0.01
Wanted = Callable[[int], bool]


class Clip(ABC):
    """An opened file as a row of pictures that can be gone through, several times if need be.

    count: number of pictures the container announces; None where it does not say.
    """

    count: int | None
    _scale: Scale | None = None

    def keep_values(self) -> None:
        """From now on values are class numbers, and become uint8 as they are: 0 to 255, whatever their type."""
        self._scale = IDENTITY

    @abstractmethod
    def read(self, wanted: Wanted) -> Iterator[tuple[int, Pixels]]:
        """(index, uint8 [H, W] or [H, W, 3]) of the wanted pictures in ascending order; holds one at a time."""

    def exact_count(self) -> int:
        """The number of pictures, found by going through the container if it does not say."""
        if self.count is None:
            self.count = sum(1 for _ in self.read(lambda index: True))
        return self.count


def selected(clip: Clip, policy: FramePolicy, limits: DecodeLimits, name: str) -> Iterator[Frame]:
    """The frames of `clip` under `policy`, in ascending order, with their original indices.

    First the stride, then only the lit pictures if so asked, then the cap, evenly spaced over what is left.
    """

    def on_stride(index: int) -> bool:
        return index % policy.stride == 0

    wanted: Wanted = on_stride
    check_lit = policy.nonempty
    if policy.cap is not None:
        if policy.nonempty:
            candidates: Sequence[int] = [index for index, pixels in clip.read(on_stride) if is_lit(pixels)]
        else:
            candidates = range(0, clip.exact_count(), policy.stride)
        chosen = spread(candidates, policy.cap)
        if not chosen:
            return
        wanted, check_lit = set(chosen).__contains__, False
    for index, pixels in clip.read(wanted):
        limits.check_frames(name, index + 1)
        if not check_lit or is_lit(pixels):
            yield Frame(oriented(pixels, policy), index)
        if policy.cap is not None and index == chosen[-1]:
            return


def spread(candidates: Sequence[int], cap: int) -> Sequence[int]:
    """At most `cap` of the candidates: the middles of `cap` equal stretches of them."""
    count = len(candidates)
    if count <= cap:
        return candidates
    return [candidates[(2 * part + 1) * count // (2 * cap)] for part in range(cap)]


def is_lit(pixels: Pixels) -> bool:
    """True unless the picture is black: more than 1 % of its pixels are above grey level 10."""
    brightest = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    return bool(np.count_nonzero(brightest > LIT_LEVEL) > LIT_SHARE * brightest.size)


def oriented(pixels: Pixels, policy: FramePolicy) -> Pixels:
    """`pixels` turned clockwise by `policy.rotate` degrees, then flipped."""
    if policy.rotate:
        pixels = np.rot90(pixels, k=-policy.rotate // 90)
    if policy.flip == "horizontal":
        pixels = pixels[:, ::-1]
    elif policy.flip == "vertical":
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
