"""A source of still pictures, built as they lie in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.helpers import toys

SOURCE = """
schema: 1
slug: stills
name: STILLS
title: Simulated pictures
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
images: ["*.jpg", "*.png"]
"""


def build(folder: Path, data: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """Build the pictures of `data` into `folder`/out; `settings` are lines of the corpus file."""
    corpus = f"schema: 1\nname: stills\nsources: [stills]\n{settings}\n"
    for kind, text in (("sources", SOURCE), ("corpora", corpus)):
        (folder / "manifests" / kind).mkdir(parents=True)
        (folder / "manifests" / kind / "stills.yaml").write_text(text)
    done = toys.run(
        [sys.executable, "-W", "always::ResourceWarning", "-m", "openus.cli", "build", str(folder / "out"),
         "--corpus", "stills", "--workers", "0", "--quiet", "--manifests", str(folder / "manifests"),
         "--local", f"stills={data}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of what `build` made."""
    found: list[dict[str, Any]] = pq.read_table(
        folder / "out" / "manifest" / "pretrain-000000.parquet"
    ).to_pylist()
    return found
