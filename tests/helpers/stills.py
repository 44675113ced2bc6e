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


def write_manifests(folder: Path, settings: str = "") -> Path:
    """The source and its corpus; `settings` are lines of the corpus file."""
    corpus = f"schema: 1\nname: stills\nsources: [stills]\n{settings}\n"
    for kind, text in (("sources", SOURCE), ("corpora", corpus)):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "stills.yaml").write_text(text)
    return folder


def build(folder: Path, data: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """Build the pictures of `data` into `folder`/out; `settings` are lines of the corpus file."""
    manifests = write_manifests(folder / "manifests", settings)
    done = toys.run(
        [sys.executable, "-W", "always::ResourceWarning", "-m", "openus.cli", "build", str(folder / "out"),
         "--corpus", "stills", "--workers", "0", "--quiet", "--manifests", str(manifests),
         "--local", f"stills={data}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def rows(folder: Path, of: str = "pretrain-000000") -> list[dict[str, Any]]:
    """The rows of what was built into `folder`/out."""
    found: list[dict[str, Any]] = pq.read_table(folder / "out" / "manifest" / f"{of}.parquet").to_pylist()
    return found
