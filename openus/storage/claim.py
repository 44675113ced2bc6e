"""One builder at a time where files cannot be locked: a claim in object storage that its holder keeps alive.

The claim is one small object, made only if there is none (a conditional write, which S3 and its kin, Google Cloud
Storage and Azure all have). Its holder counts up a number in it while it works. Nobody's clock is trusted: whoever
finds a claim watches whether it still counts, and takes over one that stands still.
"""

from __future__ import annotations

import _thread
import ctypes
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from openus.errors import CorpusError
from openus.storage.places import file_system

log = logging.getLogger(__name__)
BEAT = 5.0
"""Seconds between two counts of a holder that is alive."""
_DEAD = 6  # counts that a dead holder has missed
_NAME = ".work/claim.json"


@contextmanager
def claimed(url: str) -> Iterator[None]:
    """Hold the corpus at `url` for one build.

    Raises:
        CorpusError: another build is at work there, or object storage refuses.
    """
    system, root = file_system(url)
    claim = _Claim(system, f"{root.rstrip('/')}/{_NAME}", url)
    claim.take()
    stop = threading.Event()
    keeper = threading.Thread(target=claim.keep, args=(stop,), daemon=True)
    keeper.start()
    try:
        yield
    except KeyboardInterrupt:
        if claim.lost:
            raise claim.busy(claim.holder() or {}) from None
        raise
    finally:
        stop.set()
        keeper.join()
        claim.give_up()


class _Claim:
    def __init__(self, system: Any, path: str, url: str) -> None:
        self.system, self.path, self.url = system, path, url
        self.id, self.count = uuid.uuid4().hex, 0
        self.lost = False

    def take(self) -> None:
        """Make the claim, or take over one whose holder is dead."""
        while not self._made():
            found = self.holder()
            if found is None:  # given up between the two looks
                continue
            if not _gone(found):
                self._watch(found)
            log.warning("%s: taking over from a build on %s that is gone", self.url, found.get("host", "?"))
            self._remove()
        # Of two that took over at once the later one wins, and the other sees it here.
        time.sleep(min(1.0, BEAT / 2))
        holder = self.holder()
        if holder is None or holder.get("id") != self.id:
            raise self.busy(holder or {})

    def _watch(self, found: dict[str, Any]) -> None:
        until = time.monotonic() + _DEAD * BEAT
        while time.monotonic() < until:
            time.sleep(min(1.0, BEAT / 2))
            now = self.holder()
            if now is None:
                return
            if (now.get("id"), now.get("count")) != (found.get("id"), found.get("count")):
                raise self.busy(now)

    def keep(self, stop: threading.Event) -> None:
        """Count until told to stop. A claim that somebody else took is left to them, and said."""
        while not stop.wait(BEAT):
            try:
                holder = self.holder()
                if holder is None or holder.get("id") != self.id:
                    self.lost = True
                    _interrupt_main()  # this process stood still so long that another build took over
                    return
                self.count += 1
                self.system.pipe_file(self.path, self._text())
            except Exception as error:  # the network may be back at the next count
                log.warning("%s: the claim could not be renewed (%s)", self.url, error)

    def give_up(self) -> None:
        """Remove the claim if it is still ours."""
        try:
            if not self.lost and (self.holder() or {}).get("id") == self.id:
                self._remove()
        except Exception as error:
            log.warning(
                "%s: the claim could not be removed (%s); it will be seen to be dead", self.url, error
            )

    def _made(self) -> bool:
        """Write the claim if there is none."""
        try:
            self.system.pipe_file(self.path, self._text(), mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            raise CorpusError(
                f"{self.url}: cannot be written ({error}); check the address and your access"
            ) from error
        return True

    def _text(self) -> bytes:
        facts = {"id": self.id, "count": self.count, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps(facts).encode()

    def holder(self) -> dict[str, Any] | None:
        """Whose claim it is; None where there is none."""
        self.system.invalidate_cache()
        try:
            found: dict[str, Any] = json.loads(self.system.cat_file(self.path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            self.system.rm_file(self.path)

    def busy(self, holder: dict[str, Any]) -> CorpusError:
        """What to say of another build."""
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return CorpusError(
            f"{self.url}: another build is at work here ({who}); wait for it to end, or build into another place"
        )


def _interrupt_main() -> None:
    """A KeyboardInterrupt in the main thread, also where Ctrl-C is ignored: in what a script began with `&`."""
    if callable(signal.getsignal(signal.SIGINT)):
        _thread.interrupt_main()
        return
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


def _gone(found: dict[str, Any]) -> bool:
    """True where the holder was a process of this very machine and is no more: no need to watch it."""
    if found.get("host") != socket.gethostname() or not isinstance(found.get("pid"), int):
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
