"""Coverage-guided fuzzing of what reads untrusted bytes (pip install 'openus[fuzz]').

    python -m tests.fuzz decode -max_total_time=120
    python -m tests.fuzz archives -max_total_time=120
    python -m tests.fuzz rows -max_total_time=120

What follows the target's name goes to libFuzzer. Inputs that find something are written to the folder of
``-artifact_prefix``; what was mended stays as a test of the room it was found in.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main(words: list[str]) -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing needs the package 'atheris'; install it with: pip install 'openus[fuzz]'")
    name, *options = words or ["decode"]
    with atheris.instrument_imports(
        include=["openus", "pydicom", "nibabel", "tarfile", "zipfile", "rarfile", "py7zr"]
    ):
        import openus.archives
        import openus.decode  # noqa: F401 (instrumented by being imported here)
        from tests.fuzz import targets
    target = targets.TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="openus-fuzz-") as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for number, data in enumerate(targets.SEEDS[name](Path(folder))):
            (seeds / f"{number:03}").write_bytes(data)
        bounds = ["-timeout=30", "-rss_limit_mb=3072", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *bounds, *options, str(seeds)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
