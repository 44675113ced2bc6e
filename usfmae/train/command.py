"""What `usfmae pretrain` does with its options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openus.console import out as stdout
from openus.console import print_json, show_log
from openus.errors import UsageError
from usfmae.train.recipe import load_recipe


def pretrain_command(
    data: str,
    recipe_name: str,
    out: Path,
    *,
    overrides: Sequence[str],
    max_steps: int | None,
    max_time: str | None,
    plan: bool,
    ranks: int | None,
    decoded: str,
    decode: str,
    shard_cache: Path | None,
    shard_cache_gb: float,
    strict_data: bool,
    workers: int,
    seed: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run, or plan, and print the result."""
    if seed is not None:
        overrides = [*overrides, f"training.seed={seed}"]
    recipe = load_recipe(recipe_name, overrides)
    seconds = None if max_time is None else parse_time(max_time)
    if plan:
        from usfmae.train.planning import plan_command

        plan_command(data, recipe, ranks=ranks or 1, device=device, as_json=as_json)
        return
    from usfmae.train.data import Reading
    from usfmae.train.loop import pretrain

    show_log("usfmae.stream", quiet or os.environ.get("RANK", "0") != "0")
    reading = Reading(
        workers=workers, strict=strict_data, decoded=decoded, decode=decode, shard_cache=str(shard_cache or ""),
        shard_cache_gb=shard_cache_gb,
    )  # fmt: skip
    summary = pretrain(
        data, recipe, out, reading=reading, device=device, max_steps=max_steps, max_time=seconds, quiet=quiet
    )
    if summary.pop("rank"):  # one process speaks for all
        return
    if as_json:
        print_json(summary)
        return
    stdout.print(told(summary), soft_wrap=True)
    if summary["bad_samples"]:
        stdout.print(
            f"{summary['bad_samples']:,} bad samples were replaced by the next in order; 'openus verify' lists them",
            soft_wrap=True,
        )
    stdout.print(
        f"run: {summary['run']}; look at it with: usfmae reconstruct {summary['run']}", soft_wrap=True
    )


def told(summary: Mapping[str, Any]) -> str:
    """How a run ended, in one line."""
    done = "done"
    if summary["steps"] < summary["total_steps"]:
        done = "stopped; the same command goes on" if summary["stopped"] else "stopped by --max-steps"
    rate = summary["images"] / max(summary["seconds"], 1e-9)
    now = f"{summary['images']:,} images in {summary['seconds']:.0f} s ({rate:,.0f} a second)"
    return (
        f"{done}: step {summary['steps']:,} of {summary['total_steps']:,}, loss {summary['loss']:.4f}, "
        f"{now if summary['images'] else 'nothing left to do'}"
    )


def parse_time(text: str) -> float:
    """Seconds of "90s", "30m", "11h30m", "2d" or "45" (seconds). Raises `UsageError`."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip().lower())
    if match is None or not any(match.groups()):
        raise UsageError(f"--max-time {text}: not a time; write 90s, 30m, 11h30m or 2d")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
