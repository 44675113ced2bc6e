"""Real pictures, one patient apart from the other, and what re-uploads do to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from openus.archives import Tree
from openus.clean import to_grey
from openus.decode import open_media
from openus.demo.phantom import draw_patient, view

SEED = 46
PHANTOMS = 240
Picture = np.ndarray
Change = Callable[[Picture, np.random.Generator], Picture]


@dataclass(frozen=True)
class Original:
    """A picture uint8 [H, W] as its source has it, and whose it is."""

    name: str
    patient: str
    pixels: Picture


def originals(shared: Path, frames: int, seed: int) -> list[Original]:
    """All of BUS-BRA and STU-Hospital, `frames` of one clip of each patient of COVID-BLUES; phantoms without them."""
    found = [*_breast(shared / "data" / "bus-bra"), *_archives(shared / "mirror", frames, seed)]
    return found or [_phantom(number) for number in range(PHANTOMS)]


def _breast(folder: Path) -> Iterator[Original]:
    for path in sorted(folder.rglob("Images/*.png")):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        yield Original(path.name, path.stem.rsplit("-", 1)[0], np.asarray(grey, np.uint8))


def _archives(mirror: Path, frames: int, seed: int) -> Iterator[Original]:
    for archive in sorted(mirror.rglob("*.zip")):
        tree = Tree([archive])
        paths = [entry.path for entry in tree.entries()]
        stills = [path for path in paths if "/Hospital/" in path and path.endswith((".png", ".jpg", ".bmp"))]
        for path in stills:
            if "mask" in path.lower():
                continue
            with tree.open(path) as file:
                frame = next(iter(open_media(file, path).frames()))
            yield Original(path, path, to_grey(frame.pixels))
        clips: dict[str, list[str]] = {}
        for path in paths:
            if path.endswith(".mp4") and "/lus_videos/" in f"/{path}":
                clips.setdefault("_".join(Path(path).stem.split("_")[:2]), []).append(path)
        rng = np.random.default_rng(seed)
        for patient, choices in sorted(clips.items()):
            yield from _clip(tree, choices[rng.integers(len(choices))], patient, frames)


def _clip(tree: Tree, path: str, patient: str, frames: int) -> Iterator[Original]:
    with tree.open(path) as file:
        pictures = [to_grey(frame.pixels) for frame in open_media(file, path).frames()]
    lit = [place for place, grey in enumerate(pictures) if grey.mean() > 5]
    for place in lit[:: max(1, len(lit) // frames)][:frames]:
        yield Original(f"{path}#{place}", patient, pictures[place])


def _phantom(number: int) -> Original:
    shown = view(draw_patient(SEED, number, None), 0, size=320)
    return Original(f"phantom {number}", f"phantom {number}", shown.pixels)


def resize(picture: Picture, rng: np.random.Generator) -> Picture:
    scale = float(np.exp(rng.uniform(np.log(0.4), np.log(2.0))))
    ways = (cv2.INTER_AREA, cv2.INTER_LINEAR) if scale < 1 else (cv2.INTER_CUBIC, cv2.INTER_LINEAR)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=ways[rng.integers(2)])


def jpeg(picture: Picture, rng: np.random.Generator) -> Picture:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def squash(picture: Picture, rng: np.random.Generator) -> Picture:
    side = int(rng.choice([224, 256, 512]))
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def gamma(picture: Picture, rng: np.random.Generator) -> Picture:
    return np.asarray(255 * (picture / 255.0) ** rng.uniform(0.7, 1.4) + 0.5, np.uint8)


def crop(picture: Picture, rng: np.random.Generator) -> Picture:
    """95 % of each side, anywhere."""
    height, width = picture.shape
    h, w = round(0.95 * height), round(0.95 * width)
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return np.ascontiguousarray(picture[y : y + h, x : x + w])


def border(picture: Picture, rng: np.random.Generator) -> Picture:
    """2 to 10 % on each side, half of them black, the others of any grey."""
    height, width = picture.shape
    top, bottom = (int(v) for v in rng.uniform(0.02, 0.1, 2) * height)
    left, right = (int(v) for v in rng.uniform(0.02, 0.1, 2) * width)
    level = 0 if rng.random() < 0.5 else int(rng.integers(256))
    return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=level)


def letterbox(picture: Picture, rng: np.random.Generator) -> Picture:
    """Black bars to a square or to 16:9."""
    height, width = picture.shape
    shape = (1, 1) if rng.random() < 0.5 else (9, 16)
    tall, wide = max(height, -(-width * shape[0] // shape[1])), max(width, -(-height * shape[1] // shape[0]))
    top, left = (tall - height) // 2, (wide - width) // 2
    return cv2.copyMakeBorder(
        picture, top, tall - height - top, left, wide - width - left, cv2.BORDER_CONSTANT, value=0
    )


def text(picture: Picture, rng: np.random.Generator) -> Picture:
    """Two to four lines of lettering and two calipers."""
    drawn, (height, width) = picture.copy(), picture.shape
    size = max(0.3, 0.0016 * min(height, width))
    for line in ("LIVER RT LOBE", "12.4 MHz  G 62", "D1 23.5 mm", "MAMA DIREITA QSE")[: rng.integers(2, 5)]:
        at = int(rng.uniform(0.02, 0.55) * width), int(rng.uniform(0.08, 0.95) * height)
        cv2.putText(drawn, line, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    for _ in range(2):
        at = int(rng.uniform(0.2, 0.8) * width), int(rng.uniform(0.2, 0.8) * height)
        cv2.drawMarker(drawn, at, 255, cv2.MARKER_CROSS, max(7, min(height, width) // 40))
    return drawn


def several(picture: Picture, rng: np.random.Generator) -> Picture:
    """What a re-upload often is: squashed, changed in gamma, compressed."""
    return jpeg(gamma(squash(picture, rng), rng), rng)


EASY: dict[str, Change] = {
    "resize 0.4-2x": resize,
    "JPEG 30-95": jpeg,
    "squash to square": squash,
    "gamma 0.7-1.4": gamma,
}
HARD: dict[str, Change] = {"crop 5 %": crop, "border": border, "letterbox": letterbox, "overlay text": text}
MORE: dict[str, Change] = {"squash+gamma+JPEG": several}
