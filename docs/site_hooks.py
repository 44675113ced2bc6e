"""What `mkdocs build` does to the pages of docs/, so that the same files read well in a repository and as a site."""

from __future__ import annotations

import re
from typing import Any

OUTWARD = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A link that leads out of docs/ to a file of the repository becomes the name of that file.

    A page without sections gets the room of its table of contents.
    """
    if "\n## " not in markdown:
        page.meta["hide"] = ["toc"]

    def name(link: re.Match[str]) -> str:
        words, target = link.group(1), link.group(2).removeprefix("../")
        return f"{words} (`{target}`)" if target.split("/")[-1] not in words else f"`{target}`"

    return OUTWARD.sub(name, markdown)
