"""What weights have seen before: a test part is only worth something to a model that never learned from it.

Pretraining may take in the training folds of a benchmark (`data.also` of its recipe), and a fine-tuned model may
be fine-tuned again for another task. Both leave in config.json which published splits of which sets they used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from usfmae.model.runs import newest_whole
from usfmae.model.weights import CONFIG
from usfmae.tasks.data.labelled import LabelledSet
from usfmae.tasks.data.splits import Ints, Split
from usfmae.tasks.network.start import Start

Seen = dict[str, list[str]]
"""Set to the published split words of the samples that were learned from; EVERY for the whole set, "" for samples
whose split nobody published."""
EVERY = "*"


def config_of(start: Start) -> dict[str, Any]:
    """What the folder of the weights says of them; empty for weights that others wrote."""
    if start.weights is None:
        return {}
    folder = Path(start.weights)
    if (folder / "checkpoints").is_dir():
        folder = newest_whole(folder, say=lambda _: None) or folder
    try:
        config: Any = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def own_size(start: Start) -> int | None:
    """The side in pixels that the weights of `start` were trained at; None where they do not say."""
    config = config_of(start)
    size = config.get("model", {}).get("img_size") or config.get("input", {}).get("size")
    return size if isinstance(size, int) else None


def seen_by(start: Start) -> Seen:
    """What the weights of `start` were trained on, as far as they say; empty where they do not."""
    config = config_of(start)
    data = config.get("recipe", {}).get("data", {})
    also = {name: list(words) for name, words in data.get("also", {}).items()}
    return merged(config.get("seen", {}), also, {data["set"]: [EVERY]} if "set" in data else {})


def learned(data: LabelledSet, rows: Ints) -> Seen:
    """The published splits of the samples at `rows`."""
    return {data.benchmark.set: sorted({data.published[i] for i in rows.tolist()})}


def merged(*parts: Seen) -> Seen:
    """All that any of them saw."""
    names = sorted({name for part in parts for name in part})
    return {name: sorted({word for part in parts for word in part.get(name, ())}) for name in names}


def seen_notes(start: Start, data: LabelledSet, split: Split) -> list[str]:
    """A note for the report where the weights have learned from the splits that are tested on."""
    name = data.benchmark.set
    seen = seen_by(start).get(name, ())
    twice = [word for word in learned(data, split.test)[name] if word in seen]
    if EVERY in seen:
        what = f"all of {name}, what is tested here included: the scores are those of known images"
    elif any(twice):
        what = f"{', '.join(filter(None, twice))} of {name}, which is tested here: the scores are those of known images"
    elif twice:
        what = f"images of {name}, whose splits nobody published: some of those tested here may be known"
    else:
        return []
    return [f"the weights {start.weights} were trained on {what}"]
