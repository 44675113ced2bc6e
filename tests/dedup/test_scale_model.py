"""The model of what larger corpora cost (`benchmarks/scale_build.py`): it follows the search it speaks of."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from benchmarks.scale_build import SIZES, model, search


def test_the_search_grows_faster_than_the_corpus_and_every_stage_has_its_row() -> None:
    costs = [search(count) for count in SIZES.values()]
    counts = list(SIZES.values())
    assert all(tasks > 0 and joins > 0 and seconds > 0 for tasks, joins, seconds in costs)
    for (_, _, less), (_, _, more), few, many in zip(costs, costs[1:], counts, counts[1:], strict=False):
        assert more / less > many / few
    each = dict.fromkeys(
        ("decode", "fingerprint", "compare", "pack", "lead", "worker memory"), 1e-3
    ) | dict.fromkeys(
        (f"{n} bytes" for n in ("shards", "samples", "rows", "prints", "manifests", "plans")), 1e5
    )
    rows = model(each, {"memory": 1e3, "seconds": 1e-6, "factor": 1.0, "search": 1.0})
    assert {row["pictures"] for row in rows} == set(SIZES)
    assert len(rows) == 6 * len(SIZES) and all(row["hours"] > 0 for row in rows)
