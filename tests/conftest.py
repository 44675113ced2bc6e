"""Shared fixtures and options of the test suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, however long each takes on a busy machine; HYPOTHESIS_PROFILE=default explores.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# One thread a process, also in the commands that tests start: small tensors gain nothing from more, and threads
# that wait for each other on a busy machine make such tests many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked 'long' too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_long = pytest.mark.skip(reason="long; run with --long")
    skip_real = pytest.mark.skip(reason="the real ultrasound bytes (../shared) are not beside this checkout")
    for item in items:
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(skip_long)
        if "realdata" in item.keywords and not SHARED.is_dir():
            item.add_marker(skip_real)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SHARED.is_dir():
        terminalreporter.write_line("real-bytes tests: ran on the data beside this checkout")
    else:
        terminalreporter.write_line("real-bytes tests: SKIPPED, there is no ../shared beside this checkout")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real ultrasound bytes beside the checkout, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("the real ultrasound bytes (../shared) are not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this checkout."""
    return REPO
