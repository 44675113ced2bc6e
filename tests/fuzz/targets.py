"""One function for each kind of untrusted input: it takes any bytes and may raise nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from openus.archives import Limits, Tree
from openus.clean import Cleaned, clean_frames
from openus.clean.quality import quality_flags
from openus.decode import DecodeLimits, open_media
from openus.dedup.hashes import phash
from openus.errors import ArchiveError, CorpusError, DecodeError
from openus.manifest import CleanSettings
from openus.shards.corpus import read_corpus
from openus.shards.schema import QUALITY
from openus.shards.verify import ShardCheck, check_shard
from tests.helpers.corpus import make_corpus

LIMITS = DecodeLimits(pixels=1 << 22, picture=1 << 24, frames=2_000, memory=1 << 26, spool=1 << 26)
SUFFIXES = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "7z", "rar")
CLEAN = CleanSettings(size=32)


def decode(data: bytes) -> None:
    """Any bytes give frames or a `DecodeError`."""
    with contextlib.suppress(DecodeError):
        media = open_media(io.BytesIO(data), "fuzz", limits=LIMITS)
        for frame, cleaned in islice(clean_frames(media.frames(), CLEAN, media.meta), 4):
            assert frame.pixels.dtype.name == "uint8" and frame.pixels.ndim in (2, 3)
            if isinstance(cleaned, Cleaned):
                assert len(phash(cleaned.pixels)) == 64
                assert set(quality_flags(cleaned.pixels, CLEAN.quality)) <= set(QUALITY)


def archives(data: bytes) -> None:
    """Any bytes under the name of an archive give members or an `ArchiveError`, and write nothing beside it."""
    if not data:
        return
    with tempfile.TemporaryDirectory(prefix="openus-fuzz-") as folder:
        place = Path(folder) / "in" / f"a.{SUFFIXES[data[0] % len(SUFFIXES)]}"
        place.parent.mkdir()
        place.write_bytes(data[1:])
        limits = Limits(members=500, total_bytes=1 << 26, member_bytes=1 << 26, ratio_floor=1 << 22)
        with contextlib.suppress(ArchiveError), Tree([place], limits, work=Path(folder) / "work") as tree:
            for member in tree.read([entry.path for entry in tree.entries()]):
                with member.open() as reader:
                    assert len(reader.read()) == member.size
        assert {path.name for path in Path(folder).iterdir()} <= {"in", "work"}
        assert [path.name for path in place.parent.iterdir()] == [place.name]


_corpus: list[Path] = []


def rows(data: bytes) -> None:
    """Any bytes in the place of a shard, of its Parquet file or of corpus.json are a problem told in words."""
    if not data:
        return
    if not _corpus:
        _corpus.append(make_corpus(Path(tempfile.mkdtemp(prefix="openus-fuzz-")), {"pretrain": 3}, size=16))
    root = _corpus[0]
    kind, data = data[0] % 3, data[1:]
    if kind == 2:
        with tempfile.TemporaryDirectory(prefix="openus-fuzz-") as folder:
            (Path(folder) / "corpus.json").write_bytes(data)
            with contextlib.suppress(CorpusError):
                read_corpus(Path(folder))
        return
    (entry,) = read_corpus(root)["sets"]["pretrain"]["shards"]
    with tempfile.TemporaryDirectory(prefix="openus-fuzz-") as folder:
        copy = Path(folder) / "c"
        shutil.copytree(root, copy)
        place = copy / ("pretrain/pretrain-000000.tar", "manifest/pretrain-000000.parquet")[kind]
        place.write_bytes(data)
        same = hashlib.sha256(data).hexdigest() == entry[("sha256", "manifest_sha256")[kind]]
        # Deep, as if the hash agreed: an attacker who writes the shard writes corpus.json too.
        problems, _, _ = check_shard(ShardCheck(copy, "pretrain", entry, True))
        assert same or problems


def _decode_seeds(folder: Path) -> Iterator[bytes]:
    from tests.hostile import zoo

    yield from zoo.sound(folder).values()


def _archive_seeds(folder: Path) -> Iterator[bytes]:
    from tests.hostile import zoo

    for name, data in zoo.archives(1, folder / "outside"):
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "zip")
        if len(data) < 60_000:
            yield bytes([SUFFIXES.index(suffix)]) + data


def _row_seeds(folder: Path) -> Iterator[bytes]:
    root = make_corpus(folder / "corpus", {"pretrain": 3}, size=16)
    for kind, name in enumerate(
        ("pretrain/pretrain-000000.tar", "manifest/pretrain-000000.parquet", "corpus.json")
    ):
        yield bytes([kind]) + (root / name).read_bytes()


TARGETS: dict[str, Callable[[bytes], None]] = {"decode": decode, "archives": archives, "rows": rows}
SEEDS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    "decode": _decode_seeds,
    "archives": _archive_seeds,
    "rows": _row_seeds,
}
