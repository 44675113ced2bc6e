"""docs/add-a-source.md is true: its commands run, in order, on a folder as it describes; its YAML is what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.helpers import pages, toys


def yamls(page: Path) -> list[str]:
    return [block.text for block in pages.blocks(page) if block.language == "yaml"]


@pytest.fixture(scope="module")
def page(repo: Path) -> Path:
    return repo / "docs" / "add-a-source.md"


@pytest.fixture(scope="module")
def walked(page: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder after all commands of the page, and what they printed."""
    place = tmp_path_factory.mktemp("walk")
    rows = ["file,patient,diagnosis"]
    for number in range(12):
        name = f"p{number // 2:02}_{'ab'[number % 2]}.png"
        rows.append(f"{name},{number // 2},{'BM'[number % 4 // 2]}")
        for folder in ("scans", "outlines"):
            (place / "my-thyroid" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / "my-thyroid" / "scans" / name), toys.speckle(number))
        outline = np.zeros((96, 120), np.uint8)
        cv2.circle(outline, (60, 48), 10 + number, 255, -1)
        cv2.imwrite(str(place / "my-thyroid" / "outlines" / name), outline)
    (place / "my-thyroid" / "cases.csv").write_text("\n".join(rows) + "\n")
    (corpus,) = [text for text in yamls(page) if text.startswith("# my-corpus.yaml")]
    (place / "my-corpus.yaml").write_text(corpus)
    return place, list(pages.walk(page, place, {}).values())


def test_every_command_runs(walked: tuple[Path, list[str]]) -> None:
    place, told = walked
    assert len(told) >= 6 and "12 images" in told[0] and "12 of 12 images have one" in told[0]
    summary = json.loads((place / "corpus" / "corpus.json").read_text())
    assert list(summary["sources"]) == ["my-thyroid"] and summary["corpus"]["name"] == "openus-46"
    assert summary["sources"]["my-thyroid"]["frames"]["kept"] == 12


def test_the_47th_has_its_labels_patients_and_masks(walked: tuple[Path, list[str]]) -> None:
    place, _ = walked
    (path,) = (place / "corpus-of-my-own" / "manifest").glob("my-thyroid-0*.parquet")
    rows = pq.read_table(path).to_pylist()
    assert {dict(row["labels"])["diagnosis"] for row in rows} == {"benign", "malignant"}
    assert len({row["patient"] for row in rows}) == 6
    masks = json.loads((place / "corpus-of-my-own" / "corpus.json").read_text())["sets"]["my-thyroid-mask"]
    assert masks["samples"] == 12


def test_the_yaml_of_the_page_is_what_is_proposed(walked: tuple[Path, list[str]], page: Path) -> None:
    place, _ = walked
    shown: dict[str, Any] = yaml.safe_load(yamls(page)[0])
    written = yaml.safe_load((place / "my-sources" / "my-thyroid.yaml.bak").read_text())
    corrected = yaml.safe_load((place / "my-sources" / "my-thyroid.yaml").read_text())
    assert shown == {name: written[name] for name in shown}
    assert corrected["labels"]["diagnosis"]["classes"] == {"B": "benign", "M": "malignant"}
