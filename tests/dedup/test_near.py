"""Near-copies among chunks: planted ones are found, whatever the order of arrival, and clips are left in peace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from openus.dedup.near import Chunk, Place, near_copies, print_chunk
from openus.engine.local import LocalEngine
from openus.storage.depot import Depot
from openus.storage.files import read_parquet, write_parquet
from tests.helpers.pictures import scan

HERE = LocalEngine(0, Depot(Path()))


def chunk(folder: Path, name: str, pictures: Sequence[np.ndarray], clip: str = "") -> Chunk:
    """Pictures as a chunk of a build: one file with all of them."""
    path = folder / f"{name}.bin"
    data = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    path.write_bytes(b"".join(data))
    starts = np.cumsum([0, *map(len, data)]).tolist()
    return Chunk(
        name,
        folder / f"{name}.prints",
        tuple(f"{name}_{i}" for i in range(len(data))),
        (clip,) * len(data),
        tuple(Place(path, at, len(one)) for at, one in zip(starts, data, strict=False)),
        tuple(hashlib.sha256(one).hexdigest() for one in data),
    )


def silent(stage: str, done: int, total: int | None) -> None:
    pass


def moving(seed: int, frames: int) -> list[np.ndarray]:
    """A clip: a window that glides over a larger scene."""
    scene = scan(seed, 240, 320)[10:-10, 14:-14]
    return [np.ascontiguousarray(scene[2 * t : 2 * t + 150, 3 * t : 3 * t + 200]) for t in range(frames)]


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> list[Chunk]:
    folder = tmp_path_factory.mktemp("chunks")
    originals = [scan(seed) for seed in range(5)]
    clip = moving(50, 8)
    return [
        chunk(folder, "stills", originals),
        chunk(
            folder,
            "changed",
            [
                cv2.resize(originals[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
                originals[1][6:196, 5:252],
                scan(77),
                cv2.copyMakeBorder(originals[2], 25, 25, 25, 25, cv2.BORDER_CONSTANT),
                originals[3],  # the same pixels: not for this stage
            ],
        ),
        chunk(folder, "clip", clip, "one/clip"),
        chunk(folder, "again", [cv2.GaussianBlur(frame, (0, 0), 0.6) for frame in clip], "two/clip"),
    ]


def test_planted_copies_and_nothing_else(tmp_path: Path, chunks: list[Chunk]) -> None:
    found = near_copies(chunks, tmp_path / "pairs.parquet", HERE, silent).to_pylist()
    sure = {(row["a"], row["b"]) for row in found if row["score"] >= 0.88}
    stills = {("changed_0", "stills_0"), ("changed_1", "stills_1"), ("changed_3", "stills_2")}
    assert stills <= sure
    frames = sure - stills
    assert {(f"again_{t}", f"clip_{t}") for t in range(8)} <= frames
    assert all(a.startswith("again_") and b.startswith("clip_") for a, b in frames)
    assert all(row["distance"] <= 27 and 0.5 <= row["score"] <= 1.0001 for row in found)
    cropped = next(row for row in found if row["b"] == "stills_1")
    assert cropped["window_a"] != cropped["window_b"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_adding_chunks_one_by_one_finds_the_same(
    tmp_path: Path, chunks: list[Chunk], order: tuple[int, ...]
) -> None:
    whole = near_copies(chunks, tmp_path / "whole.parquet", LocalEngine(2, Depot(Path())), silent)
    store = tmp_path / "grown.parquet"
    for count in range(1, 5):
        grown = near_copies([chunks[i] for i in order[:count]], store, HERE, silent)
    assert grown.equals(whole)
    assert store.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    store_of_all = store.read_bytes()
    for left in (0, 1):  # one of the two whose pictures are joined is gone
        store.write_bytes(store_of_all)
        without = near_copies([chunks[left], chunks[2], chunks[3]], store, HERE, silent).to_pylist()
        assert {key.split("_")[0] for row in without for key in (row["a"], row["b"])} == {"clip", "again"}


def test_only_what_is_new_is_looked_at(tmp_path: Path, chunks: list[Chunk]) -> None:
    looked: list[int] = []

    def count(stage: str, done: int, total: int | None) -> None:
        if stage == "compare" and done == 0:
            looked.append(total or 0)

    store = tmp_path / "pairs.parquet"
    near_copies(chunks[:3], store, HERE, count)
    near_copies(chunks[:3], store, HERE, count)
    near_copies(chunks, store, HERE, count)
    near_copies(chunks, tmp_path / "other.parquet", HERE, count)
    assert looked[1] == 0
    assert looked[0] > 0 and looked[2] > 0 and looked[0] + looked[2] == looked[3]


@pytest.mark.parametrize("first", [0, 1])
def test_a_crop_is_found_whether_it_comes_before_its_picture_or_after(tmp_path: Path, first: int) -> None:
    """Only a window of the picture is like the crop, which has no window that is like the picture."""
    picture = scan(9)
    top, left = (int(side * 0.08) for side in picture.shape)
    crop = picture[top:-top, left:-left]
    both = [chunk(tmp_path, "whole", [picture]), chunk(tmp_path, "crop", [crop])]
    near_copies([both[first]], tmp_path / "pairs.parquet", HERE, silent)
    (found,) = near_copies(both, tmp_path / "pairs.parquet", HERE, silent).to_pylist()
    assert (found["a"], found["b"]) == ("crop_0", "whole_0")


def test_frames_of_one_clip_are_no_copies_wherever_they_lie(tmp_path: Path) -> None:
    frames = moving(50, 8)
    alike = [cv2.GaussianBlur(frame, (0, 0), 0.6) for frame in frames]
    for name, found in (("one/clip", False), ("two/clip", True)):
        halves = [chunk(tmp_path, "left", frames, "one/clip"), chunk(tmp_path, "right", alike, name)]
        assert bool(near_copies(halves, tmp_path / f"{found}.parquet", HERE, silent).num_rows) == found


def test_what_other_code_found_is_not_believed(tmp_path: Path, chunks: list[Chunk]) -> None:
    store = tmp_path / "pairs.parquet"
    whole = near_copies(chunks[:2], store, HERE, silent)
    kept = read_parquet(store)
    notes = {**(kept.schema.metadata or {}), b"code": b"older"}
    write_parquet(store, kept.slice(1).replace_schema_metadata(notes))
    assert near_copies(chunks[:2], store, HERE, silent).equals(whole)


def test_a_damaged_store_is_made_anew(tmp_path: Path, chunks: list[Chunk]) -> None:
    store = tmp_path / "pairs.parquet"
    whole = near_copies(chunks, store, HERE, silent)
    store.write_bytes(store.read_bytes()[:100])
    assert near_copies(chunks, store, HERE, silent).equals(whole)


def test_a_chunk_may_be_empty_and_bytes_may_be_no_picture(tmp_path: Path) -> None:
    assert len(near_copies([chunk(tmp_path, "none", [])], tmp_path / "p.parquet", HERE, silent)) == 0
    broken = chunk(tmp_path, "broken", [scan(1)])
    broken.places[0].path.write_bytes(b"not a picture at all")
    with pytest.raises(ValueError, match="cannot be decoded"):
        print_chunk(broken)
