"""What a machine needs for a build, and what of it is there. Nothing is changed, nobody is asked."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openus.archives import required_tools
from openus.archives.unpacked import RAR_TOOLS
from openus.console import amount
from openus.doctor.credentials import ECOSYSTEMS
from openus.errors import ChecksumError
from openus.estimate import estimate
from openus.fetch import cached, drop_folder, dropped_files
from openus.manifest import Corpus, Source

State = Literal["ok", "missing", "attention", "optional"]

# What one sample takes in a shard, measured on BUS-BRA (PNG) and COVID-BLUES (JPEG) at 256 pixels. The stages
# under OUT/.work hold as much again.
SAMPLE_BYTES = {"jpg": 17_000, "png": 47_000, "webp": 40_000}
MEASURED_SIZE = 256
NATIVE_SIZE = 512
"""Short side taken for `native`, whose true size nobody knows beforehand."""
WORK_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `state`: ok; missing (something asked for cannot work); attention (a person should look);
    optional (not there, and nothing asked for needs it). needed_by: slugs. bytes_…: of the disk."""

    area: Literal["tools", "packages", "disk", "credentials", "drop folders"]
    name: str
    state: State
    detail: str
    needed_by: tuple[str, ...] = ()
    hint: str = ""
    bytes_free: int | None = None
    bytes_needed: int | None = None


def examine_machine(sources: Sequence[Source], corpus: Corpus, out: Path, cache: Path) -> list[Check]:
    """All checks that need no network, for building `sources` of `corpus` into `out` with `cache`."""
    return [
        *_tools(sources),
        *_packages(sources),
        *_disk(sources, corpus, out, cache),
        *_credentials(sources),
        *_drop_folders(sources, cache),
    ]


# ── tools and packages ─────────────────────────────────────────────────────────────────────────────────────


def _names(source: Source) -> list[str]:
    """Names and patterns of all files a source may come as."""
    return [name for route in source.routes for name in (*(f.name for f in route.files), *route.include)]


def _tools(sources: Sequence[Source]) -> Iterator[Check]:
    for kind, ending in (("rar", (".rar", ".rar.001")), ("7z", (".7z", ".7z.001"))):
        needing = tuple(s.slug for s in sources if any(n.lower().endswith(ending) for n in _names(s)))
        problems = [text.partition(": ")[2] for text in required_tools([f"archive.{kind}"])]
        if not problems:
            tool = next((t for t in RAR_TOOLS if shutil.which(t)), "") if kind == "rar" else "py7zr"
            yield Check("tools", kind, "ok", f"read with {tool}", needing)
            continue
        state: State = "missing" if needing else "optional"
        yield Check("tools", kind, state, "; ".join(problems).partition("; install")[0], needing, problems[0])


def _needs_tables(source: Source) -> bool:
    rules = [*source.labels.values(), source.patient, source.clip, source.split]
    if any(rule is not None and (rule.table or "").lower().endswith((".xlsx", ".xlsm")) for rule in rules):
        return True
    spec = importlib.util.find_spec(f"openus.sources.{source.code}") if source.code else None
    return bool(spec and spec.origin and ".xlsx" in Path(spec.origin).read_text(encoding="utf-8"))


def _needs_listing(source: Source) -> bool:
    """A Google Drive folder whose files only its page or the API tells."""
    return any(
        route.host == "google-drive" and not (route.files and all(spec.url for spec in route.files))
        for route in source.routes
    )


NEEDS: dict[str, tuple[str, Callable[[Source], bool]]] = {
    "openpyxl": ("label tables in spreadsheets", _needs_tables),
    "gdown": ("listing Google Drive folders", _needs_listing),
    "rarfile": ("rar archives", lambda source: any(".rar" in name.lower() for name in _names(source))),
    "py7zr": ("7z archives", lambda source: any(".7z" in name.lower() for name in _names(source))),
}


def _packages(sources: Sequence[Source]) -> Iterator[Check]:
    """The optional packages of each extra, told from the package's own metadata."""
    for extra, packages in sorted(_extras().items()):
        absent = [name for name in packages if not _installed(name)]
        needing = tuple(
            s.slug for s in sources if any(name in NEEDS and NEEDS[name][1](s) for name in packages)
        )
        what = ", ".join(packages)
        if not absent:
            yield Check("packages", extra, "ok", what, needing)
            continue
        wanted = [name for name in absent if name in NEEDS and any(NEEDS[name][1](s) for s in sources)]
        for_what = "".join(f"; {name} is needed for {NEEDS[name][0]}" for name in wanted)
        yield Check(
            "packages", extra, "missing" if wanted else "optional", f"not installed: {', '.join(absent)}{for_what}",
            needing if wanted else (), f"pip install 'openus[{extra}]'",
        )  # fmt: skip


