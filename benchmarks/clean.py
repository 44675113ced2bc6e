"""What cleaning finds, what it leaves, what it harms, and what it costs.

    python benchmarks/clean.py [--phantoms 6] [--clips 12] [--images 60] [--shared ../shared]

Phantoms of every geometry stand on the screen of a scanner, with text, rulers and calipers planted, so that each
pixel's truth is known. The costs are CPU time of this process on real files (left out where they are absent):
decode, clean, resize, encode of whole clips for each level, beside the bare decode, resize and encode.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from openus.archives import Tree  # noqa: E402
from openus.clean import Cleaned, clean_frame, clean_frames, resize_short_side, to_grey  # noqa: E402
from openus.clean.quality import quality_flags  # noqa: E402
from openus.clean.sector import find_sector  # noqa: E402
from openus.decode import open_media  # noqa: E402
from openus.demo.phantom import PROBES  # noqa: E402
from openus.manifest import LEVELS, CleanLevel, CleanSettings, Encoding  # noqa: E402
from openus.shards.codecs import encode  # noqa: E402
from tests.helpers.scanner import Screen, screen  # noqa: E402

GOALS = {
    "sector_iou_mean": 0.97, "text_outside_gone": 0.99, "text_inside_gone": 0.95, "tissue_altered_most": 0.005,
    "sector_speed_of_ceiling_clips": 0.5, "sector_speed_of_ceiling_images": 0.5, "full_time_of_none_most": 3.0,
}  # fmt: skip
SEED = 11


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--phantoms", type=int, default=6, help="of each geometry")
    options.add_argument("--clips", type=int, default=12)
    options.add_argument("--images", type=int, default=60)
    options.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    chosen = options.parse_args()
    cv2.setNumThreads(1)
    ratios = phantoms(chosen.phantoms)
    ratios |= speed(chosen.shared, chosen.clips, chosen.images)
    holds = all(
        value <= GOALS[name] if name.endswith("_most") else value >= GOALS[name]
        for name, value in ratios.items()
        if name in GOALS
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"name": "clean", "machine": machine, "ratios": ratios, "goals": GOALS, "holds": holds}))


def phantoms(count: int) -> dict[str, float]:
    """Shares of planted pixels that went and of tissue that changed, means over all screens."""
    settings = CleanSettings(level="full", size="native")
    table: dict[str, list[list[float]]] = {}
    for kind in PROBES:
        for number in range(count):
            for colour in (False, True):
                shown = screen(kind, number, seed=SEED, colour=colour)
                table.setdefault(kind, []).append(_measure(shown, settings))
    print(f"{'phantoms':<12}{'IoU':>8}{'outside':>9}{'inside':>8}{'calipers':>10}{'altered':>9}")
    for kind, rows in table.items():
        iou, outside, inside, marks, altered = np.nanmean(rows, axis=0)
        print(f"{kind:<12}{iou:>8.4f}{outside:>9.4f}{inside:>8.4f}{marks:>10.4f}{altered:>9.4f}")
    means = np.nanmean([row for rows in table.values() for row in rows], axis=0)
    names = (
        "sector_iou_mean",
        "text_outside_gone",
        "text_inside_gone",
        "calipers_gone",
        "tissue_altered_most",
    )
    return {name: round(float(value), 5) for name, value in zip(names, means, strict=True)}


def _measure(shown: Screen, settings: CleanSettings) -> list[float]:
    grey = to_grey(shown.pixels)
    found = find_sector(grey)
    x, y, w, h = found.box
    covered = np.zeros(shown.sector.shape, bool)
    covered[y : y + h, x : x + w] = found.mask() > 0
    iou = float((covered & shown.sector).sum() / (covered | shown.sector).sum())
    result = clean_frame(shown.pixels, settings)
    after = np.zeros_like(shown.bare)
    if isinstance(result, Cleaned):
        x, y, w, h = result.sector
        after[y : y + h, x : x + w] = result.pixels
    planted = cv2.dilate((shown.inside | shown.marks).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    changed = (after != shown.bare)[shown.sector & ~planted]
    return [
        iou,
        float((after[shown.outside] == 0).mean()),
        _gone(shown, after, shown.inside),
        _gone(shown, after, shown.marks),
        float(changed.mean()),
    ]


def _gone(shown: Screen, after: np.ndarray, where: np.ndarray) -> float:
    """Share of planted pixels nearer to the tissue's median round them than to the ink; nan for none planted."""
    if not where.any():
        return float("nan")
    tissue = cv2.medianBlur(shown.bare, 15).astype(int)
    ink = shown.pixels.max(axis=2) if shown.pixels.ndim == 3 else shown.pixels
    return float((np.abs(after - tissue) <= np.maximum(0.5 * np.abs(ink - tissue), 20))[where].mean())


