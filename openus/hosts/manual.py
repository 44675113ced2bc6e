"""Datasets a person must fetch: behind registration, a form, a click, or a page no program can read."""

from __future__ import annotations

from openus.errors import NeedsPersonError
from openus.hosts.base import RemoteFile
from openus.hosts.common import Web
from openus.manifest import RemoteSpec, Route, Source

ACCESS = {
    "open": "no account is needed, but no program can fetch it",
    "account": "it needs an account of the site",
    "registration": "it needs registration and accepted terms",
    "request": "it must be asked for",
}


def resolve(source: Source, route: Route, web: Web | None) -> list[RemoteFile]:
    raise NeedsPersonError(
        f"{source.slug}: a person must fetch this dataset ({ACCESS[route.access]})",
        instructions(source, route),
        last_steps(source, f"CACHE/{source.slug}"),
    )


def instructions(source: Source, route: Route) -> list[str]:
    """What to do, in order: the page, what to accept, the files."""
    page = route.url or source.homepage
    steps = list(route.steps)
    if page and not any("http://" in step or "https://" in step for step in steps):
        steps.insert(0, f"Open {page} ({ACCESS[route.access]}).")
    known = [describe(spec) for spec in route.files if spec.bytes or spec.sha256 or spec.md5 or spec.sha1]
    if known:
        steps.append(f"Compare with what is known of the files: {'; '.join(known)}.")
    elif route.files and not route.steps:
        steps.append(f"Download {', '.join(spec.name for spec in route.files)}.")
    return steps


def last_steps(source: Source, drop: str) -> list[str]:
    """What is to be done with the files of any source: the folder they are put into (`drop`), and then."""
    return [
        f"The drop folder is {drop}; packed, unpacked, or one folder deeper is all the same.",
        f"Run the same command again, or point at a copy elsewhere with --local {source.slug}=PATH.",
    ]


def describe(spec: RemoteSpec) -> str:
    """A file in a sentence: name, size and checksum where they are known."""
    facts = [f"{spec.bytes:,} bytes"] if spec.bytes else []
    facts += [
        f"{name} {value}"
        for name, value in (("sha256", spec.sha256), ("md5", spec.md5), ("sha1", spec.sha1))
        if value
    ]
    return spec.name + (f" ({', '.join(facts[:2])})" if facts else "")
