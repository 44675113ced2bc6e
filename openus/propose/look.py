"""Which files of an unknown folder are pictures, which are masks or tables: by content first, then by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

import numpy as np

from openus.archives import Entry
from openus.decode import open_media
from openus.decode.frame import Frame
from openus.errors import ArchiveError, DecodeError
from openus.manifest import FramePolicy, Kind

Opener = Callable[[str], BinaryIO]
Found = Literal["image", "video", "volume", "table", "other"]

MASK_WORDS = {
    "mask", "masks", "label", "labels", "annotation", "annotations", "annotated", "seg", "segs", "segmentation",
    "segmentations", "segmented", "gt", "groundtruth", "truth", "overlay", "overlays", "outline", "outlines",
    "contour", "contours", "roi", "rois",
}  # fmt: skip
TABLES = (".csv", ".tsv", ".xlsx", ".xlsm", ".json")
# Never pictures; some of them (office files) begin like archives or text.
TEXTS = {
    ".txt", ".md", ".pdf", ".doc", ".docx", ".ppt", ".pptx", ".xls", ".html", ".htm", ".xml", ".yaml", ".yml", ".py",
    ".m", ".ipynb", ".log", ".rtf",
}  # fmt: skip
SAMPLES = 5
"""Files of each group that are decoded."""
RARE = 50
"""A group with less than this part of the pictures is asked about: a preview, a poster."""
MASK_VALUES = 12
"""A picture with no more different values is a drawing: speckle has dozens even in a small one."""


@dataclass
class Findings:
    """Paths by what they are; `kind` of the pictures; `reasons` tell people why something is taken for a mask."""

    pictures: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    kind: Kind = "image"
    reasons: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    """What in the name of a mask tells it from pictures in the same folder; "" where nothing does."""
    notes: list[str] = field(default_factory=list)


@dataclass
class _Group:
    """Files of one folder and suffix that are marked alike: by nothing, a word for masks, or what is added to
    the name of another file (``case1_tumor.png`` beside ``case1.png``)."""

    folder: str
    suffix: str
    mark: str
    paths: list[str]
    found: Found = "other"
    reason: str = ""


def suffix_of(path: str) -> str:
    """The suffix as written, ``.nii.gz`` as one; "" where there is none."""
    name = path.rsplit("/", 1)[-1]
    if name.lower().endswith(".nii.gz"):
        return name[-7:]
    return PurePosixPath(name).suffix


def stem_of(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return name[: len(name) - len(suffix_of(name))]


def words_of(text: str) -> list[str]:
    """Lower-case words of a name: parted by anything but letters, and where a capital begins a word."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]


def wrapper_of(paths: Sequence[str]) -> str:
    """The folders all paths share, with the last slash: an archive's top folder says nothing."""
    shared = paths[0].split("/")[:-1] if paths else []
    for path in paths:
        parts = path.split("/")[:-1]
        while parts[: len(shared)] != shared:
            shared.pop()
    return "".join(f"{part}/" for part in shared)


def look(entries: Sequence[Entry], opener: Opener) -> Findings:
    """Sort the files of a folder into pictures, masks, tables and others."""
    groups = _groups(entry.path for entry in entries if entry.size)
    for group in groups:
        group.found = _what(group, opener)
    media = [group for group in groups if group.found in ("image", "video", "volume")]
    _mark_masks(media, opener)
    if media and all(group.reason for group in media):
        # Something must be the pictures: rather the flat ones than those that are called masks.
        unnamed = [group for group in media if not group.reason.startswith("named")]
        for group in unnamed or media:
            group.reason = ""
    found = Findings()
    pictures = [group for group in media if not group.reason]
    total = sum(len(group.paths) for group in pictures)
    for group in pictures:
        if len(group.paths) * RARE < total:
            found.notes.append(
                f"few files are like {group.paths[0]} ({len(group.paths)} of {total}); are they pictures?"
            )
    found.kind = _kind(pictures, found.notes)
    for group in groups:
        if group in media:
            if group.reason:
                found.masks += group.paths
                found.marks |= dict.fromkeys(group.paths, group.mark)
                found.reasons[f"{group.folder or '.'}/*{group.suffix}"] = group.reason
            else:
                found.pictures += group.paths
        else:
            (found.tables if group.found == "table" else found.others).extend(group.paths)
    for paths in (found.pictures, found.masks, found.tables, found.others):
        paths.sort()
    return found


