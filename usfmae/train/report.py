"""One page about a run: ``RUN/report.html``, of what lies in the run folder. It holds its pictures."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from usfmae import __version__
from usfmae.model.weights import write_atomic
from usfmae.train.log import read_log

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(run: Path, said: Mapping[str, str] | None = None) -> Path:
    """Write the page of a run that has at least one line of log and one checkpoint; returns its path.

    said: further facts, such as where it was computed.
    """
    lines = read_log(run)
    steps = [line for line in lines if "loss" in line]
    stored = json.loads((run / "latest" / "config.json").read_text())
    about = json.loads((run / "run.json").read_text())
    recipe = stored["recipe"]
    grids = sorted((run / "pictures").glob("step-*.png")) if (run / "pictures").is_dir() else []
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text()).render(
        name=recipe["name"],
        state=f"step {stored['step']:,}, epoch {stored['epoch']:g} of {recipe['training']['epochs']}",
        facts=[*_facts(steps, stored, about), *(said or {}).items()],
        events=[(line["step"], line["event"]) for line in lines if "event" in line],
        probes=[(line["epoch"], line["probe"]) for line in lines if "probe" in line],
        curves=_picture(run / "curves.png"),
        grid=_picture(grids[-1]) if grids else "",
        recipe=(run / "recipe.yaml").read_text(),
        version=__version__,
    )
    path = run / "report.html"
    write_atomic(path, page.encode())
    return path


def _facts(
    steps: list[dict[str, Any]], stored: Mapping[str, Any], about: Mapping[str, Any]
) -> list[tuple[str, str]]:
    model, training = stored["model"], stored["recipe"]["training"]
    facts = [
        ("data", f"{stored['data']['samples']:,} images of set {stored['data']['set']}, {about['data']}"),
        ("network", f"{model['depth']} blocks of {model['embed_dim']}, images of {model['img_size']} pixels in patches "
                    f"of {model['patch_size']}, {model['decoder']} decoder"),
        ("step", f"{training['batch_size']:,} images, {training['precision']}"),
    ]  # fmt: skip
    if not steps:
        return facts
    last = steps[-1]
    facts.append(("loss", f"{last['loss']:.4f} (at first {steps[0]['loss']:.4f})"))
    speed = f"{statistics.median(line['images_per_second'] for line in steps):,.1f} images a second"
    wait = statistics.fmean(line["data_wait"] for line in steps)
    facts.append(("speed", f"{speed} (median); {wait:.1%} of the time waiting for data"))
    for key, name, show in (
        ("tflops", "arithmetic", "{:,.4f} TFLOP/s"), ("mfu", "of the device's peak", "{:.1%}"),
        ("memory_gib", "memory", "{:.2f} GiB at most"),
    ):  # fmt: skip
        values = [line[key] for line in steps if key in line]
        if values:
            facts.append(
                (name, show.format(max(values) if key == "memory_gib" else statistics.median(values)))
            )
    bad = max(line.get("bad_samples", 0) for line in steps)
    facts.append(("bad samples", f"{bad:,} replaced by the next in order" if bad else "none"))
    return facts


def _picture(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
