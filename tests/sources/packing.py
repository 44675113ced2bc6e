"""Miniatures as their hosts pack them: zip, zip in zip, split zip, rar, and tables lying loose beside."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.archives.test_unpacked import seven, stored_rar
from tests.sources.miniature import Archive, Expectation, Sample


@dataclass(frozen=True)
class Packed:
    """`files`: what the host offers, by name. `samples`: the expected members it holds (a route may hold fewer)."""

    files: dict[str, Path]
    samples: dict[str, Sample]

    def members(self, found: Iterable[str]) -> dict[str, str]:
        """The expected member for each one found: packing only adds folders in front of its path."""
        known: dict[str, str] = {}
        for name in found:
            ends = [member for member in self.samples if f"/{name}".endswith(f"/{member}")]
            assert len(ends) == 1, f"{name} is none of the expected members, or several: {ends}"
            known[name] = ends[0]
        return known


def pack(root: Path, expected: Expectation, into: Path) -> Packed:
    """Write the archives of the tree `root` into `into`, and the files that lie loose beside them."""
    tree = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    made: dict[str, bytes] = {}
    held: set[str] = set()
    for archive in expected.archives:
        members = {name: path.read_bytes() for name, path in _inside(archive, tree).items()}
        assert members, f"{archive.name}: the tree has nothing inside {archive.inside!r}"
        held |= {name for name in tree if name.startswith(_folder(archive.inside))}
        made |= _archive(archive, members)
    loose = {*expected.tables, *(name for name in tree if "/" not in name)} - set(expected.never) - held
    made |= {name: tree[name].read_bytes() for name in loose}
    for name, data in made.items():
        place = into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    reached = {m: sample for m, sample in expected.samples.items() if any(_is_of(m, p) for p in held | loose)}
    return Packed({name: into / name for name in sorted(made)}, reached)


def _is_of(member: str, path: str) -> bool:
    """True if `member` is the file `path` of the tree, or lies inside it (an archive, an array of clips)."""
    parts = path.split("/")
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return any(member == t or member.startswith((f"{t}/", f"{t.rsplit('.', 1)[0]}/")) for t in tails)


def _folder(path: str) -> str:
    return f"{path}/" if path else ""


def _inside(archive: Archive, files: dict[str, Path]) -> dict[str, Path]:
    """The members of an archive: the folder it holds, and what macOS leaves beside it."""
    inside, below = _folder(archive.inside), _folder(archive.prefix)
    members = {below + name[len(inside) :]: path for name, path in files.items() if name.startswith(inside)}
    litter = f"__MACOSX/{inside}"
    return members | {name: path for name, path in files.items() if inside and name.startswith(litter)}


def _archive(archive: Archive, members: dict[str, bytes]) -> dict[str, bytes]:
    if archive.name.endswith(".rar"):
        return {archive.name: stored_rar(members)}
    if archive.name.endswith(".7z"):
        return {archive.name: seven(members)}
    if archive.parts > 1:
        return split_zip(archive.name, members, archive.parts)
    data = zip_of(members)
    return {archive.around: zip_of({archive.name: data})} if archive.around else {archive.name: data}


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def split_zip(last: str, members: dict[str, bytes], parts: int) -> dict[str, bytes]:
    """A zip split into `parts` (APPNOTE 8.3): NAME.z01, NAME.z02, … and the last part under the name `last`.

    Each cut goes through the data of a member, so that no reader gets by with whole members per part.
    """
    whole = b"PK\x07\x08" + zip_of(members)  # the mark of a split archive moves everything by four bytes
    with zipfile.ZipFile(io.BytesIO(whole[4:])) as file:
        infos = file.infolist()
        directory = file.start_dir + 4
    assert len(infos) >= parts, f"{last}: {parts} parts need as many members"
    cuts = [0]
    for number in range(1, parts):
        info = infos[number * len(infos) // parts - 1]
        cuts.append(info.header_offset + 4 + 30 + len(info.filename.encode()) + info.compress_size // 2)
    cuts.append(len(whole))
    stem = last.rsplit(".", 1)[0]
    pieces = [whole[start:end] for start, end in itertools.pairwise(cuts)]
    tail = bytearray(pieces[-1])
    at = directory - cuts[-2]
    for info in infos:
        offset = info.header_offset + 4
        part = max(number for number, start in enumerate(cuts[:-1]) if start <= offset)
        struct.pack_into("<H", tail, at + 34, part)
        struct.pack_into("<L", tail, at + 42, offset - cuts[part])
        at += 46 + sum(struct.unpack_from("<HHH", tail, at + 28))
    struct.pack_into("<HHHH", tail, at + 4, parts - 1, parts - 1, len(infos), len(infos))
    struct.pack_into("<L", tail, at + 16, directory - cuts[-2])
    return {f"{stem}.z{number:02d}": piece for number, piece in enumerate(pieces[:-1], 1)} | {
        last: bytes(tail)
    }
