"""Patterns that select just the given files of a dataset."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from openus.glob import Glob, any_matches
from openus.propose.look import suffix_of

CHOICES = 6
"""Folders of one level that are named; more become ``*``."""


def literal(text: str) -> str:
    """Text as a pattern: what has a meaning in patterns becomes ``?``."""
    return re.sub(r"[*?\[\]{},]", "?", text)


def _choice(values: Iterable[str]) -> str:
    distinct = sorted(set(values))
    if len(distinct) == 1:
        return literal(distinct[0])
    return "{" + ",".join(literal(value) for value in distinct) + "}" if len(distinct) <= CHOICES else "*"


def folder_patterns(paths: Sequence[str], wrapper: str = "") -> list[str]:
    """One pattern for each depth: its levels named where there are few of them, and the suffixes that occur."""
    by_depth: dict[int, list[list[str]]] = defaultdict(list)
    for path in paths:
        parts = path.removeprefix(wrapper).split("/")
        by_depth[len(parts)].append(parts)
    patterns = []
    for _, members in sorted(by_depth.items()):
        levels = [_choice(parts[i] for parts in members) for i in range(len(members[0]) - 1)]
        patterns.append("/".join([*levels, "*" + _choice(suffix_of(parts[-1]) for parts in members)]))
    return patterns


def marked_patterns(masks: Sequence[str], marks: Mapping[str, str]) -> list[str]:
    """Patterns for files that lie among the pictures and are told by a part of their name."""
    named = {(marks[path], suffix_of(path)) for path in masks if marks[path]}
    return sorted(f"*{literal(mark)}*{literal(suffix)}" for mark, suffix in named)


def split_by_place(masks: Sequence[str], pictures: Sequence[str]) -> tuple[list[str], list[str]]:
    """Masks in folders of their own, and masks that lie among pictures of the same suffix."""
    shared = {(path.rpartition("/")[0], suffix_of(path)) for path in pictures}
    among = [path for path in masks if (path.rpartition("/")[0], suffix_of(path)) in shared]
    return [path for path in masks if path not in set(among)], among


def repair(
    wanted: Sequence[str], everything: Sequence[str], images: list[str], exclude: list[str]
) -> tuple[list[str], list[str]]:
    """The patterns made exact: what they select too much is excluded by path, what they lack is named by path."""
    keep, drop = [Glob(p) for p in images], [Glob(p) for p in exclude]
    right = set(wanted)
    lost = [path for path in wanted if any_matches(drop, path)]
    if lost:  # an exclusion that hits a picture is worth nothing
        bad = {p for p, glob in zip(exclude, drop, strict=True) if any(glob.matches(path) for path in lost)}
        exclude = [p for p in exclude if p not in bad]
        drop = [Glob(p) for p in exclude]
    extra = [p for p in everything if p not in right and any_matches(keep, p) and not any_matches(drop, p)]
    missing = [p for p in wanted if not any_matches(keep, p)]
    return images + [literal(p) for p in missing], exclude + [literal(p) for p in extra]