def _groups(paths: Iterable[str]) -> list[_Group]:
    by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in sorted(paths):
        by_place[path.rpartition("/")[0], suffix_of(path)].append(path)
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (folder, suffix), members in by_place.items():
        stems = {stem_of(path) for path in members}
        for path in members:
            groups[folder, suffix, _mark(stem_of(path), stems)].append(path)
    return [_Group(folder, suffix, mark, found) for (folder, suffix, mark), found in groups.items()]


def _mark(stem: str, stems: set[str]) -> str:
    for word in sorted(MASK_WORDS, key=len, reverse=True):
        if word in words_of(stem):
            found = re.search(rf"(?i)[_\-. ]{word}(?![a-z])|{word}[_\-. ]|{word}", stem)
            return found[0] if found else word
    for end in range(len(stem) - 1, 0, -1):
        added = re.match(r"[_\-. ][A-Za-z]+", stem[end:])
        if added and stem[:end] in stems:
            return added[0]
    return ""


def _spread(paths: Sequence[str]) -> list[str]:
    """A few of many, spread over the list."""
    count = min(SAMPLES, len(paths))
    return [paths[round(i * (len(paths) - 1) / max(count - 1, 1))] for i in range(count)]


def _what(group: _Group, opener: Opener) -> Found:
    """What most of a group's files are, by content."""
    if group.suffix.lower() in TABLES:
        return "table"
    if group.suffix.lower() in TEXTS:
        return "other"
    votes: list[Found] = []
    for path in _spread(group.paths):
        try:
            with opener(path) as file:
                media = open_media(file, path)
        except (DecodeError, ArchiveError):
            votes.append("other")
            continue
        several = media.count is None or media.count > 1
        volume = media.format in ("nifti", "mha", "nrrd")
        votes.append(("volume" if volume else "video") if several else "image")
    return max(votes, key=votes.count)


def _mark_masks(groups: Sequence[_Group], opener: Opener) -> None:
    """Give a reason to each group of masks: its folder's name, its files' names, or what is in them."""
    wrapper = wrapper_of([path for group in groups for path in group.paths])
    for group in groups:
        word = _folder_word(f"{group.folder}/".removeprefix(wrapper))
        if word:
            group.reason = f"named: folder with '{word}'"
        elif set(words_of(group.mark)) & MASK_WORDS:
            group.reason = f"named: files with '{group.mark}'"
    for group in groups:
        if group.reason:
            continue
        counts = [count for path in _spread(group.paths) if (count := values_in(path, opener)) is not None]
        if counts and sum(count <= MASK_VALUES for count in counts) * 2 > len(counts):
            group.reason = f"looks drawn: at most {max(counts)} different values in a picture"


def _folder_word(folder: str) -> str:
    """The word for masks in a folder's name; one of a whole dataset, or of pictures and masks, tells nothing."""
    parts = [words_of(part) for part in folder.split("/")]
    telling = [words for words in parts if not {"and", "dataset"} & set(words)]
    return next((word for words in telling for word in words if word in MASK_WORDS), "")


def frames_of(path: str, opener: Opener) -> list[Frame]:
    """At most three frames of a file, spread over it; none where it cannot be decoded."""
    try:
        with opener(path) as file:
            return list(open_media(file, path, policy=FramePolicy(cap=3)).frames())
    except (DecodeError, ArchiveError):
        return []


def values_in(path: str, opener: Opener) -> int | None:
    """The number of different values in the liveliest of a few frames; None where nothing can be decoded."""
    return max((len(np.unique(frame.pixels)) for frame in frames_of(path, opener)), default=None)


def _kind(groups: Sequence[_Group], notes: list[str]) -> Kind:
    counts = {
        kind: sum(len(g.paths) for g in groups if g.found == kind) for kind in ("image", "video", "volume")
    }
    present = [kind for kind, count in counts.items() if count]
    if len(present) > 1:
        told = " and ".join(f"{counts[kind]} {kind}s" for kind in present)
        notes.append(
            f"the folder holds {told}; a source has one frame policy for all, so consider two manifests"
        )
    if counts["volume"] > counts["video"]:
        return "volume"
    return "video" if counts["video"] else "image"
