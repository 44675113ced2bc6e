"""A manifest for shards that others made, so that they can be read as exactly as those of `openus build`.

Every tar is read once from end to end; nothing of it is copied. What a row needs and the shard does not tell
(source, anatomy, licence) is given by the caller or left unknown.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from openus import __version__
from openus.decode.limits import DecodeLimits
from openus.dedup.hashes import phash, pixel_sha256
from openus.errors import ArchiveError, DecodeError, UsageError
from openus.manifest import PRETRAIN
from openus.shards.corpus import save_corpus
from openus.shards.schema import QUALITY, REJECTED, ROW, SCHEMA_VERSION
from openus.shards.writer import ShardInfo
from openus.storage.files import write_parquet
from openus.storage.places import Place, open_url

PICTURES = ("jpg", "jpeg", "png", "webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
_MEMBER_LIMIT = 1 << 28
_LABEL_LIMIT = 64


def expand(urls: str | Sequence[str]) -> list[str]:
    """The tars that a WebDataset address names: `{000000..000012}` braces, `::` between lists, or a list of those.

    Raises UsageError for commands (`pipe:`) and for an empty list.
    """
    from braceexpand import braceexpand

    lines = [urls] if isinstance(urls, str) else list(urls)
    found = [str(url) for line in lines for part in line.split("::") for url in braceexpand(part)]
    for url in found:
        if url.startswith("pipe:") or "|" in url:
            raise UsageError(f"{url}: commands are not run; give files or addresses of tars")
    if not found:
        raise UsageError("no shards were given; name tars, as 'set-{000000..000012}.tar'")
    return found


def index_shards(
    urls: str | Sequence[str],
    out: Path,
    *,
    set: str = PRETRAIN,
    source: str = "foreign",
    anatomy: str = "unknown",
    licence: str = "unknown",
    picture: str | None = None,
    report: Callable[[str, int, int], None] | None = None,
    limits: DecodeLimits | None = None,
) -> dict[str, Any]:
    """Write a corpus folder whose shards stay where they are.

    Args:
        urls: tars by path or address; braces and lists as in `expand`.
        out: the folder for `corpus.json` and `manifest/`; an index in it is replaced.
        set, source, anatomy, licence: for every row.
        picture: extension of the member to take where samples hold several pictures, e.g. `image.png`; None: the
            one called plainly jpg, jpeg, png or webp, else the first.
        report: called with (shard, done, of) after each shard.

    Members `cls` and the scalars of a flat `json` become labels. Samples without a picture that can be read
    become rows of `manifest/rejected.parquet`. Returns the contents of `corpus.json`.

    Raises UsageError: no shards, or a command among them; CorpusError: a shard cannot be had; ArchiveError: it is
    compressed or no tar.
    """
    shards, rejected, names = [], [], dict[str, int]()
    places = expand(urls)
    for number, url in enumerate(places):
        scan = _Scan(set, source, anatomy, licence, picture, limits or DecodeLimits(), names)
        digest, size = scan.read(url)
        file = url.rstrip("/").rsplit("/", 1)[-1]
        manifest = f"{set}-{number:06d}.parquet"
        table = pa.Table.from_pylist([row | {"shard": file} for row in scan.rows], schema=ROW)
        info = ShardInfo(
            file, size, len(table), digest, manifest, write_parquet(out / "manifest" / manifest, table)
        )
        folder = Place(url).folder
        shards.append(asdict(info) | {"url": url if folder is None else str(folder.resolve())})
        rejected += scan.rejected
        if report:
            report(file, number + 1, len(places))
    lost = write_parquet(
        out / "manifest" / "rejected.parquet", pa.Table.from_pylist(rejected, schema=REJECTED)
    )
    summary = {
        "schema": SCHEMA_VERSION,
        "openus": __version__,
        "corpus": {"name": "foreign", "shards": "not made by openus build; their places are in `url`"},
        "sources": {},
        "missing": {},
        "sets": {set: {"samples": sum(shard["samples"] for shard in shards), "shards": shards}},
        "rejected": {"rows": len(rejected), "sha256": lost},
    }
    save_corpus(out, summary)
    return summary


class _Hashing(io.RawIOBase):
    """A stream that hashes and counts what is read through it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.digest, self.length = stream, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size)
        self.digest.update(data)
        self.length += len(data)
        return data


@contextmanager
def _stream(url: str) -> Iterator[Any]:
    folder = Place(url).folder
    if folder is None:
        with open_url(url) as stream:
            yield stream
        return
    try:
        file = folder.open("rb")
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; check the name of the shard") from error
    with file:
        yield file


