"""What all scripts that write a file of the documentation do: write it, or say whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent


def write_or_check(file: Path, make: Callable[[], str]) -> int:
    """Write what `make` gives into `file`; with ``--check`` only compare. Returns the exit status of the script."""
    arguments, script = sys.argv[1:], Path(sys.argv[0]).name
    if set(arguments) - {"--check"}:
        print(f"usage: python docs/{script} [--check]", file=sys.stderr)
        return 2
    text = make()
    if "--check" not in arguments:
        file.write_text(text, encoding="utf-8")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{file.relative_to(DOCS)} is not current; run: python docs/{script}", file=sys.stderr)
    return 1
