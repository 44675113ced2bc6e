"""Names: which are safe, which are litter, which are archives, and which parts belong together."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from openus.archives.limits import refused

MAX_PATH = 4096
LITTER_FOLDERS = {"__MACOSX"}
LITTER_FILES = {".ds_store", "thumbs.db", "desktop.ini", "icon\r"}

# Longest first, so that ".tar.gz" is not taken for ".gz". A lone ".gz" is no archive here (".nii.gz").
SUFFIXES = (
    ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".change2zip",
    ".tgz", ".tbz2", ".tbz", ".txz", ".tzst", ".tar", ".zip", ".rar", ".7z",
)  # fmt: skip

_ZIP_PART = re.compile(r"(?i)^(?P<stem>.+)\.z(?P<number>\d{2,4})$")
_CUT_PART = re.compile(r"(?i)^(?P<stem>.+)\.(?P<kind>zip|7z|rar|tar|tar\.gz|tgz)\.(?P<number>\d{3,4})$")
_RAR_PART = re.compile(r"(?i)^(?P<stem>.+)\.part(?P<number>\d{1,4})\.rar$")
_RAR_OLD = re.compile(r"(?i)^(?P<stem>.+)\.r(?P<number>\d{2,3})$")


def safe_name(raw: str, label: str) -> str:
    """The member name as a relative POSIX path in NFC, or "" for the archive's own root.

    Raises `ArchiveError` for names that could point outside a folder or that mean another thing on another
    system: absolute, with "..", a drive letter, a backslash, NUL or other control characters, or over-long.
    """
    if "\0" in raw:
        raise refused(label, raw, "its name holds a NUL byte")
    if raw.startswith(("/", "~/")):
        raise refused(label, raw, "its path is absolute")
    if "\\" in raw:
        raise refused(label, raw, "its name holds a backslash")
    if re.match(r"[A-Za-z]:", raw):
        raise refused(label, raw, "its path begins with a drive letter")
    if len(raw) > MAX_PATH:
        raise refused(label, raw[:60] + "…", f"its path is longer than {MAX_PATH} characters")
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refused(label, raw, "its path climbs out of the archive ('..')")
    name = unicodedata.normalize("NFC", "/".join(parts))
    if not is_litter(name) and any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise refused(label, raw, "its name holds control characters")
    return name


def is_litter(name: str) -> bool:
    """True for what operating systems leave behind: resource forks, thumbnails, folder settings."""
    *folders, last = name.split("/")
    return (
        last.lower() in LITTER_FILES
        or last.startswith("._")
        or not LITTER_FOLDERS.isdisjoint(folders)
        or last in LITTER_FOLDERS
    )


def decoded(raw: bytes) -> str:
    """A file name whose encoding was not declared: UTF-8 if it is that, else the zip default cp437."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def archive_stem(name: str) -> str | None:
    """The name without its archive suffix, or None if the suffix is none of an archive."""
    lower = name.lower()
    for suffix in SUFFIXES if lower.endswith(SUFFIXES) else ():
        if lower.endswith(suffix) and len(PurePosixPath(name).name) > len(suffix):
            return name[: -len(suffix)]
    return None


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are one archive: a single one, or all its parts in order (`missing` names absent ones)."""

    stem: str
    parts: tuple[str, ...]
    split: bool = False
    """True for ``.z01 … .zip``, whose offsets count per part; False where the parts are merely cut."""
    missing: tuple[str, ...] = ()


def group_archives(names: Iterable[str]) -> list[Group]:
    """Find the archives among `names`; parts of one archive (same folder, same stem) become one group."""
    names = sorted(names)
    by_lower = {name.lower(): name for name in names}
    numbered: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    single: list[str] = []
    for name in names:
        if match := _ZIP_PART.match(name):
            numbered[match["stem"], "split"][int(match["number"])] = name
        elif match := _CUT_PART.match(name):
            numbered[match["stem"], f"{match['kind'].lower()}.001"][int(match["number"])] = name
        elif match := _RAR_PART.match(name):
            numbered[match["stem"], "part1.rar"][int(match["number"])] = name
        elif (match := _RAR_OLD.match(name)) and f"{match['stem']}.rar".lower() in by_lower:
            numbered[match["stem"], "r00"][int(match["number"]) + 1] = name
        elif archive_stem(name) is not None:
            single.append(name)
    groups = [_numbered(stem, kind, parts, by_lower) for (stem, kind), parts in numbered.items()]
    taken = {part for group in groups for part in group.parts}
    groups += [Group(archive_stem(name) or name, (name,)) for name in single if name not in taken]
    return sorted(groups, key=lambda group: group.parts)


def _numbered(stem: str, kind: str, parts: dict[int, str], by_lower: dict[str, str]) -> Group:
    missing = [f"part {number}" for number in range(1, max(parts)) if number not in parts]
    ordered = [parts[number] for number in sorted(parts)]
    if kind == "split":
        last = next(
            (by_lower[n] for n in (f"{stem}.zip".lower(), f"{stem}.change2zip".lower()) if n in by_lower), ""
        )
        if last:
            ordered.append(last)
        else:
            missing.append(f"{PurePosixPath(stem).name}.zip (the last part)")
    if kind == "r00":
        ordered.insert(0, by_lower[f"{stem}.rar".lower()])
    return Group(stem, tuple(ordered), kind == "split", tuple(missing))