@dataclass
class _Scan:
    """Reads one shard into rows and rejected rows. `names` counts the keys of all shards so far."""

    set: str
    source: str
    anatomy: str
    licence: str
    picture: str | None
    limits: DecodeLimits
    names: dict[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def read(self, url: str) -> tuple[str, int]:
        """Fill the rows; returns SHA-256 and length of the shard."""
        with _stream(url) as stream:
            hashing = _Hashing(stream)
            try:
                with tarfile.open(fileobj=hashing, mode="r|") as tar:
                    for key, members in _samples(tar):
                        self._sample(key, members)
            except tarfile.TarError as error:
                raise ArchiveError(
                    f"{url}: not a plain tar or cut short ({error}); shards must not be compressed, as samples are "
                    "read by their place in the file"
                ) from error
            while hashing.read(1 << 20):
                pass  # to the end, for the hash
        return hashing.digest.hexdigest(), hashing.length

    def _sample(self, key: str, members: dict[str, tuple[int, bytes]]) -> None:
        pictures = [name for name in members if name.rsplit(".", 1)[-1] in PICTURES]
        chosen = self.picture or next(
            (name for name in PICTURES if name in members), next(iter(pictures), "")
        )
        if chosen not in members:
            self._reject(key, "select", "no-picture", f"members: {', '.join(sorted(members))}")
            return
        at, data = members[chosen]
        try:
            pixels = _grey(data, key, self.limits)
        except DecodeError as error:
            self._reject(key, "decode", error.reason, str(error))
            return
        height, width = pixels.shape
        pixel_hash = pixel_sha256(pixels)
        unique = self._unique(key)
        self.rows.append(
            {
                "key": unique, "set": self.set, "offset": at, "size": len(data), "source": self.source,
                "anatomy": self.anatomy, "kind": "image", "member": f"{key}.{chosen}", "index": 0, "clip": "",
                "patient": "", "labels": _labels(members), "split": "", "width": width, "height": height,
                "source_width": width, "source_height": height, "sha256": hashlib.sha256(data).hexdigest(),
                "pixel_sha256": pixel_hash, "phash": phash(pixels), "cluster": unique,
                "sector": [0, 0, width, height], "cleaned_fraction": 0.0, "text_boxes": -1, "flags": "",
                **dict.fromkeys(QUALITY, False), "licence": self.licence, "redistribution": "recipe-only",
            }
        )  # fmt: skip

    def _unique(self, key: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", key)
        self.names[plain] = seen = self.names.get(plain, 0) + 1
        return plain if seen == 1 else self._unique(f"{plain}-{seen}")

    def _reject(self, member: str, stage: str, reason: str, detail: str) -> None:
        self.rejected.append(
            {
                "source": self.source,
                "member": member,
                "index": -1,
                "stage": stage,
                "reason": reason,
                "detail": detail,
            }
        )


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """Key and members (extension: offset, bytes) of each sample: runs of files of one name up to the first dot."""
    key, members = "", dict[str, tuple[int, bytes]]()
    for info in tar:
        if not info.isfile() or info.issparse() or info.size > _MEMBER_LIMIT:
            continue
        folder, _, base = info.name.rpartition("/")
        stem, _, extension = base.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key and members:
            yield key, members
            members = {}
        key = name
        file = tar.extractfile(info)
        members[extension.lower()] = (info.offset_data, file.read() if file else b"")
    if members:
        yield key, members


def _grey(data: bytes, name: str, limits: DecodeLimits) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode as the stream will: grey, not turned by EXIF. The header is judged before pixels are allocated."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            limits.check_pixels(name, *header.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{name}: not a JPEG, PNG or WebP picture ({error})", "not-an-image") from error
    try:
        if data[:2] == b"\xff\xd8":  # OpenCV would fill the lost part of a cut JPEG with grey
            return np.asarray(simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0], np.uint8)
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (ValueError, KeyError, cv2.error) as error:  # simplejpeg: KeyError for an unknown colour space
        raise DecodeError(f"{name}: the picture is damaged or cut short ({error})", "truncated") from error
    if pixels is None:
        raise DecodeError(f"{name}: the picture is damaged or cut short", "truncated")
    return np.asarray(pixels, np.uint8)


def _labels(members: dict[str, tuple[int, bytes]]) -> dict[str, str]:
    labels: dict[str, str] = {}
    if "json" in members:
        try:
            flat = json.loads(members["json"][1])
        except ValueError:
            flat = {}
        for name, value in flat.items() if isinstance(flat, dict) else ():
            if isinstance(value, str | int | float) and len(str(value)) <= _LABEL_LIMIT:
                labels[name] = str(value)
    if "cls" in members:
        labels["cls"] = members["cls"][1].decode("utf-8", "replace").strip()[:_LABEL_LIMIT]
    return labels
