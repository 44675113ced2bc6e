"""Makes the pictures of the README from the demo: ``python docs/make_images.py [DEMO]`` (a folder of `make demo`).

Those of the report come from a corpus of the demo's simulated sources, cleaned, and are taken by Chromium. Only
simulated pictures are shown; no pixels of real datasets are kept in the repository.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from openus.demo.phantom import PROBES, Phantom, draw_patient, view
from openus.demo.tissue import LESIONS

HERE = Path(__file__).resolve().parent / "images"
TILE, GAP, CAPTION = 136, 4, 15


def contact_sheet() -> Image.Image:
    """Two simulated patients a column, seen with each probe, with a cyst and with a solid lesion."""
    columns = [(probe, lesion) for probe in PROBES for lesion in LESIONS]
    rows = (21, 34)
    size = (len(columns) * (TILE + GAP) - GAP, CAPTION + len(rows) * (TILE + GAP) - GAP)
    sheet = Image.new("L", size, 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for column, (probe, lesion) in enumerate(columns):
        left = column * (TILE + GAP)
        draw.text((left + 2, 0), f"simulated {lesion}, {probe}", fill=70, font=font)
        for row, number in enumerate(rows):
            phantom = view(draw_patient(1, number + column // 2, lesion, probe), 0)
            sheet.paste(_square(phantom), (left, CAPTION + row * (TILE + GAP)))
    return sheet


def _square(phantom: Phantom) -> Image.Image:
    picture = Image.fromarray(np.where(phantom.sector, phantom.pixels, 0))
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    square = Image.new("L", (TILE, TILE), 0)
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return square


def reconstruction(demo: Path, count: int = 3) -> Image.Image:
    """What the demo's network paints for the first simulated pictures of its corpus."""
    rows = pq.read_table(demo / "corpus" / "manifest" / "pretrain-000000.parquet", columns=["key", "source"])
    keys = [row["key"] for row in rows.to_pylist() if row["source"] == "simulated-phantoms"][:count]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "reconstruction.png"
        chosen = [part for key in keys for part in ("--key", key)]
        subprocess.run(
            [sys.executable, "-m", "usfmae.cli", "reconstruct", demo / "run", *chosen, "--out", out],
            check=True,
        )
        return Image.open(out).convert("RGB")


def simulated_corpus(out: Path) -> Path:
    """The simulated sources of the demo, cleaned to their sectors; an existing corpus is used again."""
    sources = ["--source", "simulated-phantoms", "--source", "simulated-lesions"]
    subprocess.run(
        [sys.executable, "-m", "openus.cli", "build", out, "--demo", *sources, "--clean", "sector"],
        check=True,
    )
    return out


def report_views(page: Path) -> Iterator[tuple[str, Image.Image]]:
    """The top of a report, and its pictures before and after cleaning, as a browser shows them."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for name, anchor, height in (("report", "", 1010), ("report-cleaning", "cleaning", 860)):
            browser.set_window_size(1240, height)
            browser.get(f"{page.resolve().as_uri()}#{anchor}")
            yield name, Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    finally:
        browser.quit()


def main() -> None:
    """Write docs/images/{phantoms,report,report-cleaning}.png, and reconstruction.png of the folder of a demo."""
    HERE.mkdir(exist_ok=True)
    contact_sheet().quantize(96).save(HERE / "phantoms.png", optimize=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = simulated_corpus(Path(scratch) / "simulated")
        for name, picture in report_views(corpus / "report.html"):
            picture.quantize(256, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)
    for demo in sys.argv[1:]:
        reconstruction(Path(demo)).quantize(192).save(HERE / "reconstruction.png", optimize=True)


if __name__ == "__main__":
    main()
