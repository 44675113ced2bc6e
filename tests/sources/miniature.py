"""Miniatures: tiny trees that look like the unpacked datasets, written with the libraries of their formats.

A generator draws one with a `Mini` and returns what a build of it must give. Every picture is a seeded
texture of its own, so that no two are duplicates unless the dataset's are, and so that a sample of the
corpus can be compared with the picture it claims to be: a mask, an overlay, a mirrored or a turned slice
kept as an image is found out by its pixels.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 64, 48


@dataclass
class Sample:
    """What a build must make of one image, clip or volume.

    pixels: the kept frames by their index, grey and upright.
    patient: as the source writes it; the build hashes it where the source does not publish it.
    mask: path of the mask inside the tree, "" where there is none or none can be found by rule.
    drawn: the mask where no file holds it and the source's code draws it, else None.
    repeat: True where every frame repeats a sample that is preferred to it, so that deduplication drops it.
    """

    pixels: dict[int, Pixels]
    labels: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    clip: str | None = None
    """None: that of a single image (none), or the file itself for clips and volumes."""
    split: str = ""
    mask: str = ""
    drawn: Pixels | None = None
    repeat: bool = False


@dataclass(frozen=True)
class Archive:
    """How the host packs the tree: `name` holds the files under `inside` (a folder of the tree, "" for all),
    below the folder `prefix` of the archive. `around` wraps it in one more zip of that name; `parts` cuts
    it into a split zip whose last part gets the name given."""

    name: str
    inside: str = ""
    prefix: str = ""
    around: str = ""
    parts: int = 1


@dataclass
class Expectation:
    """The samples by member path (as the corpus names them), and what must never be kept as an image.

    never:   masks, overlays, label pictures, previews: paths inside the tree.
    tables:  path of each table the source cannot do without, to a column it cannot do without ("" where the
             table has none); the tests rename the column, and take the table away.
    archives: how the host packs the tree, for the builds through the local server.
    """

    samples: dict[str, Sample]
    never: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()


Generator = Callable[["Mini"], Expectation]
MINIATURES: dict[str, Generator] = {}


def miniature(slug: str) -> Callable[[Generator], Generator]:
    """Enter a generator into the table that drives the tests."""

    def enter(generator: Generator) -> Generator:
        assert slug not in MINIATURES, f"two miniatures of {slug}"
        MINIATURES[slug] = generator
        return generator

    return enter


def load_trees() -> None:
    """Import every module of generators beside this one, so that `MINIATURES` is complete."""
    for path in sorted(Path(__file__).parent.glob("trees_*.py")):
        importlib.import_module(f"tests.sources.{path.stem}")


def texture(name: str, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """A smooth picture [height, width] that belongs to `name` alone; survives JPEG and H.264."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    coarse = np.random.default_rng(seed).integers(30, 250, (5, 7), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def blob(name: str, value: int = 255, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """A mask [height, width] of 0 and `value`: an ellipse whose place depends on `name`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.3, 0.7, 2) * (height, width)
    inside = ((y - centre[0]) / (height / 4)) ** 2 + ((x - centre[1]) / (width / 5)) ** 2 < 1
    return np.where(inside, np.uint8(value), np.uint8(0))


class Mini:
    """Writes one dataset's files below `root`; the pictures it writes are returned grey and as stored."""

    def __init__(self, root: Path, slug: str) -> None:
        self.root, self.slug = root, slug

    def place(self, path: str) -> Path:
        """Where `path` goes; its folder is made."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def image(
        self, path: str, mode: str = "L", size: tuple[int, int] = (WIDTH, HEIGHT), like: str = ""
    ) -> Pixels:
        """A picture in the format of its suffix; `like` repeats the picture of another path."""
        grey = texture(f"{self.slug}/{like or path}", *size)
        picture = Image.fromarray(grey).convert(mode)
        options: dict[str, Any] = {"quality": 97} if path.lower().endswith((".jpg", ".jpeg")) else {}
        picture.save(self.place(path), **options)
        return grey

    def mask(
        self, path: str, mode: str = "L", colour: tuple[int, int, int] | None = None, empty: bool = False
    ) -> str:
        """A mask picture (`colour` paints it); returns its path."""
        picture = Image.fromarray(blob(f"{self.slug}/{path}") * (not empty))
        if colour is not None:
            black = Image.new("RGB", picture.size)
            picture = Image.composite(Image.new("RGB", picture.size, colour), black, picture)
        picture = picture if mode == "L" else picture.convert(mode)
        options: dict[str, Any] = {"quality": 97} if path.lower().endswith((".jpg", ".jpeg")) else {}
        picture.save(self.place(path), **options)
        return path

    def frames(self, path: str, count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Pixels]:
        """The pictures of a clip, without writing it."""
        return [texture(f"{self.slug}/{path}#{index}", *size) for index in range(count)]

    def clip(
        self, path: str, count: int, size: tuple[int, int] = (WIDTH, HEIGHT), dark: int = 0
    ) -> list[Pixels]:
        """A video: H.264 in .mp4, Motion JPEG in .avi, as its suffix says. The first `dark` frames are black."""
        import av

        frames = self.frames(path, count, size)
        frames[:dark] = [np.zeros_like(frame) for frame in frames[:dark]]
        motion_jpeg = path.endswith(".avi")
        with av.open(str(self.place(path)), "w") as container:
            stream = container.add_stream("mjpeg" if motion_jpeg else "libx264", rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if motion_jpeg else "yuv420p"
            stream.options = {"qscale": "2"} if motion_jpeg else {"crf": "8"}
            for grey in frames:
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.dstack([grey] * 3), format="rgb24"))
                )
            container.mux(stream.encode())
        return frames

    def nifti(self, path: str, stack: NDArray[Any]) -> None:
        """A NIfTI file of a stack [frame, row, column], stored as [column, row, frame] like the field does."""
        import nibabel

        image = nibabel.Nifti1Image(np.ascontiguousarray(stack.T), np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(image, str(self.place(path)))

    def itk(self, path: str, stack: NDArray[Any], compress: bool = False) -> None:
        """A MetaImage or NRRD file of a stack [slice, row, column]."""
        import SimpleITK

        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(stack), str(self.place(path)), useCompression=compress
        )

    def table(
        self, path: str, rows: Sequence[Mapping[str, object]], sep: str = ",", bom: bool = False
    ) -> None:
        """A delimited text table with a header."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), delimiter=sep, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.place(path).write_text(out.getvalue(), encoding="utf-8-sig" if bom else "utf-8")

    def sheet(self, path: str, rows: Sequence[Mapping[str, object]], name: str = "Sheet1") -> None:
        """A spreadsheet with one header row."""
        import openpyxl

        book = openpyxl.Workbook()
        page = book.active
        assert page is not None
        page.title = name
        page.append(list(rows[0]))
        for row in rows:
            page.append(list(row.values()))
        book.save(self.place(path))

    def json(self, path: str, value: object) -> None:
        self.place(path).write_text(json.dumps(value), encoding="utf-8")

    def text(self, path: str, text: str = "see the article\n") -> None:
        self.place(path).write_text(text, encoding="utf-8")

    def bytes(self, path: str, data: bytes) -> None:
        self.place(path).write_bytes(data)


def one(pixels: Pixels) -> dict[int, Pixels]:
    """The frames of a single image."""
    return {0: pixels}


def some(frames: Sequence[Pixels], *indices: int) -> dict[int, Pixels]:
    """The frames of a clip that a policy keeps; all of them if no index is given."""
    return {index: frames[index] for index in indices or range(len(frames))}
