"""A real Ray cluster on this machine: a head without a CPU, and workers that are machines of their own to Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cluster(workers: int = 2, cpus: int = 1) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with `workers` nodes of `cpus` CPUs each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        for _ in range(workers):
            made.add_node(num_cpus=cpus, memory=4 << 30, object_store_memory=100 << 20)
        yield made
    finally:
        made.shutdown()
