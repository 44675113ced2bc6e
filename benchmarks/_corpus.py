"""Pictures to measure with: real ultrasound where it lies beside the checkout, else simulated speckle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from openus.dedup.hashes import phash, pixel_sha256
from openus.shards.schema import QUALITY, SCHEMA_VERSION
from openus.shards.writer import cut, sample_footprint, write_shard

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "bus-bra" / "BUSBRA" / "Images"


SOURCE = """
schema: 1
slug: bench
name: bench
title: Pictures to measure with
anatomy: breast
kind: image
licence: {name: CC0-1.0, redistribution: pixels}
routes: [{host: manual, access: request, url: "https://example.org/bench", steps: ["none"]}]
images: ["*.jpg"]
"""
"""The manifest of pictures that a benchmark builds a corpus of."""


def pictures(count: int, side: int) -> Iterator[np.ndarray]:
    """`count` grey pictures uint8 [H, W] of short side `side`; real ones are turned about when they run out."""
    files = sorted(REAL.glob("*.png"))
    rng = np.random.default_rng(0)
    for number in range(count):
        if files:
            grey = cv2.imread(str(files[number % len(files)]), cv2.IMREAD_GRAYSCALE)
            grey = grey if number < len(files) else np.ascontiguousarray(grey[:, ::-1])
        else:
            shape = (int(420 * rng.uniform(0.9, 1.1)), int(520 * rng.uniform(0.9, 1.1)))
            speckle = cv2.GaussianBlur(rng.rayleigh(1.0, shape).astype(np.float32), (0, 0), 1.6)
            grey = np.clip(110 + 80 * np.log10(speckle + 1e-3), 0, 255).astype(np.uint8)
        scale = side / min(grey.shape)
        size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        yield cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def make(folder: Path, count: int, side: int = 256, quality: int = 95, shard_bytes: int = 16 << 20) -> str:
    """Write a corpus as `openus build` lays it out (JPEG of quality 95, short side 256); returns what is in it."""
    samples, areas = [], []
    for number, grey in enumerate(pictures(count, side)):
        data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        areas.append(grey.size)
        key, (height, width) = f"picture-{number:06d}", grey.shape
        row = {
            "key": key, "set": "pretrain", "source": "bench", "anatomy": "breast", "kind": "image", "member": key,
            "index": 0, "clip": "", "patient": "", "labels": {}, "split": "", "width": width, "height": height,
            "source_width": width, "source_height": height, "sha256": hashlib.sha256(data).hexdigest(),
            "pixel_sha256": pixel_sha256(grey), "phash": phash(grey), "cluster": key,
            "sector": [0, 0, width, height], "cleaned_fraction": 0.0, "text_boxes": -1, "flags": "",
            **dict.fromkeys(QUALITY, False), "licence": "CC-BY-4.0", "redistribution": "recipe-only",
        }  # fmt: skip
        samples.append((row, data))
    infos = []
    for number, part in enumerate(cut([sample_footprint(len(data)) for _, data in samples], shard_bytes)):
        stem = f"pretrain-{number:06d}"
        paths = folder / "pretrain" / f"{stem}.tar", folder / "manifest" / f"{stem}.parquet"
        infos.append(asdict(write_shard(*paths, samples[part], "jpg")))
    summary = {"schema": SCHEMA_VERSION, "sets": {"pretrain": {"samples": count, "shards": infos}}}
    (folder / "corpus.json").write_text(json.dumps(summary))
    kind = "real breast ultrasound (BUS-BRA)" if REAL.is_dir() else "simulated speckle"
    size = sum(len(data) for _, data in samples) / count
    return f"{count:,} pictures, {kind}, {np.mean(areas) / 1e3:.0f} kpixel, {size / 1e3:.1f} kB JPEG each"
