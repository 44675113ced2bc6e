"""What a build costs, next to the least that any build could cost, and next to img2dataset.

python benchmarks/build.py [--files N] [--repeats N] [--img2dataset PROGRAM]

- ceiling: read, decode to grey, resize and encode the same JPEG files, nothing else, by the fastest path found:
  libjpeg-turbo and FFmpeg's scaler (`openus.clean.area`);
- library ceiling: the same with OpenCV's shrinking;
- none: `openus.stages.build` of them with `--clean none`: hashes, rows, tars, manifests and the report included;
- sector: the same with `--clean sector`;
- img2dataset: its resizing to webdataset of the same files over file://, one process and one thread. Its
  dependencies contradict ours, so it wants an environment of its own:
      python -m venv /tmp/peer && /tmp/peer/bin/pip install img2dataset
      python benchmarks/build.py --img2dataset /tmp/peer/bin/img2dataset
- covid-blues: whole builds of a few of its clips with `--clean none` and `--clean full`, where they lie beside the
  checkout.

Files are real ultrasound where it lies beside the checkout, else simulated, stored as JPEG of 958 x 534: once with one
channel, once with three equal ones, as exports of scanners mostly are. The ceilings decode both to grey at once, as a
build does where it does not clean. Ratios are of CPU time, which other work on the machine disturbs
less than time by the clock; img2dataset's is without its start. Removing what was written is nobody's work, and not
timed. The scaling of two workers is what their CPU time gives on two free cores: the part of the build that one process
does, and half of what the workers do; time by the clock is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Worker processes read this file, too: what is heavy is imported where it is needed.
if TYPE_CHECKING:
    from openus.catalogue import Catalogue
    from openus.decode.frame import Pixels
    from openus.manifest import Encoding

GOALS = {
    "none_of_ceiling_grey": 0.7, "none_of_ceiling_colour": 0.7, "sector_of_ceiling": 0.5,
    "none_of_img2dataset_grey": 1.5, "none_of_img2dataset_colour": 1.5,
    "two_workers": 1.8, "covid_full_time_of_none_most": 3.0,
}  # fmt: skip
SHARED = Path(__file__).resolve().parents[2] / "shared"
CORPUS = """
schema: 1
name: NAME
seed: 1
sources: [SLUG]
clean: {level: LEVEL, size: 256}
dedup: {exact: false}
"""
Seconds = tuple[float, float, float]
"""Of the CPU in this process, of the CPU in its children, by the clock."""


def timed(folder: Path, work: Callable[[], object]) -> Seconds:
    """What `work` takes, which writes into `folder`/out."""

    def now() -> Seconds:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time(), children.ru_utime + children.ru_stime, time.perf_counter()

    began = now()
    work()
    own, children, clock = (after - before for before, after in zip(began, now(), strict=True))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return own, children, clock


def prepare(folder: Path, count: int) -> dict[str, list[Path]]:
    """`count` JPEG files of one channel, as many of three equal ones, and a few of the former to warm up with."""
    import cv2

    from benchmarks._corpus import pictures

    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    for name in ("grey", "colour", "warm"):
        (folder / name).mkdir()
    for number, grey in enumerate(pictures(count, 534)):
        wide = cv2.resize(grey, (958, 534), interpolation=cv2.INTER_AREA)
        for name, pixels in (("grey", wide), ("colour", cv2.cvtColor(wide, cv2.COLOR_GRAY2BGR))):
            cv2.imwrite(str(folder / name / f"p{number:05d}.jpg"), pixels, quality)
    for path in list((folder / "grey").glob("*.jpg"))[:8]:
        (folder / "warm" / path.name).hardlink_to(path)
    return {name: sorted((folder / name).glob("*.jpg")) for name in ("grey", "colour")}


def catalogue_in(folder: Path) -> Catalogue:
    from benchmarks._corpus import SOURCE
    from openus.catalogue import Catalogue, manifests_root

    for kind in ("sources", "corpora"):
        (folder / "manifests" / kind).mkdir(parents=True)
    (folder / "manifests" / "sources" / "bench.yaml").write_text(SOURCE)
    shutil.copy(manifests_root() / "sources" / "05-covid-blues.yaml", folder / "manifests" / "sources")
    for slug in ("bench", "covid-blues"):
        for level in ("none", "sector", "full"):
            text = CORPUS.replace("NAME", f"{slug}-{level}").replace("LEVEL", level).replace("SLUG", slug)
            (folder / "manifests" / "corpora" / f"{slug}-{level}.yaml").write_text(text)
    return Catalogue(folder / "manifests")


def ceiling(files: list[Path], encoding: Encoding, shrink: Callable[[Pixels, int, int], Any]) -> None:
    import simplejpeg

    from openus.shards.codecs import encode

    for path in files:
        grey = simplejpeg.decode_jpeg(path.read_bytes(), colorspace="GRAY")[:, :, 0]
        height, width = grey.shape
        encode(shrink(grey, round(width * 256 / height), 256), encoding)


def opencv(pixels: Pixels, width: int, height: int) -> Any:
    import cv2

    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def ours(folder: Path, catalogue: Catalogue, slug: str, level: str, data: Path, workers: int = 0) -> None:
    from openus.stages.build import BuildOptions, build

    options = BuildOptions(folder / "cache", local={slug: data}, workers=workers)
    result = build(folder / "out", catalogue.corpus(f"{slug}-{level}"), catalogue, options)
    frames = result.summary["sources"][slug]["frames"]
    assert frames["decoded"] and frames["kept"] + frames["rejected"] == frames["decoded"]


def img2dataset(program: str, folder: Path, files: list[Path]) -> None:
    out = folder / "out"
    out.mkdir()
    (out / "urls.txt").write_text("\n".join(path.as_uri() for path in files))
    words = [
        "--input_format=txt", f"--url_list={out}/urls.txt", f"--output_folder={out}/out", "--output_format=webdataset",
        "--image_size=256", "--resize_mode=keep_ratio", "--resize_only_if_bigger=True", "--encode_quality=95",
        "--processes_count=1", "--thread_count=1", "--enable_wandb=False",
    ]  # fmt: skip
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True)
    said = [json.loads(path.read_text()) for path in out.glob("out/*_stats.json")]
    if done.returncode or sum(entry["successes"] for entry in said) != len(files):
        raise SystemExit(f"img2dataset failed: {done.stderr[-2000:]}")


def clips(folder: Path, count: int) -> Path | None:
    """A few clips of covid-blues unpacked with their tables, or None where it is not at hand."""
    archives = [path for path in (SHARED / "mirror").rglob("*.zip") if "COVID-BLUES" in str(path)]
    if not archives:
        return None
    with zipfile.ZipFile(archives[0]) as archive:
        videos = sorted(name for name in archive.namelist() if name.endswith(".mp4"))
        wanted = set(videos[:: max(1, len(videos) // count)][:count])
        tables = {name for name in archive.namelist() if name.endswith((".csv", ".json", ".xlsx"))}
        archive.extractall(folder / "clips", members=wanted | tables)
    return folder / "clips"


def measure(
    folder: Path, catalogue: Catalogue, files: dict[str, list[Path]], repeats: int
) -> dict[str, Seconds]:
    """The run with the least CPU time of each, taken in turn."""
    encoding = catalogue.corpus("bench-none").pack.pretrain

    def building(slug: str, level: str, data: Path, workers: int = 0) -> Callable[[], object]:
        return lambda: ours(folder, catalogue, slug, level, data, workers)

    from openus.clean.area import shrink

    works: dict[str, Callable[[], object]] = {}
    for kind in ("grey", "colour"):
        works[f"{kind}: ceiling"] = lambda kind=kind: ceiling(files[kind], encoding, shrink)  # type: ignore[misc]
        works[f"{kind}: library ceiling"] = lambda kind=kind: ceiling(  # type: ignore[misc]
            files[kind], encoding, opencv
        )
        works[f"{kind}: none"] = building("bench", "none", folder / kind)
    works["grey: sector"] = building("bench", "sector", folder / "grey")
    covid = clips(folder, 8)
    if covid is not None:
        works["covid-blues: none"] = building("covid-blues", "none", covid)
        works["covid-blues: full"] = building("covid-blues", "full", covid)
    for workers, name in ((1, "one worker"), (2, "two workers")):
        works[name] = building("bench", "none", folder / "grey", workers)
    timed(folder, building("bench", "none", folder / "warm"))  # libraries are loaded before anything is timed
    found: dict[str, list[Seconds]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(timed(folder, work))
    return {name: min(times, key=lambda seconds: seconds[0] + seconds[1]) for name, times in found.items()}


def peer(program: str | None, folder: Path, files: dict[str, list[Path]]) -> dict[str, Seconds]:
    if program is None or shutil.which(program) is None:
        print(
            "img2dataset is left out: give --img2dataset PROGRAM; how to get it stands at the top of this file\n"
        )
        return {}
    starts = [timed(folder, lambda: img2dataset(program, folder, files["grey"][:4])) for _ in range(3)]
    start = min(starts, key=lambda seconds: seconds[1])  # the first one reads its libraries from the disk
    found = {}
    for kind in ("grey", "colour"):
        whole = timed(folder, lambda kind=kind: img2dataset(program, folder, files[kind]))  # type: ignore[misc]
        own, children, clock = (a - b for a, b in zip(whole, start, strict=True))
        found[f"{kind}: img2dataset"] = (own, children, clock)
    return found


def compare(cpu: dict[str, float]) -> dict[str, float]:
    """How many times the CPU time of a build others take, by kind of file."""
    ratios = {
        f"none_of_{other.replace(' ', '_')}_{kind}": cpu[f"{kind}: {other}"] / cpu[f"{kind}: none"]
        for other in ("ceiling", "library ceiling", "img2dataset")
        for kind in ("grey", "colour")
        if f"{kind}: {other}" in cpu
    }
    for other in ("ceiling", "library ceiling"):
        ratios[f"sector_of_{other.replace(' ', '_')}"] = cpu[f"grey: {other}"] / cpu["grey: sector"]
    return ratios


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--files", type=int, default=4096)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--img2dataset", default=shutil.which("img2dataset"))
    given = options.parse_args()
    import cv2
    from rich.console import Console
    from rich.table import Table

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = prepare(folder, given.files)
        catalogue = catalogue_in(folder)
        found = measure(folder, catalogue, files, given.repeats) | peer(given.img2dataset, folder, files)
    cpu = {name: own + children for name, (own, children, _) in found.items()}
    ratios = compare(cpu)
    (own1, work1, clock1), (own2, work2, clock2) = found["one worker"], found["two workers"]
    ratios["two_workers"] = (own1 + work1) / (own2 + work2 / 2)
    ratios["two_workers_by_the_clock"] = clock1 / clock2
    if "covid-blues: full" in cpu:
        ratios["covid_full_time_of_none_most"] = cpu["covid-blues: full"] / cpu["covid-blues: none"]
    ratios = {name: round(value, 3) for name, value in ratios.items()}
    table = Table("", "CPU, s", "files/s of CPU", "by the clock, s", box=None)
    for name, (own, children, clock) in sorted(found.items()):
        count = given.files / (own + children)
        shown = "" if "covid" in name else f"{count:,.0f}"
        table.add_row(name, f"{own + children:.2f}", shown, f"{clock:.2f}")
    Console().print(table)
    print(f"{given.files:,} files of each kind; load of the machine at the end: {os.getloadavg()[0]:.1f}")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    holds = all(
        value <= GOALS[name] if name.endswith("_most") else value >= GOALS[name]
        for name, value in ratios.items()
        if name in GOALS
    )
    print(json.dumps({"name": "build", "machine": machine, "ratios": ratios, "goals": GOALS, "holds": holds}))


if __name__ == "__main__":
    main()
