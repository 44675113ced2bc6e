"""Recipes: rows without pixels, and what it takes to build the very same shards from them where the data are.

A recipe is `recipe.json` (the corpus's settings, the manifests of the sources, the route each came by, the SHA-256
of every shard) and, for each shard, a Parquet file of rows: key, where the sample comes from, its hashes, split and
cluster. `openus build OUT --from-recipe REPO` takes what is kept from the rows, so that no other source is needed
to decide on duplicates, and compares the shards it made with the hashes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from openus import __version__
from openus.catalogue import parse
from openus.errors import CorpusError, OpenUSError, UsageError
from openus.manifest import Corpus, Source
from openus.shards.pack import MASK
from openus.shards.schema import ROW
from openus.shards.writer import ShardInfo
from openus.storage.files import read_parquet, write_bytes
from openus.storage.places import Place

NAME = "recipe.json"
VERSION = 1
SALT = "OPENUS_SALT"
_FIELDS = (
    "key", "set", "source", "anatomy", "kind", "member", "index", "split", "width", "height", "sha256",
    "pixel_sha256", "phash", "cluster", "licence", "redistribution",
)  # fmt: skip
ROWS = pa.schema([ROW.field(name) for name in _FIELDS] + [pa.field("route", pa.string(), nullable=False)])
# What the bytes of a shard depend on besides our own code.
_PACKAGES = ("av", "nibabel", "numpy", "opencv-python-headless", "pydicom", "simpleitk", "simplejpeg")


def recipe_rows(table: pa.Table, sources: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """The rows of a recipe (schema ROWS): no labels, patients or byte ranges, but the route of the source."""
    routes = [str(sources[slug]["route"]) for slug in table["source"].to_pylist()]
    return (
        table.select(list(_FIELDS))
        .append_column(ROWS.field("route"), pa.array(routes, pa.string()))
        .cast(ROWS)
    )


def packages() -> dict[str, str]:
    """Versions of the packages that decode and encode."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def recipe_json(
    corpus: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, Any]],
    shards: Mapping[str, Sequence[tuple[ShardInfo, str, str]]],
) -> bytes:
    """`recipe.json`: `shards` are, for each set, (shard, name of its file of rows, SHA-256 of that)."""
    facts = {
        "recipe": VERSION,
        "openus": __version__,
        "packages": packages(),
        "corpus": {**corpus, "salt": ""},
        "salted": bool(corpus.get("salt")),
        "sources": {slug: entry["manifest"] for slug, entry in sources.items()},
        "routes": {slug: entry["route"] for slug, entry in sources.items()},
        "sets": {
            name: [
                {
                    "file": info.file,
                    "bytes": info.bytes,
                    "samples": info.samples,
                    "sha256": info.sha256,
                    "manifest_sha256": info.manifest_sha256,
                    "rows": rows,
                    "rows_sha256": digest,
                }
                for info, rows, digest in parts
            ]
            for name, parts in shards.items()
        },
    }
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and checked. `clusters`: key of each kept sample to its duplicate cluster."""

    place: str
    facts: dict[str, Any]
    corpus: Corpus
    sources: tuple[Source, ...]
    rows: dict[str, pa.Table]
    clusters: dict[str, str]


def repository(text: str) -> str:
    """`ORG/NAME`, `hf://ORG/NAME` or a folder or URL, as an address that `Place` reads."""
    if text.startswith("hf://") and not text.startswith("hf://datasets/"):
        return "hf://datasets/" + text.removeprefix("hf://")
    if "://" in text or Path(text).exists() or text.count("/") != 1 or text.startswith((".", "~", "/")):
        return str(Path(text).expanduser()) if "://" not in text else text
    return f"hf://datasets/{text}"


def read_recipe(text: str) -> Recipe:
    """Read a recipe from a folder, a URL or a repository of the Hub.

    Raises:
        CorpusError: there is none, it is damaged, or made by another version of the format.
        UsageError: the corpus was made with a secret salt, and $OPENUS_SALT does not hold it.
    """
    place = Place(repository(text))
    try:
        facts = json.loads(place.read(NAME))
        version = facts["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{place.at(NAME)}: not a recipe ({error})") from error
    if version != VERSION:
        raise CorpusError(
            f"{place.at(NAME)}: recipe format {version!r}; this version of openus reads {VERSION}"
        )
    try:
        salt = os.environ.get(SALT, "")
        if facts["salted"] and not salt:
            raise UsageError(
                f"{place}: its pseudonyms were made with a secret salt, and the shards hold them; give it in ${SALT}"
            )
        corpus = parse({**facts["corpus"], "salt": salt}, Corpus, place.at(NAME))
        sources = tuple(
            parse(entry, Source, f"{place.at(NAME)}: {slug}") for slug, entry in facts["sources"].items()
        )
        rows = {
            name: [_rows(place, part["rows"], part["rows_sha256"]) for part in parts]
            for name, parts in facts["sets"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{place.at(NAME)}: damaged ({type(error).__name__}: {error})") from error
    tables = {name: pa.concat_tables(parts) for name, parts in rows.items() if parts}
    clusters: dict[str, str] = {}
    for name, table in tables.items():
        if not name.endswith(MASK):
            clusters.update(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    return Recipe(str(place), facts, corpus, sources, tables, clusters)


def _rows(place: Place, name: str, digest: str) -> pa.Table:
    if name.startswith("/") or ".." in name.split("/"):
        raise CorpusError(f"{place.at(NAME)}: '{name}' leads out of the recipe")
    data = place.read(name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorpusError(f"{place.at(name)}: its bytes are not the ones the recipe names; fetch it again")
    try:
        return read_parquet(data, ["key", "source", "cluster", "sha256", "pixel_sha256"])
    except (ValueError, KeyError, OpenUSError) as error:
        raise CorpusError(f"{place.at(name)}: not a table of rows ({error})") from error


def write_manifests(recipe: Recipe, folder: Path) -> Path:
    """The manifests of a recipe's sources as files, for a `Catalogue`; returns the folder."""
    for source in recipe.sources:
        text = source.model_dump_json(by_alias=True, exclude_defaults=True, indent=1)
        write_bytes(folder / "sources" / f"{source.slug}.yaml", text.encode())
    return folder


