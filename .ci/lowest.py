"""Print the lowest releases that pyproject.toml allows, one `name==version.*` a line, for the extras that are named.

The last number is left open (`>=4.9` is tried as `4.9.*`): some packages have no release of just that name.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
wanted = list(project["dependencies"])
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
for line in sorted(wanted):
    if not line.startswith("openus["):
        name, lower = re.fullmatch(r"([\w.-]+(?:\[[\w,-]+\])?)>=([\w.]+)(?:,<[\w.]+)?", line).groups()  # type: ignore[union-attr]
        lower += ".0" * (lower.count(".") < 1)
        print(f"{name}=={lower}.*")
