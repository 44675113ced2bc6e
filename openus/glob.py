"""Glob patterns on paths inside a dataset, matched from the right."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Glob:
    """One pattern: ``*`` and ``?`` stay inside a folder, ``**`` crosses folders, ``[…]`` and ``{a,b}`` choose.

    A pattern matches a path or any tail of it that begins at a folder: ``Images/*.png`` matches
    ``BUSBRA/Images/a.png``. A leading ``/`` ties it to the top of the dataset.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        tied = pattern.startswith("/")
        body = _translate(pattern.lstrip("/").removeprefix("**/"))
        self._anywhere = re.compile(("" if tied else "(?:.*/)?") + body, re.DOTALL)

    def matches(self, path: str) -> bool:
        """True if the path, or a tail of it, fits the pattern."""
        return self._anywhere.fullmatch(path) is not None


def any_matches(globs: Iterable[Glob], path: str) -> bool:
    """True if any of the patterns matches the path."""
    return any(glob.matches(path) for glob in globs)


def _translate(pattern: str) -> str:
    out: list[str] = []
    i, depth = 0, 0
    while i < len(pattern):
        char = pattern[i]
        if pattern.startswith("**/", i):
            out.append("(?:.*/)?")
            i += 3
            continue
        if pattern.startswith("**", i):
            out.append(".*")
            i += 2
            continue
        if char == "[" and (end := pattern.find("]", i + 2)) > 0:
            inner = pattern[i + 1 : end].replace("\\", r"\\")
            out.append(f"[{'^' + inner[1:] if inner[0] == '!' else inner}]")
            i = end + 1
            continue
        if char == "{":
            depth += 1
            out.append("(?:")
        elif char == "}" and depth:
            depth -= 1
            out.append(")")
        elif char == "," and depth:
            out.append("|")
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char))
        i += 1
    return "".join(out)
