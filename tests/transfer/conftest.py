"""A server that can be told how to fail, and a client with short waits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from openus.hosts.base import RemoteFile
from openus.net import RetryPolicy
from openus.transfer.download import Transfer
from tests.helpers.web import Site, serving

FAST = RetryPolicy(attempts=4, connect_attempts=2, base=0.01, cap=0.05, patience=5.0)
DATA = random.Random(7).randbytes(600_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    return Transfer(tmp_path / "cache", retry=FAST, timeout=(2.0, 1.0))


def remote(site: Site, name: str = "a.zip", **facts: object) -> RemoteFile:
    """A file of `site`, as a host's resolver would name it."""
    return RemoteFile(name, f"{site.url}/{name}", **facts)  # type: ignore[arg-type]
