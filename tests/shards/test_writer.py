import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openus.shards.schema import QUALITY, ROW
from openus.shards.writer import _header, cut, write_shard


def row(key: str) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(ROW.names, "")
    numbers = ("index", "width", "height", "source_width", "source_height", "cleaned_fraction", "text_boxes")
    return (
        values
        | dict.fromkeys(numbers, 0)
        | dict.fromkeys(QUALITY, False)
        | {"key": key, "labels": [("kind", "cyst")], "sector": [0, 0, 4, 4]}
    )


def samples() -> list[tuple[dict[str, Any], bytes]]:
    return [(row(f"s_{i}"), bytes([i]) * (100 + 500 * i)) for i in range(4)]


def test_a_shard_is_plain_deterministic_ustar(tmp_path: Path) -> None:
    info = write_shard(tmp_path / "a" / "x-000000.tar", tmp_path / "m" / "x-000000.parquet", samples(), "jpg")
    again = write_shard(
        tmp_path / "b" / "x-000000.tar", tmp_path / "n" / "x-000000.parquet", samples(), "jpg"
    )
    data = (tmp_path / "a" / "x-000000.tar").read_bytes()
    assert info == again
    assert (info.bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(tmp_path / "a" / "x-000000.tar", "r:") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"s_{i}.{e}" for i in range(4) for e in ("jpg", "json")]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in members} == {
            (0, 0, 0, 0o444, "", "")
        }
        sidecar = json.loads(tar.extractfile("s_1.json").read())  # type: ignore[union-attr]
    assert sidecar["labels"] == '{"kind":"cyst"}'
    assert None not in sidecar.values()
    assert not any(isinstance(value, dict | list) for value in sidecar.values())


def test_offsets_in_the_manifest_cut_out_the_pictures(tmp_path: Path) -> None:
    write_shard(tmp_path / "x-000000.tar", tmp_path / "x-000000.parquet", samples(), "png")
    data = (tmp_path / "x-000000.tar").read_bytes()
    table = pq.read_table(tmp_path / "x-000000.parquet")
    assert table.schema.equals(ROW)
    for stored, (_, picture) in zip(table.to_pylist(), samples(), strict=True):
        assert data[stored["offset"] : stored["offset"] + stored["size"]] == picture
        assert stored["shard"] == "x-000000.tar"


def test_nothing_half_written_stands_under_the_final_name(tmp_path: Path) -> None:
    def breaking() -> Any:
        yield samples()[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_shard(tmp_path / "x.tar", tmp_path / "x.parquet", breaking(), "png")
    assert not (tmp_path / "x.tar").exists() and not (tmp_path / "x.parquet").exists()


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=300), st.integers(1, 50_000))
def test_cutting_loses_nothing_and_leaves_no_crumbs(sizes: list[int], target: int) -> None:
    parts = cut(sizes, target)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(part.stop > part.start for part in parts)
    assert len(parts) <= max(1, -(-sum(sizes) // target))
    for part in parts:
        assert sum(sizes[part]) <= target + max(sizes)


@given(st.from_regex(r"[a-z0-9_.-]{1,100}", fullmatch=True), st.integers(0, 8**11 + 5))
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    try:
        expected = info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # more than USTAR can say
        with pytest.raises(ValueError, match="overflow"):
            _header(name, size)
        return
    assert _header(name, size) == expected
