"""Masks of held-out sets are cut as their pictures are, whatever size they come in."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from tests.helpers import toys
from tests.helpers.scanner import screen

SOURCE = """
schema: 1
slug: screens
name: SCREENS
title: Simulated screens
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
images: ["images/*.png"]
exclude: ["masks/*.png"]
masks: {match: 'images/(?P<n>[^/]+)\\.png$', path: "masks/{n}.png", threshold: 127}
"""
CORPUS = """
schema: 1
name: screens
sources: [screens]
held_out: {screens: bench}
clean: {level: sector, size: native}
"""


def test_masks_follow_the_crop(tmp_path: Path) -> None:
    for folder, text in (("sources", SOURCE), ("corpora", CORPUS)):
        (tmp_path / "manifests" / folder).mkdir(parents=True)
        (tmp_path / "manifests" / folder / "screens.yaml").write_text(text)
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "masks").mkdir()
    truth = {}
    for number, name in enumerate(("same", "half")):
        shown = screen("linear", number, text=False, calipers=False)
        rows, columns = np.flatnonzero(shown.sector.any(axis=1)), np.flatnonzero(shown.sector.any(axis=0))
        mask = np.zeros(shown.bare.shape, np.uint8)
        mask[rows[0] + 40 : rows[0] + 120, columns[0] + 60 : columns[0] + 160] = 255
        truth[f"images/{name}.png"] = mask
        stored = (
            mask
            if name == "same"
            else cv2.resize(mask, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
        )
        cv2.imwrite(str(data / "images" / f"{name}.png"), shown.pixels)
        cv2.imwrite(str(data / "masks" / f"{name}.png"), stored)
    out = tmp_path / "out"
    done = toys.run(
        [sys.executable, "-m", "openus.cli", "build", str(out), "--corpus", "screens", "--workers", "0", "--quiet",
         "--manifests", str(tmp_path / "manifests"), "--local", f"screens={data}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tar = (out / "bench-mask" / "bench-mask-000000.tar").read_bytes()
    rows_found = pq.read_table(out / "manifest" / "bench-mask-000000.parquet").to_pylist()
    assert len(rows_found) == 2
    for row in rows_found:
        x, y, w, h = row["sector"]
        assert w < row["source_width"] and h < row["source_height"]
        piece = np.frombuffer(tar[row["offset"] : row["offset"] + row["size"]], np.uint8)
        stored = cv2.imdecode(piece, cv2.IMREAD_GRAYSCALE) > 0
        wanted = truth[row["member"]][y : y + h, x : x + w] > 0
        assert stored.shape == wanted.shape
        overlap = (stored & wanted).sum() / (stored | wanted).sum()
        # A mask of half the size is right to a pixel at each edge of the structure, 100 by 80 pixels here.
        assert overlap == 1.0 if row["member"] == "images/same.png" else overlap >= 0.94
