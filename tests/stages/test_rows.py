"""Rows of pictures are made many at a time, and tell of each what it would be told of alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from openus.catalogue import Catalogue
from openus.decode.frame import Pixels
from openus.manifest import QualityLimits
from openus.stages import chunks, rows
from openus.stages.build import BuildOptions, build
from tests.helpers import stills, toys


def test_together_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Still pictures, clips, and pictures with masks."""
    catalogue = Catalogue(toys.write_manifests(tmp_path / "manifests"))
    options = BuildOptions(
        tmp_path / "cache", local=toys.write_inputs(tmp_path / "inputs", images=6, clips=2)
    )
    built = []
    for least in (0, 60_000, 1 << 30):  # one at a time, six, all of them
        monkeypatch.setattr(chunks, "AT_ONCE", least)
        result = build(tmp_path / str(least), catalogue.corpus("toys"), catalogue, options)
        built.append(toys.digests(result.out))
    assert built[0] == built[1] == built[2]


def test_a_defect_costs_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(7):
        cv2.imwrite(str(data / f"{number}.png"), toys.speckle(number, 90 + number, 120))

    def fragile(pixels: Pixels, limits: QualityLimits) -> list[str]:
        if pixels.shape[0] == 93:
            raise ZeroDivisionError("a mistake of ours")
        return ["blurred"]

    monkeypatch.setattr(rows, "quality_flags", fragile)
    catalogue = Catalogue(
        stills.write_manifests(tmp_path / "manifests", "clean: {level: none, size: native}")
    )
    options = BuildOptions(tmp_path / "cache", local={"stills": data})
    build(tmp_path / "out", catalogue.corpus("stills"), catalogue, options)
    kept = stills.rows(tmp_path)
    assert [row["member"] for row in sorted(kept, key=lambda row: row["member"])] == [
        "0.png", "1.png", "2.png", "4.png", "5.png", "6.png"
    ]  # fmt: skip
    assert {row["flags"] for row in kept} == {"blurred"} and all(row["blurred"] for row in kept)
    (refused,) = stills.rows(tmp_path, "rejected")
    assert (refused["member"], refused["index"], refused["reason"]) == ("3.png", 0, "defect")
    assert refused["detail"] == "unexpected ZeroDivisionError: a mistake of ours"
