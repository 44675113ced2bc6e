"""What an archive may ask of this machine before it is refused as hostile."""

from __future__ import annotations

from dataclasses import dataclass

from openus.errors import ArchiveError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one dataset (all its roots and nested archives together).

    The defaults leave room for the largest public ultrasound sets (a 7 GB zip of 10,030 clips, 41,000 single
    images, zips in zips) and still stop a bomb before it fills memory or disk.
    """

    members: int = 1_000_000
    """Files in all."""
    total_bytes: int = 4096 * GIB
    """Expanded bytes in all."""
    member_bytes: int = 256 * GIB
    """Expanded bytes of one file."""
    ratio: float = 200.0
    """Expanded bytes per stored byte of one archive. Deflate reaches 1,032 on zeros; images stay below 20,
    uncompressed volumes with black borders below 50."""
    ratio_floor: int = 1 * GIB
    """The ratio is not looked at while an archive expands to less than this (tiny sets of black masks)."""
    depth: int = 4
    """Archives inside archives: 1 is an archive that holds only plain files."""


class Budget:
    """Counts what a dataset has used of its `Limits`; each method raises `ArchiveError` past the bound."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.members = 0
        self.bytes = 0

    def charge(self, label: str, name: str, size: int) -> None:
        """One more file of `size` expanded bytes."""
        if size < 0 or size > self.limits.member_bytes:
            raise refused(label, name, f"it expands to {size:,} bytes (limit for one file: "
                                       f"{self.limits.member_bytes:,})")  # fmt: skip
        self.members += 1
        self.bytes += size
        self.check_count(label, self.members)
        if self.bytes > self.limits.total_bytes:
            raise refused(label, name, f"the dataset expands to more than {self.limits.total_bytes:,} bytes")

    def check_count(self, label: str, count: int) -> None:
        if count > self.limits.members:
            raise ArchiveError(
                f"{label}: refused: {count:,} files, the limit is {self.limits.members:,}; "
                "if this dataset is truly so large, unpack it by hand and give the folder"
            )

    def check_ratio(self, label: str, expanded: int, stored: int) -> None:
        """`expanded` bytes out of an archive of `stored` bytes."""
        limits = self.limits
        if expanded > limits.ratio_floor and expanded > limits.ratio * max(stored, 1):
            raise ArchiveError(
                f"{label}: refused as an archive bomb: {stored:,} bytes expand to at least {expanded:,} "
                f"(limit: {limits.ratio:g} times); get the dataset from its official page"
            )

    def check_depth(self, label: str, depth: int) -> None:
        if depth > self.limits.depth:
            raise ArchiveError(
                f"{label}: refused: archives are nested {depth} deep, the limit is {self.limits.depth}; "
                "unpack the outer ones by hand and give the folder"
            )


def refused(label: str, name: str, why: str) -> ArchiveError:
    """The error for one hostile member: archive, member, rule, what to do."""
    return ArchiveError(
        f"{label}: member {name!r} refused: {why}; get the archive from its official page, "
        "or look into it and unpack it by hand, then give the folder"
    )
