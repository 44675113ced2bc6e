"""A picture that no step changes is stored with the bytes it came with."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers import toys
from tests.helpers.corpus import picture

SOURCE = """
schema: 1
slug: stills
name: STILLS
title: Simulated pictures
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
images: ["*.jpg", "*.png"]
"""
CORPUS = """
schema: 1
name: stills
sources: [stills]
clean: {level: LEVEL, size: native}
pack: {pretrain: {format: FORMAT}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    rng = np.random.default_rng(0)
    for name in ("plain.jpg", "noted.jpg", "colour.jpg", "plain.png"):
        grey = picture(rng, 90, 120, malignant=False)[0]
        image = Image.fromarray(grey).convert("RGB" if name == "colour.jpg" else "L")
        exif = Image.Exif()
        exif[0x010E] = "DOE^JANE"
        options = {"exif": exif} if name == "noted.jpg" else {}
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
        (folder / name).write_bytes(buffer.getvalue())
    return folder


@pytest.mark.parametrize(("form", "level"), [("jpg", "none"), ("jpg", "sector"), ("png", "none")])
def test_unchanged_bytes(tmp_path: Path, data: Path, form: str, level: str) -> None:
    for folder, text in (("sources", SOURCE), ("corpora", CORPUS)):
        (tmp_path / "manifests" / folder).mkdir(parents=True)
        text = text.replace("FORMAT", form).replace("LEVEL", level)
        (tmp_path / "manifests" / folder / "stills.yaml").write_text(text)
    out = tmp_path / "out"
    done = toys.run(
        [sys.executable, "-m", "openus.cli", "build", str(out), "--corpus", "stills", "--workers", "0", "--quiet",
         "--manifests", str(tmp_path / "manifests"), "--local", f"stills={data}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tar = (out / "pretrain" / "pretrain-000000.tar").read_bytes()
    rows = pq.read_table(out / "manifest" / "pretrain-000000.parquet").to_pylist()
    stored = {row["member"]: tar[row["offset"] : row["offset"] + row["size"]] for row in rows}
    assert len(stored) == 4 and b"JANE" not in tar
    same = {name for name, kept in stored.items() if kept == (data / name).read_bytes()}
    assert same == ({"plain.png"} if form == "png" else {"plain.jpg"})
    if form == "jpg":  # its notes stay behind, its coded pixels do not change
        noted = (data / "noted.jpg").read_bytes()
        assert stored["noted.jpg"][-1000:] == noted[-1000:]
    for name, kept in stored.items():
        before = cv2.imread(str(data / name), cv2.IMREAD_GRAYSCALE)
        after = cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.abs(before.astype(int) - after).max() <= (0 if name in same else 12)
