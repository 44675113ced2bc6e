"""The site: built without a warning, asking the network for nothing; the messages it explains are the program's."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; links and anchors that lead nowhere, and pages that no menu names, are errors."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=repo, capture_output=True, text=True, timeout=300,
        env=os.environ | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.found.append(given.get("href") or "")


def test_pages_load_nothing_from_the_network(site: Path, repo: Path) -> None:
    shown = {path.relative_to(site).with_suffix(".md") for path in site.glob("*.html")} - {Path("404.md")}
    assert shown == {path.relative_to(repo / "docs") for path in (repo / "docs").glob("*.md")}
    for path in site.rglob("*.html"):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        assert loads.found and [address for address in loads.found if "//" in address] == [], path.name
    assert (site / "search" / "search_index.json").stat().st_size > 50_000
    assert not list(site.glob("*.py")) and not list(site.glob("*.sh"))


def test_a_block_that_is_not_run_says_so_on_the_page(site: Path) -> None:
    assert "not run by the tests: it needs SLURM" in (site / "cluster.html").read_text(encoding="utf-8")


def test_links_out_of_docs_become_names(site: Path) -> None:
    text = (site / "add-a-source.html").read_text(encoding="utf-8")
    assert "../CONTRIBUTING" not in text and "CONTRIBUTING.md" in text


def _sentences(repo: Path) -> Iterator[str]:
    """Every text in the code of both packages, what is filled in written as …"""
    for path in sorted(path for package in ("openus", "usfmae") for path in (repo / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_that_are_explained_are_those_of_the_program(repo: Path) -> None:
    rows = re.findall(
        r"^\| (`.+?) \|", (repo / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.M
    )
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 55
    known = "\n".join(_sentences(repo))
    assert [message for message in messages if message not in known] == []
