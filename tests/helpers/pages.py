"""The code blocks of a page of docs/, and running them as its reader would.

A block in ``sh`` holds commands, one in ``console`` commands behind ``$ ``. What cannot be run here carries the title
``not run by the tests: REASON``, which the site prints above the block.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NOT_RUN = "not run by the tests: "


@dataclass(frozen=True)
class Block:
    """One fenced block: `language` is empty where none is named, `line` is that of its fence, from 1."""

    language: str
    title: str
    text: str
    line: int

    @property
    def reason(self) -> str:
        """Why the block is not run; empty if it is."""
        return self.title.removeprefix(NOT_RUN) if self.title.startswith(NOT_RUN) else ""

    @property
    def commands(self) -> list[str]:
        """The commands of a block in sh or console, continued lines joined, comments left out."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            return re.findall(r"^\$ (.+)$", text, re.MULTILINE)
        return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    fence: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None and line.startswith("```"):
            opened = re.fullmatch(r'```(\w*)(?: title="([^"]*)")?', line)
            assert opened, f"{page.name}:{number}: not a fence that the site understands: {line}"
            fence, lines = (number, opened[1], opened[2] or ""), []
        elif fence is not None and line == "```":
            found.append(Block(fence[1], fence[2], "\n".join(lines) + "\n", fence[0]))
            fence = None
        else:
            lines.append(line)
    assert fence is None, f"{page.name}: the block of line {fence[0]} has no end"
    return found


def walk(page: Path, place: Path, small: Mapping[str, str]) -> dict[str, str]:
    """Run every command of a page in the folder `place`; returns what each printed, by the command as it stands there.

    `small` says what is replaced so that it is small, or works without a network. What it names must be in the page.
    """
    text = "\n".join(
        command for block in blocks(page) if block.language in ("sh", "console") and not block.reason
        for command in block.commands
    )  # fmt: skip
    assert [old for old in small if old not in text] == [], f"{page.name} does not say this any more"
    told = {}
    for command in text.splitlines():
        said = command
        for old, new in small.items():
            said = said.replace(old, new)
        done = run(said, place)
        assert done.returncode == 0, f"{page.name}: {said}\n{done.stdout}{done.stderr}"
        told[command] = done.stdout
    return told


def run(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run one line of a shell in `place`, with the commands of this environment first on the path."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OPENUS_CACHE": str(place / "cache"), "COLUMNS": "100"}
    return subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
