"""docs/publishing.md is true: its commands run, in order, on a small corpus; its table of classes is the gate's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openus.publish.gate import CLASSES
from tests.helpers import pages, toys

SOURCE = """
schema: 1
slug: {slug}
name: {slug}
title: Toy pictures
anatomy: liver
kind: image
licence: {{name: {licence}, redistribution: {level}}}
images: ["*.png"]
"""
CORPUS = "schema: 1\nname: toys\nsources: [toy-open, toy-scans]\nclean: {size: 64}\n"


@pytest.fixture(scope="module")
def page(repo: Path) -> Path:
    return repo / "docs" / "publishing.md"


def test_every_command_runs(page: Path, tmp_path: Path) -> None:
    import cv2

    for folder in ("m/sources", "m/corpora", "open", "scans"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "m" / "corpora" / "toys.yaml").write_text(CORPUS)
    for slug, licence, level in (
        ("toy-open", "CC-BY-4.0", "pixels"),
        ("toy-scans", "unknown", "recipe-only"),
    ):
        text = SOURCE.format(slug=slug, licence=licence, level=level)
        (tmp_path / "m" / "sources" / f"{slug}.yaml").write_text(text)
    for number in range(6):
        cv2.imwrite(str(tmp_path / "open" / f"{number}.png"), toys.speckle(number))
        cv2.imwrite(str(tmp_path / "scans" / f"{number}.png"), toys.speckle(100 + number))
    build = "openus build OUT --corpus toys --manifests m --local toy-open=open --local toy-scans=scans"
    built = pages.run(f"{build} --workers 0", tmp_path)
    assert built.returncode == 0, built.stderr
    small = {"--local toy-scans=scans": "--local toy-scans=scans --workers 0"}
    told = pages.walk(page, tmp_path, small)
    commands = list(told)
    assert len(commands) == 6
    assert "hf://ORG/my-corpus-recipe" in told[commands[2]]
    assert "By mail of 3 May" in (tmp_path / "shelf" / "toys-permitted" / "README.md").read_text()
    assert "they are the same" in told[commands[-1]]


def test_classes(page: Path) -> None:
    rows = [
        line.split("|")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    named = set(re.findall(r"`([\w-]+)`", " ".join(rows)))
    assert set(CLASSES) <= named
