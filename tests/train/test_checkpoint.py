"""Checkpoints: whole or absent, and what happens to damaged ones."""

from __future__ import annotations

import os
import pickle
import threading
from contextlib import closing
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.model.test_mae import small
from usfmae.model.layouts import WeightsError
from usfmae.model.mae import MAE
from usfmae.model.runs import checkpoints, fault, newest_whole
from usfmae.model.weights import load_weights, save_weights
from usfmae.train import keeper as module
from usfmae.train.checkpoint import EMA, begin, complete, load_state, write_state
from usfmae.train.distributed import World
from usfmae.train.keeper import Keeper


def write(run: Path, *steps: int, keep: int = 5) -> list[Path]:
    made = []
    for step in steps:
        torch.manual_seed(step)
        folder = begin(run, step)
        save_weights(folder, MAE(small()).state_dict(), {"model": small().to_dict()})
        write_state(folder, {"step": step, "tensor": torch.arange(1000)})
        made.append(complete(run, step, keep))
    return made


def test_layout_latest_and_keep(tmp_path: Path) -> None:
    write(tmp_path, 10, 20, 100, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000100", "step-00000020"]
    assert (tmp_path / "latest").resolve() == (tmp_path / "checkpoints/step-00000100").resolve()
    names = sorted(p.name for p in (tmp_path / "latest").iterdir())
    assert names == ["config.json", "files.json", "state.pt", "weights.safetensors"]
    assert load_state(tmp_path / "latest")["step"] == 100
    assert torch.equal(
        load_weights(tmp_path).state["mask_token"], load_weights(tmp_path / "latest").state["mask_token"]
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "config.json", "files.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path: Path, name: str, damage: str) -> None:
    older, newer = write(tmp_path, 10, 20)
    file = newer / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x5A
        file.write_bytes(data)
    said: list[str] = []
    assert newest_whole(tmp_path, said.append) == older
    assert (
        len(said) == 1
        and "step-00000020: damaged checkpoint" in said[0]
        and "using the one before it" in said[0]
    )


def test_none_whole_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    for folder in write(tmp_path, 1, 2):
        (folder / "state.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match="none of its 2 checkpoints is whole"):
        newest_whole(tmp_path, lambda _: None)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(WeightsError, match="has no checkpoint yet"):
        load_weights(tmp_path / "empty")


def test_what_an_interrupted_save_leaves_is_ignored_and_removed(tmp_path: Path) -> None:
    (first,) = write(tmp_path, 10)
    part = tmp_path / "checkpoints" / ".step-00000020.part"
    part.mkdir()
    (part / "weights.safetensors").write_bytes(b"half")
    assert newest_whole(tmp_path) == first
    write(tmp_path, 30)
    assert not part.exists()


def test_only_checkpoints_that_can_be_used_count_among_those_kept(tmp_path: Path) -> None:
    *_, cut, altered = write(tmp_path, 10, 20, 30, 40)
    os.truncate(cut / "state.pt", 100)
    data = bytearray((altered / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(data)
    write(tmp_path, 35, keep=2)  # resumed from 20: 40 lies ahead and is damaged, 30 is damaged
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000035", "step-00000020"]


def test_what_a_save_left_makes_room_for_the_next(tmp_path: Path) -> None:
    part = tmp_path / "checkpoints" / ".step-00000020.part"
    part.mkdir(parents=True)
    begin(tmp_path, 21)
    assert not part.exists()


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    write(tmp_path, 10)
    (again,) = write(tmp_path, 10)
    assert fault(again) == "" and len(checkpoints(tmp_path)) == 1


def test_a_state_with_code_in_it_is_refused(tmp_path: Path) -> None:
    (folder,) = write(tmp_path, 10)
    (folder / "state.pt").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(WeightsError, match="not a training state this package wrote"):
        load_state(folder)


def test_a_damaged_later_checkpoint_is_not_kept_in_place_of_a_whole_one(tmp_path: Path) -> None:
    _, newer = write(tmp_path, 10, 20)
    (newer / "state.pt").unlink()  # so that the run goes on from step 10
    (made,) = write(tmp_path, 15, keep=1)
    assert newest_whole(tmp_path) == made and checkpoints(tmp_path) == [made]


def test_a_checkpoint_is_of_the_moment_however_slow_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on while it is written, and changes nothing of it."""
    mae = MAE(small())
    optimizer = torch.optim.AdamW(mae.parameters(), lr=0.1)
    keeper = Keeper(tmp_path, World(1, 0, 0, torch.device("cpu")), mae, optimizer, keep=2, sharded=False)
    turns, config = threading.Event(), {"model": small().to_dict()}
    monkeypatch.setattr(
        module, "save_weights", lambda *args, **named: turns.wait(60) and save_weights(*args, **named)
    )
    average, state = {"x": torch.zeros(3)}, {"losses": [1.0]}
    before = {name: value.clone() for name, value in mae.state_dict().items()}
    keeper.save(7, config, state, average)
    mae.mask_token.sum().backward()
    optimizer.step()
    average["x"] += 1
    state["losses"].append(2.0)
    keeper.poll()
    assert not checkpoints(tmp_path) and not torch.equal(mae.mask_token, before["mask_token"])
    turns.set()
    keeper.finish()
    folder = newest_whole(tmp_path)
    assert folder is not None and folder.name == "step-00000007"
    found = load_weights(folder).state
    assert all(torch.equal(found[name], value) for name, value in before.items())
    stored = load_state(folder)
    assert stored["losses"] == [1.0] and not stored["moments"]["exp_avg.mask_token"].any()
    assert torch.equal(safetensors.torch.load_file(folder / EMA)["x"], torch.zeros(3))
    keeper.close()


def test_what_is_being_written_outlives_the_error_that_ends_a_run(tmp_path: Path) -> None:
    mae = MAE(small())
    keeper = Keeper(
        tmp_path, World(1, 0, 0, torch.device("cpu")), mae, torch.optim.AdamW(mae.parameters()), keep=2, sharded=False
    )  # fmt: skip
    with pytest.raises(KeyError), closing(keeper):
        keeper.save(3, {"model": small().to_dict()}, {}, None)
        raise KeyError
    assert newest_whole(tmp_path) == tmp_path / "checkpoints/step-00000003"
