"""A built, verified and audited corpus whose sources have every kind of licence, for tests of publishing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.helpers import toys

CORPUS = """
schema: 1
name: licensed
title: A corpus of every licence
seed: 3
sources: [open-set, nc-set, nd-set, closed-set, own-terms, bench-set]
held_out: {bench-set: bench}
clean: {size: 64}
dedup: {exact: true}
pack: {shard_bytes: 65536, pretrain: {format: png}, held_out: {format: png}}
"""
_SOURCE = """
schema: 1
slug: {slug}
name: {slug}
title: Toy {slug}
anatomy: {anatomy}
kind: image
homepage: https://example.org/{slug}
licence: {{name: {licence}, redistribution: {level}, url: "https://example.org/{slug}/terms"}}
citation: {{title: "A paper about {slug} & 100 % of it", doi: 10.1000/{slug}, year: 2020}}
routes: [{{host: manual, access: request, url: "https://example.org/{slug}", steps: ["Ask for {slug}"]}}]
images: ["*.png"]
"""
SOURCES = {
    "open-set": ("CC-BY-4.0", "pixels", "liver"),
    "nc-set": ("CC-BY-NC-4.0", "pixels", "breast"),
    "nd-set": ("CC-BY-NC-ND-4.0", "verbatim-only", "heart"),
    "closed-set": ("unknown", "recipe-only", "thyroid"),
    "own-terms": ("a licence of our own", "pixels", "kidney"),
    "bench-set": ("CC-BY-4.0", "pixels", "breast"),
}
MASKS = """exclude: ["masks/*.png"]
masks: {match: '(?P<n>b\\w+)\\.png', path: 'masks/{n}.png', threshold: 127}
"""


def write_manifests(folder: Path) -> Path:
    """The manifests; returns the folder for `--manifests`."""
    (folder / "sources").mkdir(parents=True)
    (folder / "corpora").mkdir()
    (folder / "corpora" / "licensed.yaml").write_text(CORPUS)
    for slug, (licence, level, anatomy) in SOURCES.items():
        text = _SOURCE.format(slug=slug, licence=licence, level=level, anatomy=anatomy)
        (folder / "sources" / f"{slug}.yaml").write_text(text + (MASKS if slug == "bench-set" else ""))
    return folder


def write_inputs(folder: Path, count: int = 12) -> dict[str, Path]:
    """`count` pictures of each source; those of nd-set are small and grey, half of them large: slug to folder."""
    for number, slug in enumerate(SOURCES):
        (folder / slug).mkdir(parents=True)
        for i in range(count):
            small = slug == "nd-set" and i % 2 == 0  # a picture that no step changes keeps its bytes
            pixels = toys.speckle(100 * number + i, *((60, 64) if small else (96, 120)))
            name = f"{'b' if slug == 'bench-set' else slug[0]}{i:02d}.png"
            cv2.imwrite(str(folder / slug / name), pixels)
            if slug == "bench-set":
                (folder / slug / "masks").mkdir(exist_ok=True)
                mask = np.zeros((96, 120), np.uint8)
                cv2.circle(mask, (60, 48), 10 + i, 255, -1)
                cv2.imwrite(str(folder / slug / "masks" / name), mask)
    # A copy of an open picture in the closed set: the decision about it must travel with the recipe.
    cv2.imwrite(str(folder / "closed-set" / "copy.png"), toys.speckle(3))
    return {slug: folder / slug for slug in SOURCES}


def openus(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return toys.run([sys.executable, "-m", "openus.cli", *map(str, words)], **environment)
