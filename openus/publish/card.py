"""The dataset card, and the other documents of a published repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openus import __version__
from openus.manifest import PRETRAIN
from openus.publish.citations import bibliography, citation, licences
from openus.publish.croissant import croissant
from openus.publish.gate import CLASSES, LICENCES, PERMITTED
from openus.publish.plan import Plan, Repository, split_of
from openus.report.pictures import Shelf, sheet, shrink
from openus.shards.pack import MASK
from openus.shards.writer import ShardInfo
from openus.storage.files import write_bytes

PICTURES = "pictures.png"
_SHOWN_SOURCES, _SHOWN_EACH = 8, 8


def write_documents(
    plan: Plan, repository: Repository, folder: Path, shards: dict[str, list[ShardInfo]]
) -> list[str]:
    """Write card, notices, Croissant and, where the licences allow it, a sheet of pictures; returns their names."""
    files = {
        "LICENSES.md": licences(repository.sources, plan.permits, repository.pixels),
        "CITATIONS.bib": bibliography(repository.sources),
        "README.md": card(plan, repository, shards),
        "croissant.json": croissant(plan, repository, folder, shards),
    }
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
    if shows_pictures(repository):
        write_bytes(folder / PICTURES, _pictures(plan, repository))
        return [*files, PICTURES]
    (folder / PICTURES).unlink(missing_ok=True)
    return list(files)


def shows_pictures(repository: Repository) -> bool:
    """A sheet of small pictures is an adaptation: only where adaptations may be passed on."""
    return repository.pixels and "-nd" not in repository.to


def _pictures(plan: Plan, repository: Repository) -> bytes:
    """Up to eight samples each of up to eight sources, drawn by the corpus's seed; a row of the sheet for each."""
    shelf = Shelf(plan.root, plan.summary)
    rng = np.random.default_rng(plan.seed)
    tiles = []
    for slug in list(repository.sources)[:_SHOWN_SOURCES]:
        found: list[dict[str, Any]] = []
        for name, table in repository.rows.items():
            if not name.endswith(MASK):
                places = np.flatnonzero(np.array([s == slug for s in table["source"].to_pylist()]))
                found += table.take(rng.permutation(places)[:_SHOWN_EACH]).to_pylist()
        shown = [pixels for row in found[:_SHOWN_EACH] if (pixels := shelf.picture(row)) is not None]
        tiles += [shrink(pixels) for pixels in shown]
        tiles += [np.zeros((1, 1), np.uint8)] * (-len(shown) % _SHOWN_EACH)
    return sheet(tiles)


def header(plan: Plan, repository: Repository, shards: dict[str, list[ShardInfo]]) -> str:
    """The YAML that the Hub reads. Splits and files are named, so that nothing is inferred from names of folders."""
    names = {LICENCES.get(entry["licence"], ("", "other"))[1] for entry in repository.sources.values()}
    licence = names.pop() if len(names) == 1 and repository.pixels and repository.to != PERMITTED else "other"
    facts: dict[str, Any] = {"license": licence}
    if licence == "other":
        facts |= {"license_name": f"openus-{repository.to}", "license_link": "LICENSES.md"}
    facts |= {
        "pretty_name": f"{plan.summary['corpus']['title'] or plan.name} ({repository.to})",
        "task_categories": ["image-feature-extraction", "image-classification"],
        "size_categories": [_size_category(repository.samples)],
        "tags": ["ultrasound", "medical", "image", "webdataset" if repository.pixels else "recipe"],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if number == 0 else {}),
                "data_files": [{"split": split_of(name), "path": _glob(repository, name)}],
            }
            for number, name in enumerate(shards)
        ],
    }
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110)


def _glob(repository: Repository, name: str) -> str:
    return f"{name}/{name}-*.tar" if repository.pixels else f"rows/{name}-[0-9]*.parquet"


def _size_category(count: int) -> str:
    for limit, word in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if count < limit:
            return word
    return "1M<n<10M"


def card(plan: Plan, repository: Repository, shards: dict[str, list[ShardInfo]]) -> str:
    """README.md of the repository."""
    title = plan.summary["corpus"]["title"] or plan.name
    parts = [
        f"---\n{header(plan, repository, shards)}---",
        f"# {title}: {repository.to}",
        _intro(plan, repository),
        "## Contents\n\n" + _contents(repository, shards),
        *(["![One row of samples for each source](pictures.png)"] if shows_pictures(repository) else []),
        "## Loading\n\n" + _loading(plan, repository, shards),
        "## Sources\n\n" + _sources(repository),
        *(
            ["## Permissions relied on\n\n" + _permissions(plan, repository)]
            if repository.to == PERMITTED
            else []
        ),
        "## Rebuilding\n\n" + _rebuilding(repository),
        "## What was done to the pictures\n\n" + _processing(plan),
        "## Known limits\n\n" + _limits(plan, repository),
        "## Citing\n\nCite the papers of the sources you use (`CITATIONS.bib` has all of them), and OpenUS. Terms of "
        "each source: `LICENSES.md`.",
    ]
    return "\n\n".join(parts) + "\n"


def _intro(plan: Plan, repository: Repository) -> str:
    text = (
        f"Ultrasound pictures of {len(repository.sources)} public datasets, decoded, deduplicated and packed by openus "
        f"{__version__}. Terms of this part: **{CLASSES[repository.to]}**."
        if repository.pixels
        else f"Rows about ultrasound pictures of {len(repository.sources)} public datasets whose terms do not clearly "
        "allow passing the pictures on: where each comes from, its hashes, split and duplicate cluster. **There are no "
        "pixels here**; those who have the data build the same shards from these rows."
    )
    others = [f"`{other.name}`" for other in plan.repositories if other.name != repository.name]
    return text + (f" Other parts of the corpus: {', '.join(others)}." if others else "")


