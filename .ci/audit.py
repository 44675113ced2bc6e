"""Read pip-audit's answer (JSON) and say what it means: exit code 0 clean, 1 not, 75 where nobody answered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def judged(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The exit code, and what to print. A package that the index does not know was not asked for: it is skipped."""
    asked = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions']) or 'none'}"
        for package in asked
        for bug in package["vulns"]
    ]
    if not asked:
        return 75, ["nobody answered: nothing is known about vulnerabilities"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        lines.append(f"not known there, so not asked for: {', '.join(unknown)}")
    return int(bool(lines)), lines or [f"{len(asked)} packages, no known vulnerability"]


if __name__ == "__main__":
    try:
        answer = json.loads(Path(sys.argv[1]).read_text())["dependencies"]
    except ValueError:  # pip-audit ends without an answer where the network fails
        answer = []
    code, said = judged(answer)
    print("\n".join(said))
    sys.exit(code)
