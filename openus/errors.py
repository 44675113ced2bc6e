"""The error tree. Every message says what happened, to which file, what was expected, and what to do next.

OpenUSError                     base; the command line prints it as one line and exits 1
├── UsageError                  wrong use of a command or a configuration; exits 2
│   └── ManifestError           a manifest (source, corpus, benchmark) is malformed or unknown
├── SourceError                 a dataset cannot be had
│   ├── NeedsPersonError        someone must register, accept terms or place files by hand
│   ├── TransferError           bytes did not arrive (network, HTTP status, HTML instead of a file)
│   │   └── UnreachableError    no host answered at all: there may be no network
│   ├── ChecksumError           bytes arrived but are not the expected ones
│   └── OfflineError            the file is not in the cache and the network is switched off
├── ArchiveError                not an archive, truncated, or refused as hostile
├── DecodeError                 one file or frame cannot be decoded; becomes a row in rejected.parquet
├── CorpusError                 a corpus folder is incomplete, altered, or of another version
└── MissingExtraError           an optional dependency is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class OpenUSError(Exception):
    """Base of all errors this package raises on purpose; `str(error)` is one clear line."""

    exit_code = 1


class UsageError(OpenUSError):
    """The command or its configuration is wrong; nothing was done."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest is malformed, or names something that does not exist."""


class SourceError(OpenUSError):
    """A dataset cannot be obtained as its manifest says.

    Where several routes were tried, the message names all that went wrong; `brief` is the same in a few words, and
    `tried` has a line for each of them.
    """

    brief: str = ""
    tried: tuple[str, ...] = ()


class NeedsPersonError(SourceError):
    """A person must act (register, accept terms, place a file). `steps` are numbered instructions: first the source's
    `own`, then those that are much the same for all sources."""

    def __init__(self, message: str, steps: Iterable[str] = (), common: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.own, common = tuple(steps), tuple(common)
        self.steps = self.own + common


class TransferError(SourceError):
    """The bytes of a file did not arrive."""


class UnreachableError(TransferError):
    """No host answered: its name cannot be resolved, or nobody listens there."""


class ChecksumError(SourceError):
    """The bytes of a file are not the expected ones."""


class OfflineError(SourceError):
    """A file is not on this machine and `--offline` forbids fetching it."""


class ArchiveError(OpenUSError):
    """An archive is truncated, not an archive at all, or refused as hostile."""


class DecodeError(OpenUSError):
    """A file, or one frame of it, cannot be decoded.

    `reason` is a short stable word for the manifest (`truncated`, `not-an-image`, `too-large`,
    `empty-file`, `unsupported`, `corrupt`); the message is for people.
    """

    def __init__(self, message: str, reason: str = "corrupt") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (str(self), self.reason)


class CorpusError(OpenUSError):
    """A corpus folder is incomplete, altered, or written by another version of the schema."""


class MissingExtraError(OpenUSError):
    """An optional dependency is needed for this step and is not installed."""

    def __init__(self, package: str, extra: str, why: str) -> None:
        super().__init__(
            f"{why} needs the package '{package}'; install it with: pip install 'openus[{extra}]'"
        )
        self.package, self.extra, self.why = package, extra, why

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.why)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def a_few(names: Sequence[str], most: int) -> str:
    """``"a, b, c and 9 more"``: the first of many names, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
