"""Downloads in processes that are killed, run side by side, or meet a full disk."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from openus.errors import TransferError
from openus.hosts.base import RemoteFile
from openus.transfer.download import Transfer
from tests.helpers.web import Fault, Site
from tests.transfer.conftest import DATA, FAST, remote


def _limited_fetch(url: str, cache: str, limit: int, answers: multiprocessing.Queue[str]) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Transfer(Path(cache), retry=FAST).fetch(RemoteFile("a.zip", url), "set")
        answers.put("arrived")
    except TransferError as error:
        answers.put(str(error))


def test_a_disk_that_fills_up_keeps_what_arrived(site: Site, tmp_path: Path) -> None:
    """A file size limit of the process makes write() fail as a full disk does."""
    site.put("/a.zip", DATA)
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(
        target=_limited_fetch, args=(f"{site.url}/a.zip", str(tmp_path), 300_000, answers)
    )
    child.start()
    message = answers.get(timeout=30)
    child.join(30)
    assert "is full" in message
    assert "--cache" in message
    assert Transfer(tmp_path, retry=FAST).fetch(remote(site), "set").read_bytes() == DATA
    assert site.requests[-1].status == 206


FETCH = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from openus.hosts.base import RemoteFile
    from openus.transfer.download import Transfer
    def tell(file, have, total):
        print(have, flush=True)
    print(Transfer(Path(sys.argv[1]), on_bytes=tell).fetch(RemoteFile("a.zip", sys.argv[2]), "set"))
    """
)


def _start(cache: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FETCH, str(cache), url], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_continued_by_the_next(site: Site, tmp_path: Path) -> None:
    site.put("/a.zip", DATA, faults=[Fault(drop=400_000, pause=30)])
    first = _start(tmp_path, f"{site.url}/a.zip")
    assert first.stdout is not None
    while int(first.stdout.readline()) < 390_000:
        pass
    # What was read is in the file only once the library's buffer is written; wait until it is there.
    part = tmp_path / ".partial" / "set" / "a.zip.part"
    deadline = time.monotonic() + 10
    while part.stat().st_size < 250_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    have = part.stat().st_size
    assert have >= 250_000
    second = _start(tmp_path, f"{site.url}/a.zip")
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 0
    assert Path(out.splitlines()[-1]).read_bytes() == DATA
    assert [request.headers.get("Range") for request in site.requests] == [None, f"bytes={have}-"]
    assert site.requests[1].status == 206


def test_two_processes_fetch_a_file_once(site: Site, tmp_path: Path) -> None:
    site.put("/a.zip", DATA, faults=[Fault(drop=100_000, pause=1.0)])
    both = [_start(tmp_path, f"{site.url}/a.zip") for _ in range(2)]
    outs = [process.communicate(timeout=30)[0].splitlines()[-1] for process in both]
    assert outs == [str(tmp_path / "set" / "a.zip")] * 2
    assert len(site.requests) == 1
