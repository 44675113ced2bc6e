"""Small corpora for tests that keep the contract of a real one: USTAR shards, Parquet rows, corpus.json.

The pictures are made of blurred Rayleigh noise with a lesion drawn in; they are simulated, and stand in
only where a test needs the layout of a corpus and not real ultrasound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from openus.dedup.hashes import phash, pixel_sha256
from openus.shards.schema import QUALITY, REJECTED, SCHEMA_VERSION
from openus.shards.writer import ShardInfo, write_shard
from openus.storage.files import write_parquet

_SOURCES = {
    "covid-blues": ("lung", "frame"),
    "stu-hospital": ("breast", "image"),
    "fetal-planes": ("fetal", "image"),
}


def picture(
    rng: np.random.Generator, height: int, width: int, malignant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A speckled grey picture uint8 [H,W] with one dark lesion, and its mask uint8 [H,W] (0, 255)."""
    speckle = cv2.GaussianBlur(rng.rayleigh(1.0, (height, width)).astype(np.float32), (0, 0), 1.2)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.full(48, 0.22 * min(height, width))
    if malignant:  # a spiculated outline; the benign one is a smooth ellipse
        radius *= 1 + 0.45 * np.sign(np.sin(8 * angle))
    centre = rng.uniform(0.4, 0.6, 2) * (width, height)
    outline = np.stack([centre[0] + 1.3 * radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 255)
    tissue = np.where(mask > 0, 0.15 if malignant else 0.3, 0.8).astype(np.float32) * speckle
    grey = np.clip(110 + 90 * np.log10(tissue + 1e-3), 0, 255).astype(np.uint8)
    return grey, mask


def encode(grey: np.ndarray, fmt: str) -> bytes:
    """The picture as `jpg` (quality 95), `png` or `webp` (lossless) bytes."""
    options = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
    }
    ok, data = cv2.imencode(f".{fmt}", grey, options[fmt])
    assert ok
    return bytes(data)


def _row(name: str, number: int, data: bytes, grey: np.ndarray, label: str) -> dict[str, Any]:
    pretrain = name == "pretrain"
    slug = list(_SOURCES)[0 if number % 4 < 2 else number % 4 - 1] if pretrain else name
    anatomy, kind = _SOURCES.get(slug, ("breast", "image"))
    height, width = grey.shape
    key = f"{slug}-{number:06d}" if pretrain else f"{name}-{number:06d}"
    clip = f"clip{number // 8:04d}" if kind == "frame" else ""
    return {
        "key": key, "set": name, "source": slug, "anatomy": anatomy, "kind": kind,
        "member": f"{clip or 'images'}/{number:06d}", "index": number if clip else 0, "clip": clip,
        "patient": f"p{number // 2:04d}", "labels": {} if pretrain else {"pathology": label, "birads": "4"},
        "split": "" if pretrain else f"fold{number // 2 % 5 + 1}", "width": width, "height": height,
        "source_width": width, "source_height": height, "sha256": hashlib.sha256(data).hexdigest(),
        "pixel_sha256": pixel_sha256(grey), "phash": phash(grey), "cluster": key, "sector": [0, 0, width, height],
        "cleaned_fraction": 0.0, "text_boxes": -1, "flags": "", **dict.fromkeys(QUALITY, False),
        "licence": "CC-BY-4.0", "redistribution": "pixels",
    }  # fmt: skip


def make_corpus(
    folder: Path,
    sets: Mapping[str, int] | None = None,
    size: int = 64,
    seed: int = 0,
    fmt: str = "jpg",
    shard_samples: int = 16,
) -> Path:
    """Write a corpus of simulated pictures that keeps the contract; the same arguments give the same bytes.

    Args:
        folder: made if absent.
        sets: samples per set; ``{"pretrain": 40, "bus-bra": 30}`` when None. Sets other than `pretrain` carry
            the labels ``pathology`` (benign, malignant), folds of two images per patient, and a mask set.
        size: short side in pixels; pictures are `size` high and up to 1.4 times as wide.
        fmt: `jpg`, `png` or `webp`.
        shard_samples: samples per shard.

    Returns the folder.
    """
    folder = Path(folder)
    sets = dict(sets or {"pretrain": 40, "bus-bra": 30})
    shards: dict[str, list[ShardInfo]] = {}
    for name, count in sets.items():
        rng = np.random.default_rng([seed, *name.encode()])
        samples = []
        for number in range(count):
            malignant = number // 2 % 3 == 0  # a third of the patients
            grey, mask = picture(rng, size, int(size * rng.uniform(1, 1.4)), malignant)
            data = encode(grey, fmt)
            row = _row(name, number, data, grey, "malignant" if malignant else "benign")
            samples.append((row, data, encode(mask, "png")))
        order = rng.permutation(count)
        for number, start in enumerate(range(0, count, shard_samples)):
            part = [samples[i] for i in order[start : start + shard_samples]]
            pictures = [(row, data) for row, data, _ in part]
            shards.setdefault(name, []).append(_write(folder, name, number, pictures, fmt))
            if name != "pretrain":
                masks = [
                    (row | {"set": f"{name}-mask", "sha256": hashlib.sha256(png).hexdigest()}, png)
                    for row, _, png in part
                ]
                shards.setdefault(f"{name}-mask", []).append(
                    _write(folder, f"{name}-mask", number, masks, "png")
                )
        shards.setdefault(name, [])
    rejected = write_parquet(
        folder / "manifest" / "rejected.parquet", pa.Table.from_pylist([], schema=REJECTED)
    )
    parts = {
        name: {"samples": sum(info.samples for info in infos), "shards": [asdict(info) for info in infos]}
        for name, infos in shards.items()
    }
    corpus = {
        "schema": SCHEMA_VERSION, "openus": "test", "corpus": {"name": "test", "seed": seed}, "sources": {},
        "missing": {}, "sets": parts, "rejected": {"rows": 0, "sha256": rejected},
    }  # fmt: skip
    (folder / "corpus.json").write_text(json.dumps(corpus, indent=1))
    return folder


def _write(
    folder: Path, name: str, number: int, samples: list[tuple[dict[str, Any], bytes]], fmt: str
) -> ShardInfo:
    stem = f"{name}-{number:06d}"
    return write_shard(folder / name / f"{stem}.tar", folder / "manifest" / f"{stem}.parquet", samples, fmt)