def _contents(repository: Repository, shards: dict[str, list[ShardInfo]]) -> str:
    lines = ["| config | split | samples | shards | MB |", "|---|---|---:|---:|---:|"]
    for name, infos in shards.items():
        size = sum(info.bytes for info in infos) / 1e6
        samples = sum(info.samples for info in infos)
        lines.append(f"| {name} | {split_of(name)} | {samples:,} | {len(infos)} | {size:,.1f} |")
    if not repository.pixels:
        lines.append("\nShards and megabytes are those of the rebuilt corpus; here are only the rows.")
    return "\n".join(lines)


def _loading(plan: Plan, repository: Repository, shards: dict[str, list[ShardInfo]]) -> str:
    first = next(iter(shards))
    if not repository.pixels:
        return (
            "```python\nimport datasets\n\n"
            f'rows = datasets.load_dataset("{repository.address}", "{first}", split="{split_of(first)}")\n```'
        )
    last = len(shards[first]) - 1
    numbers = f"{{000000..{last:06d}}}" if last else "000000"
    train = ""
    if PRETRAIN in shards:
        train = f"""```sh
usfmae pretrain hf://datasets/{repository.address} --out RUN  # each sample once an epoch, exact resume
```

"""
    return f"""```python
import datasets

data = datasets.load_dataset("{repository.address}", "{first}", split="{split_of(first)}", streaming=True)
sample = next(iter(data))  # "{plan.extension(first)}": the picture, "json": its row, "__key__"
```

```python
import webdataset

url = "https://huggingface.co/datasets/{repository.address}/resolve/main/{first}/{first}-{numbers}.tar"
data = webdataset.WebDataset(url, shardshuffle=False).decode("l")
```

{train}`manifest/` holds the same rows as Parquet, with the byte range of every picture, and `rejected.parquet`, a
row per input that was not kept. It belongs to no config: read it with pandas. `labels` is a JSON object as text."""


def _sources(repository: Repository) -> str:
    counts = repository.counts()
    lines = ["| source | anatomy | set | samples | licence | cite |", "|---|---|---|---:|---|---|"]
    for slug, entry in repository.sources.items():
        facts = entry["manifest"]
        name = f"[{facts['name']}]({facts['homepage']})" if facts.get("homepage") else facts["name"]
        url = facts["licence"].get("url")
        terms = f"[{entry['licence']}]({url})" if url else entry["licence"]
        cited = citation(facts) or "as its page says"
        cells = (name, facts["anatomy"], entry["set"], f"{counts[slug]:,}", terms, cited)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _permissions(plan: Plan, repository: Repository) -> str:
    lines = []
    for slug in repository.sources:
        quoted = "\n".join(f"> {line}" for line in plan.permits[slug].splitlines())
        stated = repository.sources[slug]["licence"]
        lines.append(
            f"**{slug}** (its page says: {stated}). The publisher of this repository relies on:\n\n{quoted}"
        )
    return "\n\n".join(lines)


def _rebuilding(repository: Repository) -> str:
    what = "compares every shard with the SHA-256 in `recipe.json`"
    return (
        f"```sh\nopenus build OUT --from-recipe {repository.address}\n```\n\nfetches what is open, says what a person "
        f"must do for the rest (or takes `--local SLUG=PATH`), and {what}."
    )


def _processing(plan: Plan) -> str:
    clean = plan.summary["corpus"]["clean"]
    pack = plan.summary["corpus"]["pack"]
    size = "native size" if clean["size"] == "native" else f"short side {clean['size']} px at most"
    return (
        f"Grey, {size} ({clean['filter']} filter), cleaning level `{clean['level']}`; pretraining pictures as "
        f"{pack['pretrain']['format']}, benchmarks as {pack['held_out']['format']}. All settings are in `corpus.json` "
        "and `recipe.json`, what was done to each picture in its row (`sector`, `cleaned_fraction`, `flags`). "
        f"{_copies(plan.summary['corpus']['dedup'])}"
    )


def _copies(dedup: dict[str, Any]) -> str:
    """What became of copies, by the settings of the corpus."""
    if dedup["near"] == "drop":
        return "Exact and near copies were dropped, and pictures of benchmarks found among the others."
    near = " Near copies are joined in `cluster`." if dedup["near"] == "report" else ""
    return ("Exact copies were dropped." if dedup["exact"] else "Copies were not dropped.") + near


def _limits(plan: Plan, repository: Repository) -> str:
    audit = plan.summary["audit"]
    lines = [
        "- For research. Not a medical device; nothing here is validated for decisions about patients.",
        "- Sources differ in machines, hospitals, countries and quality; anatomies are not balanced, and most sources "
        "do not say how patients were chosen. Do not take the mix for a population.",
        "- Labels are those of the sources, not reviewed. Splits named in rows are as published; leaks found in them "
        "are told in `corpus.json`.",
        f"- {audit['searched']:,} of {audit['samples']:,} pictures of the corpus were searched for burned-in text by "
        f"OCR, and every row for names and dates: {sum(audit['counts'].values()):,} findings. A search is no proof: "
        "report what you find.",
    ]
    if plan.reviewed:
        lines.append(f"- A person reviewed the findings and says: {' '.join(plan.reviewed.split())}")
    notes = [(slug, note) for slug, entry in repository.sources.items() for note in entry.get("notes", ())]
    lines += [f"- {slug}: {note}" for slug, note in notes]
    return "\n".join(lines)
