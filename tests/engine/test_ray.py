"""Builds on a real Ray cluster of two workers: the bytes of a local build, also when one of them is killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import toys
from tests.helpers.cluster import cluster

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Manifests and inputs: five chunks of clips, and the others; near-copies are looked for."""
    folder = tmp_path_factory.mktemp("toys")
    manifests = toys.write_manifests(folder / "manifests")
    corpus = manifests / "corpora" / "toys.yaml"
    corpus.write_text(corpus.read_text() + "dedup: {near: drop}\n")
    return manifests, toys.write_inputs(folder / "inputs", clips=40)


def test_one_of_two_workers_is_killed_and_no_byte_changes(
    tmp_path: Path, two_workers: Any, toy: tuple[Path, dict[str, Path]]
) -> None:
    local, out = tmp_path / "local", tmp_path / "ray"
    assert toys.run(toys.command(local, *toy, "--workers", "0")).returncode == 0
    words = toys.command(out, *toy, "--engine", "ray", "--address", two_workers.address)
    build = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Both are at work: two chunks are being written.
    while build.poll() is None and len(list((out / ".work" / "sources").glob("*/*.part"))) < 2:
        time.sleep(0.002)
    assert build.poll() is None
    victim = next(node for node in two_workers.list_all_nodes() if not node.is_head())
    two_workers.remove_node(victim, allow_graceful=False)
    _, told = build.communicate(timeout=300)
    two_workers.add_node(num_cpus=1, memory=4 << 30, object_store_memory=100 << 20)
    assert build.returncode == 0, told
    assert "Ray: 2 machines, 2 CPUs" in told
    assert "a worker was lost" in told
    assert toys.digests(out) == toys.digests(local)
