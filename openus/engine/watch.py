"""Keeps a note of the file that is being decoded, so that after a crash or a hang the one to blame is known.

Native libraries (codecs, HDF5, ITK) can end a process or keep it for ever, and no exception tells of it. The note
is a small file in the work folder: the name of what is being read, and below it what `faulthandler` writes when the
process dies of a signal or exceeds its time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REASONS = {
    "crashed": "a native library crashed on this file",
    "timeout": "decoding this file was given up at its time limit",
}
_TIMEOUT, _FATAL = b"Timeout (", b"Fatal Python error"
_PER_FRAME = 1.0  # seconds that each frame adds to the limit of its file: long clips are long work
_REARM = 1.0  # the clock is set anew at most so often, because each time starts a thread


class Watch:
    """Notes what is read and ends the process when one file takes longer than `seconds` (0: no limit).

    The limit is kept by a thread that needs no interpreter lock, so that it holds inside native code too.
    """

    def __init__(self, note: Path, seconds: float) -> None:
        self._seconds, self._deadline, self._armed = seconds, 0.0, 0.0
        self._file = note.open("wb", buffering=0)
        self._room = 0
        # Where somebody else (a test runner) listens already, a crash in this process is theirs to tell.
        self._listening = not faulthandler.is_enabled()
        if self._listening:
            faulthandler.enable(self._file)

    def begin(self, name: str) -> None:
        """From here on `name` is to blame."""
        self._note(json.dumps(name).encode())
        now = time.monotonic()
        self._deadline = now + self._seconds
        if now - self._armed > _REARM:
            self._arm()

    def frame(self) -> None:
        """The file gave another frame."""
        self._deadline += _PER_FRAME
        if self._seconds and time.monotonic() - self._armed > _REARM:
            self._arm()

    def done(self) -> None:
        """Nobody is to blame from here on."""
        self._note(b"")

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._listening:
            faulthandler.disable()
        self._file.close()

    def _note(self, name: bytes) -> None:
        """Write over the last name, in place: to cut and grow a file costs more than many a picture does."""
        if len(name) > self._room:
            self._room = max(256, 2 * len(name))
            self._file.seek(self._room + 1)  # where a dying process writes its last words
        os.pwrite(self._file.fileno(), name.ljust(self._room) + b"\n", 0)

    def _arm(self) -> None:
        if self._seconds:
            self._armed = time.monotonic()
            # The files that begin before the clock is set again have their full time, too.
            left = max(self._deadline - self._armed, 0.001) + _REARM
            faulthandler.dump_traceback_later(left, exit=True, file=self._file)


class Culprits:
    """The files of a piece of work that ended their process, by name; each with its reason of `REASONS`."""

    def __init__(self, path: Path) -> None:
        self.path, self.note = path, path.with_suffix(".reading")

    def known(self) -> dict[str, str]:
        """Those found so far."""
        try:
            found: dict[str, str] = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def blame(self, *, dead: bool) -> str | None:
        """Read the note of a process that is gone, and add its file to the known; returns it, or None.

        `dead` says that the process is known to have died at its work. Else (a whole build was killed, say) only
        a note that tells of a crash or of too long a time counts.
        """
        try:
            first, _, rest = self.note.read_bytes().partition(b"\n")
            name = json.loads(first)
        except (OSError, ValueError):
            return None
        late = rest.startswith(_TIMEOUT)
        known = self.known()
        if not (dead or late or _FATAL in rest) or name in known:
            return None
        # Written whole or not at all: it decides what is read again.
        fresh = self.path.with_suffix(".culprits.new")
        fresh.write_text(json.dumps(known | {name: "timeout" if late else "crashed"}))
        fresh.replace(self.path)
        self.note.unlink()
        return str(name)

    def forget(self) -> None:
        """The work is done; what it found is in its result."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Temporary files of this process lie in `folder`: where there is room, and where they can be swept up."""
    folder.mkdir(parents=True, exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, os.fspath(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