def speed(shared: Path, clips: int, images: int) -> dict[str, float]:
    """CPU time of each level and of the bare work, in turns over the same files; ratios of the sums."""
    lung = [path for path in (shared / "mirror").rglob("*.zip") if "COVID-BLUES" in str(path)]
    breast = shared / "data" / "bus-bra"
    found: dict[str, float] = {}
    if lung:
        times = _times(Tree(lung), "/lus_videos/", ".mp4", clips, ("none", "sector", "full"))
        found["sector_speed_of_ceiling_clips"] = times["bare"] / times["sector"]
        found["full_time_of_none_most"] = times["full"] / times["none"]
    if breast.is_dir():
        times = _times(Tree([breast]), "/Images/", ".png", images, ("none", "sector"))
        found["sector_speed_of_ceiling_images"] = times["bare"] / times["sector"]
    if len(found) < 3:
        print("real files are missing below", shared, "- their speeds are left out")
    return {name: round(value, 3) for name, value in found.items()}


def _times(
    tree: Tree, folder: str, suffix: str, count: int, levels: tuple[CleanLevel, ...]
) -> dict[str, float]:
    paths = [e.path for e in tree.entries() if folder in f"/{e.path}" and e.path.endswith(suffix)]
    paths = [paths[i] for i in np.random.default_rng(SEED).permutation(len(paths))[:count]]
    ways: dict[str, Callable[[str], int]] = {"bare": lambda path: _bare(tree, path)}
    for level in levels:
        settings = CleanSettings(level=level)
        ways[level] = lambda path, settings=settings: _cleaned(tree, path, settings)  # type: ignore[misc]
    for way in ways.values():  # the detector is loaded, the files are in the system's cache
        way(paths[0])
    spent: dict[str, list[float]] = {name: [] for name in ways}
    frames = 0
    for path in paths:
        for name, way in ways.items():
            started = time.process_time()
            done = way(path)
            spent[name].append(time.process_time() - started)
        frames += done
    total = {name: sum(values) for name, values in spent.items()}
    print(f"\n{len(paths)} files *{suffix}, {frames} pictures      ms/picture   of bare   median file, s")
    for name, seconds in total.items():
        middle = statistics.median(spent[name])
        print(f"  {name:<32}{1e3 * seconds / frames:>12.2f}{total['bare'] / seconds:>10.2f}{middle:>17.3f}")
    return total


def _bare(tree: Tree, path: str) -> int:
    with tree.open(path) as file:
        return sum(
            1
            for frame in open_media(file, path).frames()
            if encode(resize_short_side(to_grey(frame.pixels), 256), Encoding())
        )


def _cleaned(tree: Tree, path: str, settings: CleanSettings) -> int:
    assert settings.level in LEVELS
    with tree.open(path) as file:
        media = open_media(file, path)
        return sum(1 for _ in _stored(clean_frames(media.frames(), settings, media.meta), settings))


def _stored(
    outcomes: Iterator[tuple[object, object]], settings: CleanSettings
) -> Iterator[tuple[bytes, list[str]] | None]:
    """What is stored of each frame: its bytes and the flags of its quality."""
    for _, outcome in outcomes:
        if isinstance(outcome, Cleaned):
            yield encode(outcome.pixels, Encoding()), quality_flags(outcome.pixels, settings.quality)
        else:
            yield None


if __name__ == "__main__":
    main()
