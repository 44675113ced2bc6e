"""A local site that plays the hosts, and an environment without anybody's credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openus.fetch import Obtained, obtain
from openus.manifest import Source
from openus.net import RetryPolicy
from openus.transfer.download import Transfer
from tests.helpers.web import Site, serving

FAST = RetryPolicy(attempts=3, connect_attempts=2, base=0.01, cap=0.05)
CREDENTIALS = (
    "ZENODO_TOKEN", "FIGSHARE_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "GOOGLE_API_KEY",
    "GIRDER_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "DATAVERSE_API_TOKEN",
)  # fmt: skip
HOSTS = (
    "GITHUB", "GITHUB_RAW", "ZENODO", "FIGSHARE", "MENDELEY", "KAGGLE", "GIRDER", "TCIA", "HUGGINGFACE", "DATAVERSE",
)  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.delenv("OPENUS_ENDPOINT_GOOGLE_DRIVE", raising=False)
    with serving() as running:
        for host in HOSTS:
            monkeypatch.setenv(f"OPENUS_ENDPOINT_{host}", running.url)
        yield running


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[Source], Obtained]:
    """`obtain` into a cache of the test, with short waits."""
    cache = tmp_path / "cache"
    return lambda source: obtain(source, cache=cache, transfer=Transfer(cache, retry=FAST))


def contents(obtained: Obtained) -> dict[str, bytes]:
    """File names (below a folder root, paths) to bytes."""
    found: dict[str, bytes] = {}
    for root in obtained.roots:
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for path in files:
            found[path.name if path == root else path.relative_to(root).as_posix()] = path.read_bytes()
    return found
