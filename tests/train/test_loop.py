"""The loop: exact resume, guard, refusals. Small networks, real corpora, no patches."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch

from openus.errors import CorpusError, UsageError
from tests.helpers.corpus import make_corpus
from tests.train.conftest import TINY
from usfmae.model.layouts import WeightsError
from usfmae.model.mae import MAE
from usfmae.model.weights import build_mae, load_weights, save_weights
from usfmae.stream.index import open_index
from usfmae.stream.loader import Loader
from usfmae.train.checkpoint import load_state
from usfmae.train.data import Reading, decoding_device
from usfmae.train.distributed import World
from usfmae.train.guard import DivergedError, Guard, unechoed
from usfmae.train.log import read_log
from usfmae.train.loop import check, pretrain
from usfmae.train.recipe import GuardRecipe, Recipe, load_recipe
from usfmae.train.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(*changes: str) -> Recipe:
    return load_recipe("demo", [*TINY, *changes])


def go(corpus: Path, out: Path, *changes: str, **options: Any) -> dict[str, Any]:
    return pretrain(corpus, recipe(*changes), out, device="cpu", quiet=True, **options)


def losses(run: Path) -> list[tuple[int, float, float, str]]:
    return [(v["step"], v["loss"], v["grad_norm"], json.dumps(v["loss_by_source"])) for v in read_log(run)]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 18 steps that was never stopped."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    summary = go(corpus, out)
    assert (
        summary["steps"] == summary["total_steps"] == 18
        and summary["images"] == 144
        and summary["stopped"] == ""
    )
    return out


def test_a_run_leaves_what_it_should(whole: Path) -> None:
    assert [v["step"] for v in read_log(whole)] == list(range(1, 19))
    assert (whole / "done").exists()
    assert load_recipe(whole / "recipe.yaml").to_dict() == recipe().to_dict()
    config = json.loads((whole / "latest" / "config.json").read_text())
    assert config["step"] == 18 and config["epoch"] == 3.0 and config["model"]["embed_dim"] == 24
    line = read_log(whole)[-1]
    assert {
        "epoch",
        "samples",
        "loss",
        "grad_norm",
        "loss_by_source",
        "lr",
        "images_per_second",
        "data_wait",
    } <= set(line)
    assert line["samples"] == 144 and set(line["loss_by_source"]) <= {
        "covid-blues",
        "stu-hospital",
        "fetal-planes",
    }
    assert read_log(whole)[-1]["loss"] < read_log(whole)[0]["loss"]


def test_the_same_seed_gives_the_same_losses_and_another_does_not(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    go(corpus, tmp_path / "same")
    assert losses(tmp_path / "same") == losses(whole)
    go(corpus, tmp_path / "other", "training.seed=1")
    assert losses(tmp_path / "other") != losses(whole)


@pytest.mark.parametrize("stops", [[3], [4, 9], [1, 2, 11, 17]])
def test_stopped_and_resumed_is_as_never_stopped(
    corpus: Path, whole: Path, tmp_path: Path, stops: list[int]
) -> None:
    for stop in stops:
        assert go(corpus, tmp_path / "run", max_steps=stop)["steps"] == stop
    go(corpus, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)
    a, b = load_weights(tmp_path / "run").state, load_weights(whole).state
    assert all(torch.equal(a[k], b[k]) for k in b)
    states = [load_state(run / "latest") for run in (tmp_path / "run", whole)]
    assert states[0]["guard"] == states[1]["guard"] and states[0]["cursor"] == states[1]["cursor"]


def test_two_loader_workers_resumed_as_none(corpus: Path, whole: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "run", reading=Reading(workers=2), max_steps=7)
    go(corpus, tmp_path / "run", reading=Reading(workers=0))
    assert losses(tmp_path / "run") == losses(whole)


def test_work_lost_after_the_last_checkpoint_is_done_again(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """As after a crash: the log is ahead of the checkpoint, and the newest checkpoint is cut short."""
    run = tmp_path / "run"
    go(corpus, run, max_steps=11)
    state = run / "checkpoints" / "step-00000011" / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 12, "loss"')
    go(corpus, run)
    assert losses(run) == losses(whole)


def test_log_lines_over_several_steps_are_kept_across_a_stop(corpus: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "a", "report.log_every=5")
    for stop in (3, 8, 18):
        go(corpus, tmp_path / "b", "report.log_every=5", max_steps=stop)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert [v["step"] for v in read_log(tmp_path / "b")] == [5, 10, 15]


def test_a_finished_run_has_nothing_left_to_do(corpus: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    assert go(corpus, tmp_path / "run")["images"] == 0


def test_another_recipe_is_refused_naming_the_field(corpus: Path, whole: Path) -> None:
    with pytest.raises(UsageError, match=r"training\.seed: 0 -> 5"):
        go(corpus, whole, "training.seed=5")


def test_another_corpus_is_refused(whole: Path, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other", {"pretrain": 46}, size=48)
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    with pytest.raises(UsageError, match=r"other: not the data that the run .* was begun on"):
        go(other, run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"identity": ""}))  # nobody has hashed them
    with pytest.raises(CorpusError, match="was made with other data"):
        go(other, run)
    same_count = make_corpus(tmp_path / "same-count", {"pretrain": 44}, size=48, seed=1)
    with pytest.raises(CorpusError, match="was made with other data"):
        go(same_count, run)


def test_a_folder_that_is_no_run_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="is not a pretraining run"):
        go(corpus, tmp_path)


def test_a_run_killed_before_its_recipe_was_written_begins_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("run.json", ".recipe.yaml.part"):
        (tmp_path / name).write_text("{")
    check(tmp_path, recipe())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a pretraining run"):
        check(tmp_path, recipe())


def test_fewer_samples_than_a_batch_and_an_unknown_set(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="44 samples are fewer than one global batch of 64"):
        go(corpus, tmp_path / "a", "training.batch_size=64")
    with pytest.raises(CorpusError, match="pretrain"):
        go(corpus, tmp_path / "b", "data.set=pretrai")


def test_accumulation_gives_the_same_step(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """Parts of 3, 3 and 2 images: the same gradient but for rounding."""
    go(corpus, tmp_path / "run", "training.micro_batch=3")
    for (_, loss, norm, _), (_, other, other_norm, _) in zip(
        losses(tmp_path / "run"), losses(whole), strict=True
    ):
        assert loss == pytest.approx(other, rel=1e-4) and norm == pytest.approx(other_norm, rel=1e-3)


@pytest.mark.parametrize("masking", ["sector", "drawn"])
def test_accumulation_gives_the_same_step_whatever_is_scored(
    corpus: Path, tmp_path: Path, masking: str
) -> None:
    for name, parts in (("whole", 8), ("parts", 3)):
        go(
            corpus,
            tmp_path / name,
            f"objective.masking={masking}",
            f"training.micro_batch={parts}",
            "optim.clip=0.1",
            max_steps=3,
        )
    for (_, loss, norm, _), (_, other, other_norm, _) in zip(
        losses(tmp_path / "parts"), losses(tmp_path / "whole"), strict=True
    ):
        assert loss == pytest.approx(other, rel=1e-4) and norm == pytest.approx(other_norm, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        ["model.decoder=cross", "objective.predict_ratio=0.34"],
        ["objective.masking=sector", "objective.target=denoise"],
        ["objective.masking=drawn", "objective.target=normalised"],
        ["objective.masking=block", "objective.target=deblur"],
        ["objective.masking=frequency", "training.precision=bf16"],
        ["training.precision=bf16-residual"],
        ["model.in_chans=3", "model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]"],
        ["model.positions=learned", "training.checkpointing=true", "optim.decay_all=true"],
        ["data.rotate=1", "data.degrees=90", "data.blur=0.5", "data.speckle=0.5", "data.flip_v=0.5"],
    ],
)  # fmt: skip
def test_every_option_trains_and_resumes_exactly(corpus: Path, tmp_path: Path, changes: list[str]) -> None:
    go(corpus, tmp_path / "a", *changes, max_steps=8)
    go(corpus, tmp_path / "b", *changes, max_steps=5)
    go(corpus, tmp_path / "b", *changes, max_steps=8)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(losses(tmp_path / "a")) == 8


def test_average_of_the_weights(corpus: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "a", "training.ema=0.9", max_steps=6)
    for stop in (2, 6):
        go(corpus, tmp_path / "b", "training.ema=0.9", max_steps=stop)
    a, b = (load_weights(tmp_path / n / "latest" / "ema.safetensors").state for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    go(corpus, tmp_path / "c", "training.ema=0.9", "report.save_every=1", "report.keep=9", max_steps=6)
    before = None
    for folder in sorted((tmp_path / "c" / "checkpoints").iterdir()):
        average, now = (
            load_weights(folder / f"{name}.safetensors").state["mask_token"] for name in ("ema", "weights")
        )
        if before is not None:
            step = int(folder.name[5:])
            decay = min(0.9, (1 + step) / (10 + step))
            torch.testing.assert_close(average, decay * before + (1 - decay) * now)
        before = average


def test_a_short_run_is_not_averaged_with_its_random_start(corpus: Path, whole: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "run", "training.ema=0.9999")
    now = load_weights(whole).state  # the average changes nothing of the run
    average = load_weights(tmp_path / "run" / "latest" / "ema.safetensors").state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = MAE(recipe().mae_config()).state_dict()
    key = "decoder_pred.weight"
    assert (average[key] - now[key]).norm() < 0.5 * (start[key] - now[key]).norm()


def test_beginning_from_other_weights(corpus: Path, whole: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "run", f"model.init={whole}", max_steps=1)
    assert losses(tmp_path / "run")[0][1] < 0.8 * losses(whole)[0][1]
    colour = ["model.in_chans=3", "model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]"]
    go(corpus, tmp_path / "colour", f"model.init={whole}", *colour, max_steps=1)
    assert losses(tmp_path / "colour")[0][1] < 0.8 * losses(whole)[0][1]
    with pytest.raises(WeightsError, match="do not fit the recipe's encoder"):
        go(corpus, tmp_path / "deep", f"model.init={whole}", "model.depth=3")
    weights = load_weights(whole)
    encoder = {k: v for k, v in weights.state.items() if not k.startswith(("decoder", "mask_token"))}
    save_weights(tmp_path / "encoder", encoder, weights.config)
    go(corpus, tmp_path / "fresh-decoder", f"model.init={tmp_path / 'encoder'}", max_steps=1)


def test_a_loss_that_is_no_number_goes_back_and_then_gives_up(corpus: Path, tmp_path: Path) -> None:
    """A learning rate of 1e30 does what a bad batch would: the next loss is not finite."""
    with pytest.raises(DivergedError, match=r"after 2 returns to the last checkpoint; lower optim\.lr"):
        go(corpus, tmp_path / "run", "optim.lr=1e30", "optim.clip=0", "guard.rollbacks=2")
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(v).all() for v in load_weights(folder).state.values())


def test_weights_that_begin_a_run_are_folded_to_its_normalisation(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    changes = [f"model.init={whole}", "model.mean=[0.4]", "model.std=[0.1]"]
    begun = Trainer(
        open_index(corpus), recipe(*changes), tmp_path, World(1, 0, 0, torch.device("cpu")), Reading()
    )
    grey = torch.rand(2, 1, 32, 32)
    expected = build_mae(load_weights(whole)).features((grey - 0.2) / 0.2)
    torch.testing.assert_close(begun.mae.features((grey - 0.4) / 0.1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("step", "place"), [(2, "the beginning"), (8, "step-00000004")])
def test_weights_moments_and_average_go_back_together(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, place: str
) -> None:
    """A gradient overflows, once at the step of a checkpoint: nothing of it is kept."""
    begun: list[Trainer] = []
    backward = Trainer._backward

    def overflow(self: Trainer, *args: Any) -> Any:
        result = backward(self, *args)
        if self.step == step - 1 and not begun:
            begun.append(self)
            self.mae.cls_token.grad.fill_(float("inf"))  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(Trainer, "_backward", overflow)
    summary = go(corpus, tmp_path / "run", "optim.clip=1", "training.ema=0.9", "report.keep=9")
    lines = read_log(tmp_path / "run")
    assert [line["event"] for line in lines if "event" in line] == [
        f"step {step}: the norm of the gradient is inf; back to the weights of {place}, on with the next data"
    ]
    assert summary["steps"] == 18
    assert all(
        math.isfinite(line[name]) for line in lines if "loss" in line for name in ("loss", "grad_norm")
    )
    folders = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [int(folder.name[5:]) for folder in folders] == [k for k in (4, 8, 12, 16, 18) if k != step]
    for folder in folders:
        for name in ("weights.safetensors", "ema.safetensors"):
            assert all(torch.isfinite(v).all() for v in load_weights(folder / name).state.values())


def test_guard_tells_a_leap_from_noise() -> None:
    guard = Guard(GuardRecipe(spike=3.0, rollbacks=1))
    assert all(guard.fault(1.0 + 0.5 * (i % 2)) == "" for i in range(80))
    assert guard.mean == pytest.approx(1.25, abs=0.01)  # from the first losses on, not from 0
    assert "leapt to 9" in guard.fault(9.0)
    assert guard.fault(float("nan")) == "the loss is nan" and guard.fault(float("inf")) == "the loss is inf"
    assert guard.fault(1.2, math.nan) == "the norm of the gradient is nan"
    assert guard.fault(1.2) == ""
    guard.count("x", 1)
    again = Guard(GuardRecipe(spike=3.0, rollbacks=1))
    again.load_state_dict(guard.state_dict())
    with pytest.raises(DivergedError):
        again.count("the loss is nan", 7)


def test_the_terminal_shows_no_interrupt_while_a_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with open(theirs) as terminal, open(ours):  # noqa: PTH123  # descriptors, no paths

        def shows() -> bool:
            return bool(termios.tcgetattr(terminal)[3] & termios.ECHOCTL)

        monkeypatch.setattr(sys, "stdin", terminal)
        with unechoed():  # not our terminal: another session's, or we are in the background
            assert shows()
        monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp())
        with pytest.raises(KeyboardInterrupt), unechoed():
            assert not shows()
            raise KeyboardInterrupt
        assert shows()


def test_time_limit_stops_with_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    summary = go(corpus, tmp_path / "run", "training.epochs=3000", max_time=1.5)
    assert not (tmp_path / "run" / "done").exists()
    assert summary["stopped"] == "time" and 0 < summary["steps"] < summary["total_steps"]
    assert json.loads((tmp_path / "run" / "latest" / "config.json").read_text())["step"] == summary["steps"]


def test_tensorboard_has_the_scalars(corpus: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(corpus, tmp_path / "run", "report.tensorboard=true", max_steps=3)
    go(corpus, tmp_path / "run", "report.tensorboard=true", max_steps=5)
    board = EventAccumulator(str(tmp_path / "run" / "tb"))
    board.Reload()
    assert [e.step for e in board.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert "loss_by_source/covid-blues" in board.Tags()["scalars"]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_decoded_pictures_kept_give_the_same_losses(
    corpus: Path, whole: Path, tmp_path: Path, where: str
) -> None:
    decoded = "memory" if where == "memory" else str(tmp_path / "cache")
    go(corpus, tmp_path / "run", reading=Reading(decoded=decoded), max_steps=9)
    go(corpus, tmp_path / "run", reading=Reading(decoded=decoded, workers=1))
    assert losses(tmp_path / "run") == losses(whole)


def test_where_pictures_are_decoded(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """Without a GPU there is no choice to measure; with one, a deterministic recipe or a decoded cache settle it."""
    go(corpus, tmp_path / "run", reading=Reading(decode="auto"), max_steps=2)
    assert losses(tmp_path / "run") == losses(whole)[:2]
    with pytest.raises(UsageError, match="--decode gpu: this run computes on cpu; use auto or cpu"):
        go(corpus, tmp_path / "gpu", reading=Reading(decode="gpu"))
    with pytest.raises(UsageError, match="--decode gup: use auto, cpu or gpu; did you mean 'gpu'"):
        Reading(decode="gup")
    world = World(1, 0, 0, torch.device("cuda", 0))
    loader = Loader(open_index(corpus), batch_size=8, size=32, seed=0)
    assert decoding_device(loader, recipe("training.deterministic=true"), world, Reading()) is None
    assert decoding_device(loader, recipe(), world, Reading(decoded="memory")) is None
    assert decoding_device(loader, recipe(), world, Reading(decode="cpu")) is None
    assert decoding_device(loader, recipe(), world, Reading(decode="gpu")) == world.device
    with pytest.raises(UsageError, match="give one of the two"):
        decoding_device(loader, recipe(), world, Reading(decode="gpu", decoded="memory"))


def test_a_mixture_draws_more_of_what_it_favours(corpus: Path, tmp_path: Path) -> None:
    only = "data.mixture.factors={covid-blues: 0, fetal-planes: 0}"
    go(corpus, tmp_path / "a", only, max_steps=6)
    assert {name for line in read_log(tmp_path / "a") for name in line["loss_by_source"]} == {"stu-hospital"}
    with pytest.raises(UsageError, match="no source 'stu'"):
        go(corpus, tmp_path / "b", "data.mixture.factors={stu: 2}")
    with pytest.raises(UsageError, match=r"unknown field 'data\.mixture\.cop'; did you mean 'cap'"):
        recipe("data.mixture.cop=1")


def test_a_run_shows_itself(corpus: Path, tmp_path: Path) -> None:
    """Grids at checkpoints, probes after epochs, curves at the end; and none of it moves a loss."""
    run = tmp_path / "run"
    probe = ["report.probe_set=bus-bra", "report.probe_label=pathology", "report.probe_every=2"]
    go(corpus, run, "report.pictures=2", "report.figure=true", *probe)
    assert sorted(p.name for p in (run / "pictures").iterdir())[-1] == "step-00000018.png"
    assert (run / "curves.png").stat().st_size > 10_000
    probes = [line for line in read_log(run) if "probe" in line]
    assert [line["epoch"] for line in probes] == [2.0]
    assert 0 <= probes[0]["probe"]["knn"] <= 1 and probes[0]["probe"]["chance"] == 0.5
    plain = tmp_path / "plain"
    go(corpus, plain)
    steps = [line for line in read_log(run) if "loss" in line]
    assert [line["loss"] for line in steps] == [line["loss"] for line in read_log(plain)]
    with pytest.raises(
        UsageError, match=r"report\.probe_label 'patholgy': no sample .* did you mean 'pathology'"
    ):
        go(corpus, tmp_path / "c", "report.probe_set=bus-bra", "report.probe_label=patholgy")


@pytest.mark.long
def test_a_compiled_run_has_the_losses_of_a_plain_one(corpus: Path, whole: Path, tmp_path: Path) -> None:
    go(corpus, tmp_path / "run", "training.compile=true", max_steps=4)
    go(corpus, tmp_path / "run", max_steps=6)
    for (_, loss, _, _), (_, other, _, _) in zip(losses(tmp_path / "run"), losses(whole), strict=False):
        assert loss == pytest.approx(other, rel=1e-4)
    assert len(losses(tmp_path / "run")) == 6
