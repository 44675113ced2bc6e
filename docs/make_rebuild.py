"""Writes docs/rebuild.md, what a person does for OpenUS-46, in order, from the manifests.

python docs/make_rebuild.py            write the page
python docs/make_rebuild.py --check    exit 1 if the page is not current
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from written import DOCS, write_or_check

from openus.catalogue import Catalogue
from openus.hosts.kaggle import needs_account
from openus.hosts.manual import instructions
from openus.manifest import Route, Source

HEAD = """\
# Rebuild OpenUS-46, click by click

*Written by `docs/make_rebuild.py` from the manifests in `manifests/sources/`; do not edit.*

Of the {total} datasets, {open} come by themselves and {gated} want a person, once. Nothing waits for them: build at
once, and again when more has arrived; what is there is not done twice.

```sh
openus doctor openus-46                 # disk, tools, credentials, drop folders: what this machine lacks
```

```sh title="not run by the tests: it fetches from the hosts of all sources"
openus build openus-46                  # fetches what is open, builds it, lists the rest with its steps
openus build openus-46 --retry-failed   # later, as often as you like
```

What you download goes into the **drop folder** of its source, `CACHE/SLUG` (`openus fetch SLUG` prints the full
path), packed or unpacked. Data that lie elsewhere are named instead: `--local SLUG=PATH`. Terms are accepted by you,
not by a program; read them, some forbid passing on even the link.

Do it in this order: what others must answer first, what takes minutes last.
"""
GROUPS = {
    "request": ("Ask the owners", "A person must answer, so this comes first."),
    "registration": (
        "Register and accept the terms",
        "A form, and an agreement that is yours to read. Where a person approves, the link comes later, by mail.",
    ),
    "kaggle": (
        "One Kaggle account for all of these",
        "With the token in place `openus build` fetches them itself; `openus doctor` says whether it is found.",
    ),
    "account": ("Sign in", "An account of the site is enough."),
    "open": (
        "Click and download",
        "No account; but the page is made for browsers, and no program can fetch the files.",
    ),
}


def page(sources: Sequence[Source]) -> str:
    """The whole page as Markdown."""
    groups: dict[str, list[Source]] = {name: [] for name in GROUPS}
    for source in sources:
        if (group := _group(source)) is not None:
            groups[group].append(source)
    gated = sum(map(len, groups.values()))
    head = HEAD.format(total=len(sources), open=len(sources) - gated, gated=gated)
    return "\n".join([head, *_groups(groups), *_fallbacks(sources)]) + "\n"


def _group(source: Source) -> str | None:
    """Under which heading a source stands; None where `openus build` needs nobody."""
    if any(route.access == "open" and route.host != "manual" for route in source.routes):
        return None
    if any(route.host.startswith("kaggle") for route in source.routes):
        return "kaggle"
    return source.routes[0].access


def _groups(groups: dict[str, list[Source]]) -> Iterator[str]:
    number = 0
    for name, sources in groups.items():
        if not sources:
            continue
        number += 1
        title, words = GROUPS[name]
        yield f"## {number}. {title}\n\n{words}\n"
        if name == "kaggle":
            yield from _kaggle(sources)
        else:
            for source in sources:
                yield from _source(source, source.routes[0])


def _kaggle(sources: Sequence[Source]) -> Iterator[str]:
    routes = {source.slug: source.routes[0] for source in sources}
    common = next(
        needs_account(source, routes[source.slug], "").steps
        for source in sources
        if routes[source.slug].host == "kaggle-dataset"
    )
    yield _numbered(common)
    for source in sources:
        route = routes[source.slug]
        own = [step for step in needs_account(source, route, "").steps if step not in common]
        does = _link(own[0]) if own else "nothing more"
        yield f"- **{source.slug}** ([page]({route.url})): {does}"
    names = " ".join(routes)
    yield f"\nWithout a token: `openus fetch {names}` tells how to do it by hand.\n"


def _source(source: Source, route: Route) -> Iterator[str]:
    yield f"### {source.slug}\n"
    yield f"{source.title} (no. {source.number}, {source.anatomy}). Terms: {source.licence.name}.\n"
    # The last two steps, the drop folder and the way on, are the same for all and stand above.
    yield _numbered(instructions(source, route))


def _fallbacks(sources: Sequence[Source]) -> Iterator[str]:
    """Sources that come by themselves and also have a way by hand."""
    yield "## If an open source fails\n"
    yield "These come by themselves. If their hosts have gone, there is a way by hand, too:\n"
    for source in sources:
        by_hand = [route for route in source.routes if route.host == "manual"]
        if by_hand and _group(source) is None:
            yield f"- **{source.slug}**: {_link(' '.join(instructions(source, by_hand[0])))}"
    yield "\nAll others have only routes that programs can take; [their table](sources.md) names them."


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{number}. {_link(step)}" for number, step in enumerate(steps, 1)) + "\n"


def _link(text: str) -> str:
    """Addresses become links, without the full stop or bracket that follows them."""
    return re.sub(r"https?://[^\s()]+(?<![.,;:])", lambda found: f"<{found.group()}>", text)


if __name__ == "__main__":
    everything = sorted(Catalogue().sources(), key=lambda source: source.number or 0)
    sys.exit(write_or_check(DOCS / "rebuild.md", lambda: page(everything)))
