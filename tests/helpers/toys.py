"""A toy corpus of three sources with every kind of trouble, for tests of the whole build."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np

CORPUS = """
schema: 1
name: toys
seed: 7
sources: [toy-images, toy-clips, toy-bench]
held_out: {toy-bench: bench}
clean: {size: 64}
pack: {shard_bytes: 150000, pretrain: {format: jpg}, held_out: {format: png}}
"""

_HEAD = """
schema: 1
slug: {slug}
name: {slug}
title: A toy
anatomy: {anatomy}
kind: {kind}
licence: {{name: CC0-1.0, redistribution: pixels}}
routes: [{{host: manual, access: request, url: "https://example.org/{slug}", steps: ["Ask for {slug}"]}}]
"""

IMAGES = _HEAD.format(slug="toy-images", anatomy="liver", kind="image") + 'images: ["pictures/*.*"]\n'
CLIPS = (
    _HEAD.format(slug="toy-clips", anatomy="heart", kind="video")
    + """images: ["*.mp4"]
patient: {path: 'p(?P<value>\\d+)_'}
"""
)
BENCH = (
    _HEAD.format(slug="toy-bench", anatomy="breast", kind="image")
    + """images: ["images/*.png"]
exclude: ["masks/*.png"]
labels:
  kind: {table: table.csv, match: 'images/(?P<key>\\w+)\\.png', key: id, column: kind,
         classes: {benign: benign, malignant: malignant}}
patient: {table: table.csv, match: 'images/(?P<key>\\w+)\\.png', key: id, column: case}
split: {table: table.csv, match: 'images/(?P<key>\\w+)\\.png', key: id, column: fold, prefix: fold}
masks: {match: 'images/(?P<n>\\w+)\\.png', path: 'masks/{n}.png', threshold: 127}
"""
)


def speckle(seed: int, height: int = 96, width: int = 120) -> np.ndarray:
    """A textured picture, uint8 [height, width], different for each seed."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 3)
    return (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)


def write_manifests(folder: Path) -> Path:
    """The manifests of the toy corpus; returns the folder for `--manifests`."""
    for kind, name, text in (
        ("corpora", "toys", CORPUS),
        ("sources", "toy-images", IMAGES),
        ("sources", "toy-clips", CLIPS),
        ("sources", "toy-bench", BENCH),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.yaml").write_text(text)
    return folder


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    """An MP4 of uint8 [H, W] pictures, lossless H.264 so that equal frames stay equal."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"crf": "0", "threads": "1"})
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "rgb24"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([pixels] * 3), "rgb24")))
        container.mux(stream.encode())


def write_inputs(folder: Path, images: int = 24, clips: int = 6) -> dict[str, Path]:
    """The data of the three sources; returns slug to folder.

    toy-images: pictures, one exact repeat, one copy of a benchmark picture (a leak), one black, one broken.
    toy-clips: clips of 12 frames, the first of each black, one frame repeated.
    toy-bench: labelled pictures of 8 cases in 4 folds, with masks.
    """
    pictures, videos, bench = folder / "images" / "pictures", folder / "clips", folder / "bench"
    for place in (pictures, videos, bench / "images", bench / "masks"):
        place.mkdir(parents=True, exist_ok=True)
    for i in range(images):
        cv2.imwrite(str(pictures / f"i{i:03d}.png"), speckle(i))
    cv2.imwrite(str(pictures / "repeat.png"), speckle(0))
    cv2.imwrite(str(pictures / "leaked.png"), speckle(5000))
    cv2.imwrite(str(pictures / "black.png"), np.zeros((96, 120), np.uint8))
    (pictures / "broken.png").write_bytes((pictures / "i001.png").read_bytes()[:2000])
    for i in range(clips):
        frames = [np.zeros((96, 120), np.uint8)] + [speckle(1000 + 20 * i + j) for j in range(11)]
        frames[5] = frames[4]
        write_clip(videos / f"p{i // 2}_{i}.mp4", frames)
    rows = ["id,case,kind,fold"]
    for i in range(16):
        cv2.imwrite(str(bench / "images" / f"b{i:02d}.png"), speckle(5000 + i))
        mask = np.zeros((96, 120), np.uint8)
        cv2.circle(mask, (60, 48), 10 + i, 255, -1)
        cv2.imwrite(str(bench / "masks" / f"b{i:02d}.png"), mask)
        rows.append(f"b{i:02d},{i // 2},{'benign' if i % 4 < 2 else 'malignant'},{i // 4 + 1}")
    (bench / "table.csv").write_text("\n".join(rows) + "\n")
    return {"toy-images": folder / "images", "toy-clips": videos, "toy-bench": bench}


def near_copies_sought(folder: Path, **sizes: int) -> tuple[Path, dict[str, Path]]:
    """Manifests whose corpus looks for near-copies, and the inputs; `sizes` as for `write_inputs`."""
    manifests = write_manifests(folder / "manifests")
    corpus = manifests / "corpora" / "toys.yaml"
    corpus.write_text(corpus.read_text() + "dedup: {near: drop}\n")
    return manifests, write_inputs(folder / "inputs", **sizes)


def command(out: Path, manifests: Path, inputs: dict[str, Path], *more: str) -> list[str]:
    """The command line that builds the toy corpus."""
    local = [part for slug, path in inputs.items() for part in ("--local", f"{slug}={path}")]
    return [
        sys.executable, "-m", "openus.cli", "build", str(out), "--corpus", "toys", "--manifests", str(manifests),
        "--cache", str(out.parent / "cache"), *local, *more,
    ]  # fmt: skip


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output kept."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=600, env=os.environ | {"COLUMNS": "200"} | environment
    )


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a corpus, the work folder left out."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }
