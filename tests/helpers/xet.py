"""A Xet store for the tests: it takes xorbs and shards, checks every hash in them, and puts files together again.

The formats are those of the public Xet specification (https://huggingface.co/docs/xet). A file goes up as chunks of
64 KiB or so; chunks travel in xorbs, and a shard says which chunks of which xorbs make a file. Nothing is believed:
the store unpacks each chunk and hashes it, and a file exists only once its own chunks give its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blake3
import lz4.frame

_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_SHARD_TAG = bytes.fromhex("48465265706f4d6574614461746100556967456a7b815783a5bdd95ccdd14aa9")
_ENTRY = 48  # bytes of every entry of a shard
_LARGEST_CHUNK = 128 << 10
_END = b"\xff" * 32

Answer = tuple[int, bytes, dict[str, str]]


class BadUploadError(Exception):
    """What came does not hold together; the real store answers 400."""


def text(digest: bytes) -> str:
    """A hash as Xet writes it: four little-endian numbers of 64 bits, each in hexadecimal."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def _keyed(key: bytes, data: bytes) -> bytes:
    return bytes(blake3.blake3(data, key=key).digest())


def tree_hash(leaves: Sequence[tuple[bytes, int]]) -> bytes:
    """The root over (hash, bytes) of chunks: parents hold 2 to 9 children and end where a hash is 0 modulo 4."""
    level = list(leaves)
    while len(level) > 1:
        parents, start = [], 0
        while start < len(level):
            most = min(9, len(level) - start)
            ends = (n + 1 for n in range(2, most) if level[start + n][0][24] % 4 == 0)
            group = level[start : start + next(ends, most)]
            lines = "".join(f"{text(digest)} : {size}\n" for digest, size in group)
            parents.append((_keyed(_NODE_KEY, lines.encode()), sum(size for _, size in group)))
            start += len(group)
        level = parents
    return level[0][0]


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc64nvme(data: bytes) -> int:
    """The checksum that goes along with a xorb: CRC-64/NVME."""
    value = (1 << 64) - 1
    for byte in data:
        value = _CRC[value & 255 ^ byte] ^ value >> 8
    return value ^ (1 << 64) - 1


@dataclass
class Xorb:
    """Chunks in one piece: its bytes as sent, the unpacked chunks, their hashes, and where each begins (and ends)."""

    data: bytes
    chunks: list[bytes]
    hashes: list[bytes]
    starts: list[int]

    @classmethod
    def read(cls, data: bytes) -> Xorb:
        found, place = cls(data, [], [], [0]), 0
        while (
            place < len(data) and data[place : place + 7] != b"XETBLOB"
        ):  # the footer repeats what chunks say
            version, scheme = data[place], data[place + 4]
            packed, size = (int.from_bytes(data[place + n : place + n + 3], "little") for n in (1, 5))
            body = data[place + 8 : place + 8 + packed]
            if version != 0 or scheme > 2 or size > _LARGEST_CHUNK or len(body) != packed:
                raise BadUploadError(f"a chunk header at byte {place} that says nothing sound")
            chunk = body if scheme == 0 else lz4.frame.decompress(body)
            chunk = _regrouped(chunk) if scheme == 2 else chunk
            if len(chunk) != size:
                raise BadUploadError(f"a chunk of {len(chunk)} bytes where {size} were announced")
            place += 8 + packed
            found.chunks.append(chunk)
            found.hashes.append(_keyed(_CHUNK_KEY, chunk))
            found.starts.append(place)
        if not found.chunks:
            raise BadUploadError("a xorb without chunks")
        return found

    def name(self) -> str:
        return text(tree_hash([(h, len(c)) for h, c in zip(self.hashes, self.chunks, strict=True)]))


def _regrouped(grouped: bytes) -> bytes:
    """Undo the grouping of every fourth byte."""
    whole, start = bytearray(len(grouped)), 0
    for first in range(4):
        count = len(range(first, len(grouped), 4))
        whole[first::4] = grouped[start : start + count]
        start += count
    return bytes(whole)


@dataclass
class Term:
    """A run of chunks [start, stop) of a xorb, `size` bytes unpacked."""

    xorb: str
    start: int
    stop: int
    size: int


@dataclass
class File:
    """A file as a shard describes it; its hash and SHA-256 in text."""

    hash: str
    terms: list[Term]
    ranges: list[bytes]
    sha256: str


def read_shard(data: bytes) -> list[File]:
    """The files of a shard. What it says about xorbs follows from the xorbs themselves, and is not read."""
    if data[:32] != _SHARD_TAG:
        raise BadUploadError("not a shard")
    return list(_files(data))


def _files(data: bytes) -> Iterator[File]:
    place = 48
    while (digest := data[place : place + 32]) != _END:
        flags, count = struct.unpack_from("<II", data, place + 32)
        if not (flags >> 31 and flags >> 30 & 1):
            raise BadUploadError(f"file {text(digest)} comes without verification or without its SHA-256")
        entries = [data[place + _ENTRY * (1 + n) :][:_ENTRY] for n in range(2 * count + 1)]
        terms = []
        for entry in entries[:count]:
            _, size, start, stop = struct.unpack_from("<IIII", entry, 32)
            terms.append(Term(text(entry[:32]), start, stop, size))
        yield File(text(digest), terms, [e[:32] for e in entries[count : 2 * count]], text(entries[-1][:32]))
        place += _ENTRY * (2 * count + 2)


@dataclass
class XetStore:
    """The store's state. `objects` are the Hub's large files: a shard that holds adds its files to them.

    url: where clients reach it. lifetime: seconds that a token holds. granted: token to ("read" or "write", end).
    gives_grants: xorbs are sent to an address that the store gives for each, and then announced; otherwise they are
    posted to the store itself, as older clients do. refused: what did not hold together.
    """

    objects: dict[str, bytes]
    url: str = ""
    lifetime: float = 3600
    gives_grants: bool = True
    granted: dict[str, tuple[str, float]] = field(default_factory=dict)
    xorbs: dict[str, Xorb] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    wishes: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def hash_of(self, sha256: str) -> str | None:
        """The Xet hash of a file that came through this store."""
        return next((file.hash for file in self.files.values() if file.sha256 == sha256), None)

    def grant(self, scope: str) -> tuple[dict[str, Any], dict[str, str]]:
        """A short-lived token, as the Hub hands it out: in the answer's body, and in its headers."""
        token, end = f"xet_{scope}Token{len(self.granted)}", time.time() + self.lifetime
        self.granted[token] = scope, end
        body = {"casUrl": self.url, "accessToken": token, "exp": int(end)}
        return body, {
            "X-Xet-Cas-Url": self.url,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(int(end)),
        }

    def answer(self, method: str, path: str, token: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request to the store, its path below `url`."""
        if found := re.fullmatch(
            r"/sent/(\w+)", path
        ):  # as of a store of objects: its addresses need no token
            self.sent[found[1]] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        scope, end = self.granted.get(token, ("", 0.0))
        if not scope or end < time.time():
            return 401, b"the token is unknown or has expired", {}
        if method == "POST" and scope != "write" and "telemetry" not in path:
            return 403, b"the token may only read", {}
        try:
            if found := re.fullmatch(r"/v1/xorbs/default/(\w{64})", path):
                return self._take_xorb(found[1], body)
            if self.gives_grants and (found := re.fullmatch(r"/v1/xorb-grants/default/(\w{64})", path)):
                return self._grant_xorb(found[1], json.loads(body))
            if found := re.fullmatch(r"/v1/xorb-commits/default/(\w{64})/grant/(\w+)", path):
                return self._take_granted(found[1], found[2])
            if found := re.fullmatch(r"/v([12])/shards", path):
                return self._take_shard(body, found[1])
            if found := re.fullmatch(r"/v([12])/reconstructions/(\w{64})", path):
                return self._plan(self.files[found[2]], found[1], headers.get("Range", ""))
        except BadUploadError as bad:
            self.refused.append(str(bad))
            return 400, str(bad).encode(), {}
        except KeyError:
            pass
        return (200, b"", {}) if path == "/v1/telemetry" else (404, b"not here", {})

    def _grant_xorb(self, name: str, wish: dict[str, Any]) -> Answer:
        number = f"grant{len(self.wishes)}"
        self.wishes[number] = wish | {"xorb": name}
        where = {"id": number, "method": "PUT", "url": f"{self.url}/sent/{number}", "headers": {}}
        return 201, json.dumps(where).encode(), {"Content-Type": "application/json"}

    def _take_granted(self, name: str, number: str) -> Answer:
        wish, body = self.wishes[number], self.sent.pop(number)
        if wish["xorb"] != name or wish["length"] != len(body):
            raise BadUploadError(f"grant {number} was for another xorb")
        if wish["checksum"] != {"algo": "crc64nvme", "value": str(crc64nvme(body))}:
            raise BadUploadError(f"the checksum of xorb {name} does not hold")
        return self._take_xorb(name, body)

    def _take_xorb(self, name: str, body: bytes) -> Answer:
        xorb = Xorb.read(body)
        if xorb.name() != name:
            raise BadUploadError(f"the chunks of xorb {name} hash to {xorb.name()}")
        new = self.xorbs.setdefault(name, xorb) is xorb
        return 200, json.dumps({"was_inserted": new}).encode(), {"Content-Type": "application/json"}

    def _take_shard(self, body: bytes, version: str) -> Answer:
        for file in read_shard(body):
            self.objects[file.sha256] = self._put_together(file)
            self.files[file.hash] = file
        if version == "2":
            return 200, b'{"type":"result"}\n', {"Content-Type": "application/x-ndjson"}
        return 200, b'{"result":1}', {"Content-Type": "application/json"}

    def _put_together(self, file: File) -> bytes:
        leaves: list[tuple[bytes, int]] = []
        pieces: list[bytes] = []
        for term, expected in zip(file.terms, file.ranges, strict=True):
            if (xorb := self.xorbs.get(term.xorb)) is None or not 0 <= term.start < term.stop <= len(
                xorb.chunks
            ):
                raise BadUploadError(f"file {file.hash} needs chunks of xorb {term.xorb} that are not here")
            hashes, chunks = (part[term.start : term.stop] for part in (xorb.hashes, xorb.chunks))
            if _keyed(_RANGE_KEY, b"".join(hashes)) != expected or sum(map(len, chunks)) != term.size:
                raise BadUploadError(f"file {file.hash} describes chunks of xorb {term.xorb} wrongly")
            leaves += [(digest, len(chunk)) for digest, chunk in zip(hashes, chunks, strict=True)]
            pieces += chunks
        content = b"".join(pieces)
        if text(_keyed(bytes(32), tree_hash(leaves))) != file.hash:
            raise BadUploadError(f"the chunks of file {file.hash} do not hash to it")
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise BadUploadError(f"file {file.hash} does not have the SHA-256 it was announced with")
        return content

    def _plan(self, file: File, version: str, wanted: str) -> Answer:
        """Which xorbs to fetch for a file, or for a range of its bytes."""
        total = sum(term.size for term in file.terms)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        first = int(found[1]) if found else 0
        last = min(total - 1, int(found[2])) if found and found[2] else total - 1
        if first >= total:
            return 416, b"", {}
        terms, skip, place, fetch = [], 0, 0, {}
        for term in file.terms:
            if place <= last and place + term.size > first:
                skip = max(0, first - place) if not terms else skip
                xorb, chunks = self.xorbs[term.xorb], {"start": term.start, "end": term.stop}
                where = {"start": xorb.starts[term.start], "end": xorb.starts[term.stop] - 1}
                terms.append({"hash": term.xorb, "unpacked_length": term.size, "range": chunks})
                url = f"{self.url}/fetch/{term.xorb}"
                one = {"url": url, "range": chunks, "url_range": where}
                two = {"url": url, "ranges": [{"chunks": chunks, "bytes": where}]}
                fetch.setdefault(term.xorb, []).append(one if version == "1" else two)
            place += term.size
        plan = {"offset_into_first_range": skip, "terms": terms}
        plan["fetch_info" if version == "1" else "xorbs"] = fetch
        return 200, json.dumps(plan).encode(), {"Content-Type": "application/json"}
