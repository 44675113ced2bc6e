"""The page at the end of the demo: ``python -m openus.demo.page DEMO`` writes DEMO/index.html.

It shows what the commands of docs/demo.sh left in their folders, with the figures they wrote; it computes none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

TILE, GAP, CAPTION, COLUMNS, ROWS = 150, 6, 16, 6, 3


def contact_sheet(corpus: Path, out: Path) -> None:
    """Draw the first samples of the set `pretrain`, which stands in a seeded shuffle, with their sources' names."""
    rows = pq.read_table(corpus / "manifest" / "pretrain-000000.parquet").to_pylist()[: COLUMNS * ROWS]
    sheet = Image.new("L", (COLUMNS * (TILE + GAP) - GAP, ROWS * (TILE + CAPTION + GAP) - GAP), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, row in enumerate(rows):
        left, top = place % COLUMNS * (TILE + GAP), place // COLUMNS * (TILE + CAPTION + GAP)
        with (corpus / "pretrain" / row["shard"]).open("rb") as shard:
            shard.seek(row["offset"])
            picture = Image.open(BytesIO(shard.read(row["size"]))).convert("L")
        picture.thumbnail((TILE, TILE))
        sheet.paste(0, (left, top, left + TILE, top + TILE))
        sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
        draw.text((left, top + TILE + 1), row["source"], fill=70, font=font)
    sheet.save(out)


def curve(points: Sequence[tuple[float, float]]) -> str:
    """An SVG line through (x, y) points, both axes from their smallest to their largest value."""
    if len(points) < 2:
        return ""
    width, height = 560, 180
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    places = " ".join(
        f"{(x - x0) / ((x1 - x0) or 1) * width:.1f},{(y1 - y) / ((y1 - y0) or 1) * height:.1f}"
        for x, y in points
    )
    return (
        f'<svg viewBox="-44 -10 {width + 60} {height + 34}" width="{width + 60}" role="img" aria-label="loss by step">'
        f'<polyline points="{places}" fill="none" stroke="#0b6e99" stroke-width="2"/>'
        f'<g font-size="11" fill="#555"><text x="-6" y="8" text-anchor="end">{y1:.3f}</text>'
        f'<text x="-6" y="{height}" text-anchor="end">{y0:.3f}</text>'
        f'<text x="{width}" y="{height + 18}" text-anchor="end">step {x1:.0f}</text></g></svg>'
    )


def write_page(demo: Path) -> Path:
    """Write the contact sheet and the page of a finished demo; return the page's path."""
    contact_sheet(demo / "corpus", demo / "corpus.png")
    log = [json.loads(line) for line in (demo / "run" / "log.jsonl").read_text().splitlines()]
    facts: dict[str, Any] = {
        "corpus": json.loads((demo / "corpus" / "corpus.json").read_text()),
        "steps": log[-1]["step"],
        "loss": curve([(line["step"], line["loss"]) for line in log if "loss" in line]),
        "result": json.loads((demo / "lesions" / "metrics.json").read_text()),
        "pictures": {
            name: name for name in ("lesions/confusion.png", "lesions/curves.png") if (demo / name).exists()
        },
    }
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    page = demo / "index.html"
    page.write_text(template.render(facts), encoding="utf-8")
    return page


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1])))
