"""Views made on a GPU: JPEGs decoded there in batches (nvJPEG, through torchvision), and cut and resized there.

The bytes are read and checked on this machine's cores, which do nothing else then. Pixels are those of the CPU's
path to within rounding, not bit for bit: nvJPEG has another inverse transform, the resize another order of
sums. PNG, WebP and what nvJPEG cannot read is decoded here by the CPU.

Whether this is worth it depends on the GPU, the cores and the pictures: `usfmae.stream.trial` measures it.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openus.errors import DecodeError
from usfmae.stream.decode import decode_grey
from usfmae.stream.views import Bad, Views


class DeviceViews:
    """Makes the views of records on a device. Not shared between threads.

    Args:
        views: reads, and decodes what the device cannot; belongs to this object.
        size: side S of the views in pixels.
        interpolation: `linear` or `cubic`.
        device: where JPEGs are decoded; a CPU device takes the same way through torchvision, for tests.
    """

    def __init__(self, views: Views, size: int, interpolation: str, device: torch.device) -> None:
        self.views, self.size, self.device = views, size, device
        self.mode = {"linear": "bilinear", "cubic": "bicubic"}[interpolation]
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make(self, records: NDArray[np.void]) -> tuple[Tensor, list[Bad]]:
        """The views of records [n]: uint8 [n, 1, S, S] on the device, zeros where one failed; and those that failed.

        Raises CorpusError where a shard is missing or cut short.
        """
        rows = records.tolist()
        with torch.cuda.stream(self.stream):  # does nothing where there is none
            out = torch.zeros(len(rows), 1, self.size, self.size, dtype=torch.uint8, device=self.device)
            data, bad = self._read(rows)
            pictures = self._decode([data[place] for place in data])
            for place, picture in zip(data, pictures, strict=True):
                try:
                    if picture is None:
                        picture = self._on_cpu(data[place], rows[place])
                    self._cut(picture, rows[place], out[place])
                except DecodeError as error:
                    bad.append(Bad(place, rows[place][0], error.reason, str(error)))
        if self.stream is not None:
            self.stream.synchronize()  # of this thread: what it hands over is ready
        if self.views.reader.cache is not None:
            self.views.reader.close()
        return out, bad

    def _read(self, rows: list[tuple[Any, ...]]) -> tuple[dict[int, bytes], list[Bad]]:
        """The checked bytes of each place, and the places whose bytes are not those of their row."""
        data, bad = dict[int, bytes](), []
        for place, (row, shard, offset, size, *_, sha256) in enumerate(rows):
            found = self.views.reader.read(shard, offset, size)
            if self.views.check and hashlib.sha256(found).digest() != sha256:
                why = "its bytes are not those its row describes (SHA-256 differs)"
                bad.append(Bad(place, row, "altered", why))
                continue
            width, height = rows[place][4:6]
            if _is_jpeg(found) and _size_of(found) not in (None, (height, width)):
                why = f"the picture is not {width}x{height}, as its row says"
                bad.append(Bad(place, row, "size", why))
                continue
            data[place] = found
        return data, bad

    def _decode(self, data: list[bytes]) -> list[Tensor | None]:
        """uint8 [1, h, w] of each JPEG; None for what is no JPEG or what the device cannot decode."""
        pictures: list[Tensor | None] = [None] * len(data)
        jpegs = [number for number, item in enumerate(data) if _is_jpeg(item)]
        if not jpegs:
            return pictures
        try:
            for number, picture in zip(
                jpegs, decode_jpegs([data[i] for i in jpegs], self.device), strict=True
            ):
                pictures[number] = picture
        except RuntimeError:  # one of them; which one is not said
            for number in jpegs:
                try:
                    pictures[number] = decode_jpegs([data[number]], self.device)[0]
                except RuntimeError:
                    continue
        return pictures

    def _on_cpu(self, data: bytes, record: tuple[Any, ...]) -> Tensor:
        return torch.from_numpy(decode_grey(data, record[4], record[5])).to(self.device)[None]

    def _cut(self, picture: Tensor, record: tuple[Any, ...], out: Tensor) -> None:
        """Reduce a whole picture uint8 [1, h, w] as its record says, cut the box, resize it into `out` [1, S, S]."""
        reduction, x, y, w, h = record[6:11]
        whole = picture[None].float()
        if reduction > 1:
            whole = F.avg_pool2d(whole, reduction, ceil_mode=True, count_include_pad=False)
        box = whole[:, :, y : y + h, x : x + w]
        if max(w, h) > 2 * self.size:  # as `usfmae.stream.decode.cut`
            view = F.interpolate(box, (self.size, self.size), mode="area")
        else:
            view = F.interpolate(box, (self.size, self.size), mode=self.mode, align_corners=False)
        out.copy_(view[0].round_().clamp_(0, 255))

    def close(self) -> None:
        """Close the files."""
        self.views.close()


def decode_jpegs(data: list[bytes], device: torch.device) -> list[Tensor]:
    """Grey uint8 [1, h, w] of each JPEG, on the device. Raises RuntimeError where one of them cannot be decoded."""
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # read-only buffers are only read; the function's successor has no batches
        tensors = [torch.frombuffer(item, dtype=torch.uint8) for item in data]
        pictures: list[Tensor] = decode_jpeg(tensors, mode=ImageReadMode.GRAY, device=device)
    return pictures


def _is_jpeg(data: bytes) -> bool:
    return data[:2] == b"\xff\xd8"


def _size_of(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG's header announces, before anything is allocated for it."""
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except (ValueError, KeyError):
        return None
    return int(height), int(width)
