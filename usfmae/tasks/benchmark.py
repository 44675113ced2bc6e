"""`usfmae benchmark`: several models on several benchmarks under one protocol, and the table of it.

    OUT/runs/BENCHMARK/MODEL/seed0/fold1/   each run, as `usfmae finetune` leaves it
    OUT/results.json  OUT/table.md  OUT/table.csv  OUT/table.tex  OUT/table.png

Runs that are finished are read, an interrupted one goes on, so that the same command given again always
continues. Images are decoded once for all models that want the same size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openus import __version__, console
from openus.engine.local import leave_with_parent
from openus.errors import OpenUSError, UsageError, did_you_mean
from openus.manifest import Benchmark
from openus.storage.locks import disk_told
from usfmae.tasks.data.labelled import LabelledSet, find_benchmark
from usfmae.tasks.data.splits import Split
from usfmae.tasks.finetune import TASKS, choose_folds, load_with_progress, test_part
from usfmae.tasks.network.device import pick_device
from usfmae.tasks.network.start import FOLD, Start
from usfmae.tasks.recipe import FinetuneRecipe, load_recipe
from usfmae.tasks.report.names import NAMES, figure
from usfmae.tasks.report.table import write_tables
from usfmae.tasks.runs import METRICS, Job, network_for, run, write_json
from usfmae.tasks.scores.compare import Runs, mean_scores, paired, summary
from usfmae.tasks.task import Task
from usfmae.tasks.training.loop import Samples, measure_rate


@dataclass(frozen=True)
class Entry:
    """A row of the table: a model, its name, and the recipe it is trained with."""

    name: str
    start: Start
    recipe: FinetuneRecipe


@dataclass(frozen=True)
class Plan:
    """One run of the table."""

    entry: Entry
    benchmark: Benchmark
    protocol: str
    seed: int
    split: Split
    folder: Path

    @property
    def label(self) -> str:
        """What the run is called in messages."""
        return f"{self.benchmark.name}, {self.entry.name}, seed {self.seed}, {self.split.name}"


def parse_model(word: str, pretrained: FinetuneRecipe, scratch: FinetuneRecipe) -> Entry:
    """A model as given on the command line: ``[NAME=]SPEC``.

    SPEC: a path (run, checkpoint folder, weights file; ``{fold}`` in it: another one for each fold);
    ``timm:NAME`` (random weights); ``timm:NAME+pretrained`` (timm's published ones); ``scratch:SIZE`` (our ViT from
    random weights, ``small`` or ``small/8``). UsageError for anything else.
    """
    name, equals, spec = word.rpartition("=")
    if spec.startswith("timm:"):
        model, plus, what = spec.removeprefix("timm:").partition("+")
        if plus and what != "pretrained":
            raise UsageError(
                f"model '{word}': after + only 'pretrained' is known{did_you_mean(what, ['pretrained'])}"
            )
        start = Start(timm=model, pretrained=bool(plus))
    elif spec.startswith("scratch:"):
        start = Start(size=spec.removeprefix("scratch:"))
    else:
        if FOLD not in spec and not Path(spec).exists():
            raise UsageError(
                f"model '{word}': no such file or folder '{spec}'; other ways: timm:NAME, timm:NAME+pretrained, "
                "scratch:SIZE"
            )
        start = Start(weights=spec)
    if equals and not re.fullmatch(r"[\w.+-]+", name):
        raise UsageError(f"model '{word}': the name may hold letters, digits and . _ + - only")
    return Entry(name if equals else start.name, start, scratch if start.fresh else pretrained)


def own_recipes(entries: Sequence[Entry], words: Sequence[str], changes: Sequence[str]) -> list[Entry]:
    """Entries with the recipes that ``NAME=RECIPE`` words give to some; UsageError for a name there is not."""
    recipes = dict(word.partition("=")[::2] for word in words)
    names = [entry.name for entry in entries]
    for name in recipes:
        if name not in names:
            raise UsageError(
                f"--recipe-of {name}: no such model{did_you_mean(name, names)} (known: {', '.join(names)})"
            )
    return [
        replace(entry, recipe=load_recipe(recipes[entry.name], changes)) if entry.name in recipes else entry
        for entry in entries
    ]


def benchmark(
    data: str | Path,
    entries: Sequence[Entry],
    names: Sequence[str],
    out: Path,
    *,
    protocol: str | None = None,
    folds: Sequence[int] | None = None,
    seeds: int = 1,
    resamples: int = 1000,
    device: str = "auto",
    jobs: int = 1,
    quiet: bool = False,
    plan_only: bool = False,
) -> dict[str, Any]:
    """Run what is not yet done, write the tables, and return what results.json holds.

    The first entry is the one that the others are compared with. jobs: runs at the same time, each in a process of
    its own; a small model alone leaves a large GPU idle. A run that fails is named in ``failed``; the table is made
    of the others. Raises UsageError before anything runs.
    """
    twice = {entry.name for entry in entries if sum(other.name == entry.name for other in entries) > 1}
    if twice:
        raise UsageError(f"two models are called '{sorted(twice)[0]}'; give them names: NAME=SPEC")
    on = pick_device(device)
    declared = [find_benchmark(name) for name in names]
    shelf = Shelf(data, quiet)
    plans = [
        plan
        for one in declared
        for entry in entries
        for plan in make_plans(shelf, entry, one, out, protocol, folds, seeds)
    ]
    models = estimate(shelf, plans, on)
    expected = sum(models.values())
    pending = [plan for plan in plans if not (plan.folder / METRICS).is_file()]
    if plan_only:
        return {"runs": len(plans), "to_do": len(pending), "expected_seconds": expected, "models": models}
    if not quiet:
        most = (" one after another" if jobs > 1 else "") + " on this machine" if pending else ""
        console.err.print(f"{told_plan(len(plans), len(pending), expected)}{most}", soft_wrap=True)
    failed = _run_all(shelf, plans, on, jobs, quiet)
    result = collect(shelf, plans, entries, declared, failed, resamples)
    write_json(out / "results.json", result)
    write_tables(out, result)
    return result


class Shelf:
    """Decoded sets, kept by what was asked of them."""

    def __init__(self, data: str | Path, quiet: bool) -> None:
        self.data, self.quiet = data, quiet
        self._sets: dict[tuple[Any, ...], LabelledSet] = {}

    def get(self, declared: Benchmark, recipe: FinetuneRecipe) -> LabelledSet:
        key = (declared.name, recipe.size, recipe.aspect, recipe.frames_per_clip)
        if key not in self._sets:
            self._sets[key] = load_with_progress(self.data, declared, recipe, self.quiet)
        return self._sets[key]


def make_plans(
    shelf: Shelf, entry: Entry, declared: Benchmark, out: Path, protocol: str | None,
    folds: Sequence[int] | None, seeds: int,
) -> list[Plan]:  # fmt: skip
    """The runs of one model on one benchmark."""
    labelled = shelf.get(declared, entry.recipe)
    name = protocol or next(iter(declared.protocols))
    place = out / "runs" / declared.name / entry.name
    return [
        Plan(entry, declared, name, seed, split, place / f"seed{seed}" / split.name)
        for seed in range(seeds)
        for split in choose_folds(labelled.splits(name, seed), folds)
    ]


def _job(shelf: Shelf, plan: Plan) -> Job:
    labelled = shelf.get(plan.benchmark, plan.entry.recipe)
    task = TASKS[plan.benchmark.task](labelled, plan.entry.recipe)
    return Job(task, plan.split, plan.entry.start.of_fold(plan.split.name), plan.protocol, plan.seed)


def estimate(shelf: Shelf, plans: Sequence[Plan], device: torch.device) -> dict[str, float]:
    """Seconds that the unfinished runs of each model take at most: a few training steps of each are timed."""
    seconds, rates = {plan.entry.name: 0.0 for plan in plans}, {}
    for plan in plans:
        if (plan.folder / METRICS).is_file():
            continue
        recipe, key = plan.entry.recipe, (plan.entry.name, plan.benchmark.name)
        if key not in rates:
            labelled = shelf.get(plan.benchmark, recipe)
            task = TASKS[plan.benchmark.task](labelled, recipe)
            fold = plan.split.name
            network = network_for(task, plan.entry.start.of_fold(fold), fold).to(device)
            rows = np.arange(min(recipe.batch_size, len(labelled)))
            samples = Samples(
                torch.from_numpy(labelled.images[rows]).to(device),
                torch.from_numpy(labelled.targets[rows]).to(device),
            )
            rates[key] = measure_rate(network, samples, recipe)
        # Scoring the validation part costs about a third of training on as many images.
        per_epoch = len(plan.split.train) + len(plan.split.val) / 3
        seconds[plan.entry.name] += recipe.epochs * per_epoch / rates[key]
    return seconds


def _run_all(
    shelf: Shelf, plans: Sequence[Plan], device: torch.device, jobs: int, quiet: bool
) -> list[dict[str, str]]:
    """Every run, finished ones read; a line for each as it ends. What failed, with the reason."""
    failed = []
    began, told = time.monotonic(), 0
    to_do = sum(not (plan.folder / METRICS).is_file() for plan in plans)
    for number, (plan, new, (said, well)) in enumerate(_results(shelf, plans, device, jobs, quiet), 1):
        told += new
        head = f"[{number}/{len(plans)}] {plan.label}: "
        if not well:
            failed.append({"run": plan.label, "error": said})
            console.err.print(head + said, style="red", markup=False, soft_wrap=True)
        elif not quiet:
            spent = time.monotonic() - began
            left = f", about {told_time(spent / told * (to_do - told))} left" if told and to_do > told else ""
            console.err.print(f"{head}{said} ({told_time(spent)}{left})", markup=False, soft_wrap=True)
    return failed


Ending = tuple[str, bool]
"""What a run is told by: its main score, or what went wrong; and whether it went well."""


def _results(
    shelf: Shelf, plans: Sequence[Plan], device: torch.device, jobs: int, quiet: bool
) -> Iterator[tuple[Plan, bool, Ending]]:
    """Each run as it ends, and whether it ran now."""
    new = {plan.folder: not (plan.folder / METRICS).is_file() for plan in plans}
    if jobs == 1:
        for plan in plans:
            yield plan, new[plan.folder], _one(shelf, plan, device, quiet)
        return
    cores = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")  # a forked process could not use the GPU
    with ProcessPoolExecutor(jobs, context, _begin, (shelf, cores)) as pool:
        waiting = {pool.submit(_one_here, plan, device): plan for plan in plans}
        try:
            for future in as_completed(waiting):
                plan = waiting[future]
                try:
                    ending = future.result()
                except BrokenProcessPool:
                    ending = "its process was killed (memory?); give fewer --jobs, and run again", False
                yield plan, new[plan.folder], ending
        except BaseException:
            # Stopped: what waits is not begun, and what runs goes on from its state the next time.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _one(shelf: Shelf, plan: Plan, device: torch.device, quiet: bool) -> Ending:
    try:
        with disk_told(plan.folder):
            result = run(_job(shelf, plan), plan.folder, device, quiet)
    except OpenUSError as error:
        return str(error), False
    except torch.OutOfMemoryError:
        return (
            f"the memory of {device} does not hold it; give fewer --jobs, or --set batch_size=N with a smaller N",
            False,
        )
    main = TASKS[plan.benchmark.task].shown[0]
    return f"{NAMES[main]} {figure(main, result['metrics'][main]['value'])}", True


_shelf: Shelf | None = None  # of a process that makes runs for another


def _begin(shelf: Shelf, threads: int) -> None:
    global _shelf
    _shelf = shelf
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says that it was stopped
    leave_with_parent()
    torch.set_num_threads(threads)


def _one_here(plan: Plan, device: torch.device) -> Ending:
    assert _shelf is not None
    return _one(_shelf, plan, device, True)


def told_plan(runs: int, to_do: int, seconds: float) -> str:
    """How much there is to do."""
    return f"{runs} runs, {f'{to_do} to do, at most about {told_time(seconds)}' if to_do else 'all of them done'}"


def told_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def collect(
    shelf: Shelf, plans: Sequence[Plan], entries: Sequence[Entry], declared: Sequence[Benchmark],
    failed: list[dict[str, str]], resamples: int,
) -> dict[str, Any]:  # fmt: skip
    """All finished runs as one result: a cell per model and benchmark."""
    bad = {item["run"] for item in failed}
    cells: dict[str, dict[str, Any]] = {entry.name: {} for entry in entries}
    for one in declared:
        reference: Runs | None = None
        for entry in entries:
            mine = [plan for plan in plans if plan.benchmark is one and plan.entry is entry]
            if not mine or bad & {plan.label for plan in mine}:
                continue
            seeds = read_predictions(mine, TASKS[one.task](shelf.get(one, entry.recipe), entry.recipe))
            cell = _cell(mine, seeds, resamples)
            if reference is None and entry is entries[0]:
                reference = seeds
            elif reference is not None:
                found = paired(reference, seeds, resamples)
                cell["reference_minus_this"] = {name: vars(value) for name, value in found.items()}
            cells[entry.name][one.name] = cell
    return {
        "models": [entry.name for entry in entries],
        "recipes": {entry.name: entry.recipe.to_dict() for entry in entries},
        "benchmarks": {
            one.name: {
                "title": one.title, "task": one.task, "shown": list(TASKS[one.task].shown),
                "published": dict(one.published), "protocol": _protocol(plans, one),
            }
            for one in declared
        },
        "cells": cells, "failed": failed, "version": __version__,
    }  # fmt: skip


def _protocol(plans: Sequence[Plan], declared: Benchmark) -> str:
    return next((plan.protocol for plan in plans if plan.benchmark is declared), "")


def _cell(plans: Sequence[Plan], seeds: Runs, resamples: int) -> dict[str, Any]:
    results = [json.loads((plan.folder / METRICS).read_text()) for plan in plans]
    leaks = sum(bool(result["leaks"]) for result in results)
    cell = {
        "runs": len(plans), "folds": len(seeds[0]), "seeds": len(seeds), "over_runs": summary(results),
        "scores": mean_scores(seeds, resamples), "runs_with_leaks": leaks,
        "seconds": sum(result["seconds"] for result in results),
        "known_images": sorted({note for result in results for note in result.get("known_images", [])}),
    }  # fmt: skip
    if leaks:
        cell["without_leaks"] = summary([result.get("without_leaks", result) for result in results])
    return cell


def read_predictions(plans: Sequence[Plan], task: Task) -> Runs:
    """Test predictions of each seed, and in it of each fold."""
    seeds = sorted({plan.seed for plan in plans})
    return [[test_part(plan.folder, task) for plan in plans if plan.seed == seed] for seed in seeds]
