"""Every route of every source, asked whether it still leads to the files the manifest expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openus.doctor.probe import RETRY, TIMEOUT, probe_file, probe_page
from openus.engine.base import Report
from openus.errors import ChecksumError, ManifestError, MissingExtraError, NeedsPersonError, SourceError
from openus.fetch import cached, route_name
from openus.hosts import refused, resolve
from openus.hosts.base import RemoteFile
from openus.manifest import Route, Source
from openus.net import HttpError, RetryPolicy
from openus.transfer.download import Transfer

RouteState = Literal["works", "person", "changed", "dead", "package"]
PageState = Literal["there", "gone", "closed", "unreachable", "none"]
ALL_PROBED = 24
SOME_PROBED = 5
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RouteCheck:
    """One route. `state`: works; person (someone must sign in, register or fetch it by hand); changed (other
    sizes or checksums than expected); dead; package (an optional package is not installed).

    number: place in the manifest, from 1. files, bytes: what the host lists, None where it does not say.
    probed: files whose first bytes were fetched. next: the route that is tried instead, where this one fails.
    """

    number: int
    name: str
    state: RouteState
    detail: str
    files: int = 0
    bytes: int | None = None
    probed: int = 0
    next: str = ""


@dataclass(frozen=True, slots=True)
class PageCheck:
    """A licence page: there; gone (404, 410); closed (it keeps programs out: look yourself); unreachable; none
    (the manifest knows no address)."""

    url: str
    state: PageState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """A source: its routes, its licence page, and `way`: how it would be had, "" where in no way at all."""

    slug: str
    number: int | None
    way: str
    routes: tuple[RouteCheck, ...]
    licence: PageCheck


def examine_sources(
    sources: Sequence[Source],
    cache: Path,
    *,
    retry: RetryPolicy = RETRY,
    report: Report = lambda stage, done, total: None,
) -> list[SourceCheck]:
    """Check all routes and licence pages, several sources at a time; results in the order of `sources`.

    Of each file at most a few hundred bytes are fetched, of a route with many files only some are. Nothing is
    written. report: called with ("check", sources done now, all of them).
    """
    transfer = Transfer(cache, retry=retry, timeout=TIMEOUT)  # with a session for each thread

    def one(source: Source) -> SourceCheck:
        found = _source(source, transfer)
        report("check", 1, len(sources))
        return found

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="doctor") as pool:
        return list(pool.map(one, sources))


def _source(source: Source, transfer: Transfer) -> SourceCheck:
    routes = [_route(source, number, route, transfer) for number, route in enumerate(source.routes, 1)]
    here = cached(source, transfer.cache)
    usable = [r for r in routes if r.state == "works"] or [r for r in routes if r.state == "person"]
    way = (
        f"here already ({here})" if here else f"route {usable[0].number}: {usable[0].name}" if usable else ""
    )
    return SourceCheck(source.slug, source.number, way, tuple(_with_next(routes)), _licence(source, transfer))


def _with_next(routes: Sequence[RouteCheck]) -> Iterator[RouteCheck]:
    """Each failing route with the one that takes over, as `openus fetch` would go on to it."""
    for position, route in enumerate(routes):
        if route.state == "works":
            yield route
            continue
        later = [r for r in routes[position + 1 :] if r.state in ("works", "person")]
        chosen = next((r for r in later if r.state == "works"), later[0] if later else None)
        text = f"route {chosen.number}: {chosen.name}" if chosen else ""
        yield RouteCheck(
            route.number, route.name, route.state, route.detail, route.files, route.bytes, route.probed, text
        )


def _route(source: Source, number: int, route: Route, transfer: Transfer) -> RouteCheck:
    name = route_name(route)
    files: list[RemoteFile] = []
    try:
        if route.host == "manual":
            return _by_hand(source, number, route, transfer)
        files = resolve(source, route, session=transfer.session, retry=transfer.retry)
        sizes = _probe(source, route, files, transfer)
    except NeedsPersonError as error:
        return RouteCheck(number, name, "person", _plain(source, error), len(files))
    except MissingExtraError as error:
        return RouteCheck(number, name, "package", str(error), len(files))
    except ChecksumError as error:
        return RouteCheck(number, name, "changed", _plain(source, error), len(files))
    except (SourceError, ManifestError) as error:
        return RouteCheck(number, name, "dead", _plain(source, error), len(files))
    except (KeyError, TypeError, ValueError) as error:
        # A resolver stumbles over an answer of another shape: the host's API has changed.
        detail = f"the answer of the host is not understood ({type(error).__name__}: {error})"
        return RouteCheck(number, name, "dead", detail, len(files))
    known = [file.size if file.size is not None else sizes.get(file.name) for file in files]
    total = sum(size for size in known if size is not None) if None not in known else None
    probed = f"; {len(sizes)} of them looked at" if len(sizes) < len(files) else ""
    told = f"{total:,} bytes" if total is not None else "size not told"
    detail = f"{len(files)} file{'s' if len(files) != 1 else ''}, {told}{probed}"
    return RouteCheck(number, name, "works", detail, len(files), total, len(sizes))


def _probe(
    source: Source, route: Route, files: Sequence[RemoteFile], transfer: Transfer
) -> dict[str, int | None]:
    """The sizes of the files looked at: all of a few, some of many, spread over the list."""
    step = 1 if len(files) <= ALL_PROBED else (len(files) - 1) / (SOME_PROBED - 1)
    count = len(files) if step == 1 else SOME_PROBED
    chosen = [files[round(i * step)] for i in range(count)]
    try:
        return {file.name: probe_file(transfer, file) for file in chosen}
    except HttpError as error:
        needs = refused(source, route, error) if error.status in (401, 403) else error
        if needs is error:
            raise
        raise needs from error


def _by_hand(source: Source, number: int, route: Route, transfer: Transfer) -> RouteCheck:
    """A manual route leads somewhere as long as its page answers a person."""
    name, url = route_name(route), route.url or source.homepage
    if not url:
        return RouteCheck(
            number, name, "person", f"no page is known; openus fetch {source.slug} has the steps"
        )
    page = _page(source, url, transfer)
    if page.state in ("gone", "unreachable"):
        return RouteCheck(number, name, "dead", f"{url}: {page.detail}")
    closed = "; the page keeps programs out, look yourself" if page.state == "closed" else ""
    return RouteCheck(number, name, "person", f"a person fetches it from {url}{closed}")


def _licence(source: Source, transfer: Transfer) -> PageCheck:
    if not source.licence.url:
        return PageCheck("", "none", "the manifest knows no page of the licence")
    return _page(source, source.licence.url, transfer)


def _page(source: Source, url: str, transfer: Transfer) -> PageCheck:
    try:
        status = probe_page(transfer, url)
    except SourceError as error:
        return PageCheck(url, "unreachable", _plain(source, error).rpartition(": ")[2])
    if status in (200, 206):
        return PageCheck(url, "there")
    if status in (404, 410):
        return PageCheck(url, "gone", f"HTTP {status}, the page is gone")
    return PageCheck(url, "closed", f"HTTP {status}, the page does not open to programs")


def _plain(source: Source, error: Exception) -> str:
    """The message without what the table says anyway, and without advice for a download."""
    return re.sub(r" \(gave up after .*\)$", "", str(error).removeprefix(f"{source.slug}: "))
