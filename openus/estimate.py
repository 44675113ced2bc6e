"""How many samples a source gives under a frame policy, worked out from the counts in its manifest.

Pure arithmetic: no data is read. Duplicates and frames refused by cleaning are not taken off, because nobody
can know them beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from openus.catalogue import Catalogue
from openus.manifest import FramePolicy, Source

Basis = Literal["counted", "computed", "at most", "rough", "unknown"]
"""counted: published or exact; computed: from the mean length of a clip; at most: an upper bound;
rough: somebody's judgement from partial counts; unknown: nothing to go by."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`frames`: what the source holds, before any policy; `samples`: what a policy leaves; None where unknown."""

    frames: int | None
    samples: int | None
    basis: Basis


def estimate(source: Source, policy: FramePolicy | None = None) -> Estimate:
    """Samples of `source` under `policy`, or under its own default policy if None."""
    expected = source.expected
    used = policy or source.frames
    frames = expected.frames if expected.frames is not None or source.kind != "image" else expected.members
    if used == source.frames:
        if expected.kept is not None:
            return Estimate(frames, expected.kept, "counted")
        if expected.estimate is not None:
            return Estimate(frames, expected.estimate, "rough")
    clips = expected.members
    if frames is None:
        bound = clips * used.cap if clips is not None and used.cap is not None else None
        return Estimate(None, bound, "unknown" if bound is None else "at most")
    if used.cap is None and used.stride == 1:
        return Estimate(frames, frames, "at most" if used.nonempty else "counted")
    if not clips:
        # Without the number of clips a cap says nothing, and a stride leaves at least its share of all frames.
        left = None if used.cap is not None else math.ceil(frames / used.stride)
        return Estimate(frames, left, "unknown" if left is None else "computed")
    each = math.ceil(frames / clips / used.stride)
    samples = clips * (each if used.cap is None else min(each, used.cap))
    return Estimate(frames, samples, "at most" if used.nonempty else "computed")


def describe(policy: FramePolicy, kind: str) -> str:
    """A frame policy in words, short enough for a column of a table."""
    words = []
    if policy.stride > 1:
        words.append(f"1 in {policy.stride}")
    if policy.cap is not None:
        words.append(f"at most {policy.cap} of a {'clip' if kind == 'video' else 'file'}")
    words = words or ["all"]
    if kind == "volume":
        words.append(f"along {policy.axis}")
    if policy.nonempty:
        words.append("not black")
    return ", ".join(words)


def estimate_all(catalogue: Catalogue, slugs: Iterable[str]) -> list[dict[str, Any]]:
    """A row per source under its own policy: number, slug, frames, policy, samples, confidence.

    `confidence` is the basis of the figure,
    followed by the first word of what the manifest says of itself: "counted, high".
    """
    rows = []
    for source in catalogue.sources(slugs):
        found = estimate(source)
        rows.append(
            {
                "number": source.number,
                "slug": source.slug,
                "frames": found.frames,
                "policy": describe(source.frames, source.kind),
                "samples": found.samples,
                "confidence": f"{found.basis}, {source.confidence.partition(':')[0].split(',')[0].split(' ')[0]}",
            }
        )
    return rows