def _extras() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        lines = importlib.metadata.requires("openus") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return {"tables": ["openpyxl"], "hosts": ["gdown"], "archives": ["rarfile", "py7zr"]}
    for line in lines:
        match = re.match(r"([\w.-]+).*; extra == ['\"](\w+)['\"]$", line)
        if match and match[2] not in ("test", "dev"):
            found.setdefault(match[2], []).append(match[1])
    return found


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# ── disk ───────────────────────────────────────────────────────────────────────────────────────────────────


def corpus_bytes(sources: Sequence[Source], corpus: Corpus) -> tuple[int, list[str]]:
    """Bytes a build of `sources` takes under OUT, and the sources whose number of samples nobody knows."""
    side = corpus.clean.size if isinstance(corpus.clean.size, int) else NATIVE_SIZE
    scale = (side / MEASURED_SIZE) ** 2
    total, unknown = 0.0, []
    for source in sources:
        samples = estimate(source, corpus.frames.get(source.slug)).samples
        if samples is None:
            unknown.append(source.slug)
            continue
        held_out = source.slug in corpus.held_out
        encoding = corpus.pack.held_out if held_out else corpus.pack.pretrain
        total += samples * SAMPLE_BYTES[encoding.format] * scale
    return round(total * WORK_FACTOR), unknown


def download_bytes(sources: Sequence[Source], cache: Path) -> tuple[int, list[str]]:
    """Bytes still to be fetched by the first route that tells its sizes, and the sources that tell none."""
    total, unknown = 0, []
    for source in sources:
        if cached(source, cache):
            continue
        lists = [route.files for route in source.routes if route.files]
        sizes = [sum(spec.bytes or 0 for spec in files) for files in lists if all(s.bytes for s in files)]
        if sizes:
            total += sizes[0]
        else:
            unknown.append(source.slug)
    return total, unknown


def _disk(sources: Sequence[Source], corpus: Corpus, out: Path, cache: Path) -> Iterator[Check]:
    wants = {"OUT": (out, *corpus_bytes(sources, corpus)), "cache": (cache, *download_bytes(sources, cache))}
    together = sum(need for _, need, _ in wants.values())
    shared = len({_existing(place).stat().st_dev for place, _, _ in wants.values()}) == 1
    for name, (place, need, unknown) in wants.items():
        free = shutil.disk_usage(_existing(place)).free
        short = free < (together if shared else need)
        what = "for shards and their stages, estimated" if name == "OUT" else "still to be downloaded"
        detail = f"{amount(need)} {what}; {amount(free)} free at {place}"
        if unknown:
            those = "1 source is" if len(unknown) == 1 else f"{len(unknown)} sources are"
            detail += f"; {those} not in it, whose size nobody states"
        if shared and short:
            detail += f"; OUT and cache are on one disk and want {amount(together)} together"
        hint = (
            f"make room, or choose another {'folder for OUT' if name == 'OUT' else '--cache'}"
            if short
            else ""
        )
        yield Check("disk", name, "missing" if short else "ok", detail, (), hint, free, need)


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


# ── credentials and drop folders ───────────────────────────────────────────────────────────────────────────


def _credentials(sources: Sequence[Source]) -> Iterator[Check]:
    """Whether there are credentials, and where; never what they are."""
    for ecosystem in ECOSYSTEMS:
        wanting = tuple(source.slug for source in sources if ecosystem.needed_by(source))
        place, problem = ecosystem.look()
        if problem:
            yield Check("credentials", ecosystem.name, "attention", problem, wanting, ecosystem.hint)
        elif place:
            yield Check("credentials", ecosystem.name, "ok", f"found in {place}", wanting)
        else:
            state: State = "missing" if wanting else "optional"
            use = ecosystem.use if wanting else f"only for {ecosystem.use}"
            yield Check("credentials", ecosystem.name, state, f"not found; {use}", wanting, ecosystem.hint)


def _drop_folders(sources: Sequence[Source], cache: Path) -> Iterator[Check]:
    """What a person has put into the drop folder of each source that may need one."""
    for source in sources:
        if not any(route.host == "manual" for route in source.routes):
            continue
        folder = drop_folder(source, cache)
        hint = f"openus fetch {source.slug} says what to do"
        try:
            found = dropped_files(source, cache)
        except ChecksumError as error:
            yield Check("drop folders", source.slug, "attention", str(error), (), hint)
            continue
        if found.complete:
            yield Check("drop folders", source.slug, "ok", f"complete, {found.bytes:,} bytes in {folder}")
        elif found.unfinished:
            detail = f"still being downloaded: {', '.join(found.unfinished)}"
            yield Check("drop folders", source.slug, "attention", detail, (), hint)
        elif found.found or found.other:
            here = ", ".join((*found.found, *found.other))
            detail = f"holds {here}; still missing: {', '.join(found.missing) or 'the images'}"
            yield Check("drop folders", source.slug, "attention", detail, (), hint)
        else:
            only = all(route.host == "manual" for route in source.routes)
            detail = "empty; " + (
                f"a person must fetch it: openus fetch {source.slug}" if only else "not needed yet"
            )
            yield Check("drop folders", source.slug, "missing" if only else "optional", detail)
