"""Fixtures of the source tests: the miniatures, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.miniature import MINIATURES, Expectation, Mini, load_trees

load_trees()

Make = Callable[[str], tuple[Path, Expectation]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes the miniature of a slug once, and gives its folder and what is expected of it."""
    root = tmp_path_factory.mktemp("miniatures")
    done: dict[str, tuple[Path, Expectation]] = {}

    def make(slug: str) -> tuple[Path, Expectation]:
        if slug not in done:
            done[slug] = root / slug, MINIATURES[slug](Mini(root / slug, slug))
        return done[slug]

    return make