@dataclass(frozen=True)
class Proof:
    """How a build compares with its recipe. `lacking` and `differing`: samples by source."""

    shards: int
    identical: int
    lacking: dict[str, int]
    differing: dict[str, int]
    packages: dict[str, tuple[str, str]]
    """Versions (the recipe's, ours) of packages that differ."""

    @property
    def holds(self) -> bool:
        return self.identical == self.shards


def prove(recipe: Recipe, out: Path, shards: Mapping[str, Sequence[ShardInfo]]) -> Proof:
    """Compare the shards of `out` with the hashes of the recipe; where they differ, find the samples that do."""
    total = same = 0
    lacking: dict[str, int] = {}
    differing: dict[str, int] = {}
    for name, parts in recipe.facts["sets"].items():
        made = {info.file: info for info in shards.get(name, ())}
        equal = [part["file"] in made and made[part["file"]].sha256 == part["sha256"] for part in parts]
        total, same = total + len(parts), same + sum(equal)
        if all(equal):
            continue
        hashes: dict[str, str] = {}
        for info in made.values():
            table = read_parquet(out / "manifest" / info.manifest, ["key", "sha256"])
            hashes.update(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
        wanted = recipe.rows[name]
        for key, slug, digest in zip(
            *(wanted[n].to_pylist() for n in ("key", "source", "sha256")), strict=True
        ):
            if key not in hashes:
                lacking[slug] = lacking.get(slug, 0) + 1
            elif hashes[key] != digest:
                differing[slug] = differing.get(slug, 0) + 1
    ours = packages()
    theirs = recipe.facts.get("packages", {})
    other = {
        name: (theirs[name], ours.get(name, "none")) for name in theirs if theirs[name] != ours.get(name)
    }
    return Proof(total, same, lacking, differing, other)
