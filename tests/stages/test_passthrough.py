"""A picture that no step changes is stored with the bytes it came with."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers import stills
from tests.helpers.corpus import picture


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
    stills.build(
        tmp_path, data, f"clean: {{level: {level}, size: native}}\npack: {{pretrain: {{format: {form}}}}}"
    )
    tar = (tmp_path / "out" / "pretrain" / "pretrain-000000.tar").read_bytes()
    rows = stills.rows(tmp_path)
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
