"""How the mask of a picture is found: the affixes by which their names differ, learnt from pairs."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openus.propose.look import Opener, frames_of, stem_of, suffix_of

PICTURES, MASKS = 20, 200
"""Names compared with each other; the rule found is counted on all."""
LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class _Affixes:
    """A picture is ``before + core + after``, its mask ``mask_before + core + mask_after``."""

    before: str
    after: str
    mask_before: str
    mask_after: str

    def core(self, stem: str) -> str | None:
        inner = len(stem) - len(self.before) - len(self.after)
        fits = stem.startswith(self.before) and stem.endswith(self.after) and inner > 0
        return stem[len(self.before) : len(self.before) + inner] if fits else None

    def mask(self, stem: str) -> str | None:
        core = self.core(stem)
        return None if core is None else f"{self.mask_before}{core}{self.mask_after}"

    @property
    def length(self) -> int:
        return len(self.before + self.after + self.mask_before + self.mask_after)


def mask_rule(pictures: Sequence[str], masks: Sequence[str], opener: Opener) -> dict[str, Any] | None:
    """The `masks` field of a manifest, or None where names do not tell which mask belongs to which picture."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in masks:
        by_stem[stem_of(path)].append(path)
    best, share = _best(pictures, by_stem)
    if best is None or share < LEAST_SHARE:
        return None
    pairs = [
        (p, by_stem[m][0]) for p in pictures if (m := best.mask(stem_of(p))) in by_stem and m is not None
    ]
    suffix = Counter(suffix_of(mask) for _, mask in pairs).most_common(1)[0][0]
    folders = {mask.rpartition("/")[0].rsplit("/", 1)[-1] for _, mask in pairs}
    own = {picture.rpartition("/")[0].rsplit("/", 1)[-1] for picture, _ in pairs}
    front, place = "(?:^|/)", ""
    if len(folders) == 1 and "" not in folders:
        place = _braced(folders.pop()) + "/"
    elif len(folders) > 1 and folders <= own:  # the masks lie in folders called like those of the pictures
        front, place = "(?:^|/)(?P<folder>[^/]+)/", "{folder}/"
    ends = sorted({re.escape(suffix_of(picture)) for picture, _ in pairs})
    rule: dict[str, Any] = {
        "match": f"{front}{re.escape(best.before)}(?P<name>[^/]+){re.escape(best.after)}"
        + (ends[0] if len(ends) == 1 else f"(?:{'|'.join(ends)})")
        + "$",
        "path": f"{place}{_braced(best.mask_before)}{{name}}{_braced(best.mask_after)}{_braced(suffix)}",
    }
    threshold = _threshold([mask for _, mask in pairs[:5]], opener)
    return rule if threshold is None else rule | {"threshold": threshold}


def _best(pictures: Sequence[str], by_stem: dict[str, list[str]]) -> tuple[_Affixes | None, float]:
    guesses: Counter[_Affixes] = Counter()
    for picture in pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]:
        stem = stem_of(picture)
        near = sorted(by_stem, key=lambda mask: (stem not in mask and mask not in stem, mask))[:MASKS]
        guesses.update(guess for mask in near if (guess := _affixes(stem, mask)) is not None)
    counted = [
        (sum(guess.mask(stem_of(p)) in by_stem for p in pictures), -guess.length, guess)
        for guess, _ in guesses.most_common(50)
    ]
    if not counted:
        return None, 0.0
    hits, _, best = max(counted, key=lambda item: item[:2])
    return best, hits / len(pictures)


def _affixes(stem: str, mask: str) -> _Affixes | None:
    match = difflib.SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match()
    common = stem[match.a : match.a + match.size]
    core = common.strip("_-. ")  # the marks around the core belong to what is added
    if not re.search(r"\d|[A-Za-z]{3}", core):
        return None
    shift = common.index(core)
    start, end = match.a + shift, match.a + shift + len(core)
    mask_start = match.b + shift
    return _Affixes(stem[:start], stem[end:], mask[:mask_start], mask[mask_start + len(core) :])


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _threshold(masks: Sequence[str], opener: Opener) -> int | None:
    """Half the brightness of masks of two values; None where the values are class numbers."""
    values: set[int] = set()
    for path in masks:
        for frame in frames_of(path, opener):
            values |= {int(value) for value in np.unique(frame.pixels)}
    return max(values) // 2 if 0 < len(values) <= 2 else None
