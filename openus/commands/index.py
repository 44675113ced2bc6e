"""What `openus index` does with its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from openus import console
from openus.errors import UsageError
from openus.shards.corpus import NAME
from openus.shards.foreign import expand, index_shards


def index_command(
    urls: Sequence[str], out: Path, *, set_: str, row: dict[str, Any], quiet: bool, as_json: bool
) -> None:
    """Index the tars into `out` and say what was found. Raises UsageError for a folder that holds something else."""
    if out.exists() and any(out.iterdir()) and not (out / NAME).is_file():
        raise UsageError(f"{out}: exists and holds no {NAME}; give another --out")
    with console.progress(quiet, unit="shards") as bar:
        task = bar.add_task("index", total=len(expand(urls)))
        summary = index_shards(
            urls, out, set=set_, **row, report=lambda shard, done, of: bar.update(task, completed=done)
        )
    reasons = Counter(pq.read_table(out / "manifest" / "rejected.parquet")["reason"].to_pylist())
    samples, shards = summary["sets"][set_]["samples"], summary["sets"][set_]["shards"]
    size = sum(shard["bytes"] for shard in shards)
    if as_json:
        console.print_json(
            {"out": str(out), "set": set_, "samples": samples, "shards": len(shards), "bytes": size,
             "rejected": dict(reasons)}
        )  # fmt: skip
        return
    console.out.print(
        f"{samples:,} samples in {len(shards):,} shards ({console.amount(size)}), which stay where they are",
        soft_wrap=True,
    )
    if reasons:
        listed = ", ".join(f"{name} {count:,}" for name, count in reasons.most_common())
        console.out.print(
            f"not usable: {listed}; each is a row of {out}/manifest/rejected.parquet", soft_wrap=True
        )
    console.out.print(
        f"index: {out}; read it with: usfmae pretrain {out} --set data.set={set_}", soft_wrap=True
    )
