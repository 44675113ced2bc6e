"""The plan of a publication: which samples go into which repository, by the gate, and how many bytes that is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openus.errors import CorpusError
from openus.manifest import PRETRAIN
from openus.publish.gate import CLASSES, RECIPE, Verdict, judge
from openus.publish.recipe import recipe_rows
from openus.shards.corpus import extension_of, read_corpus
from openus.shards.pack import MASK
from openus.shards.schema import ROW, VERBATIM
from openus.shards.writer import cut, sample_footprint, shard_bytes
from openus.storage.files import parquet_bytes, read_parquet


@dataclass(frozen=True)
class Repository:
    """One repository to be: the rows of each of its sets, in the order of the corpus, and its sources."""

    name: str
    to: str
    rows: dict[str, pa.Table]
    sources: dict[str, dict[str, Any]]
    """Entries of `corpus.json`, by slug."""
    account: str = "ORG"

    @property
    def address(self) -> str:
        """What the card calls it: its name on the Hub, or, where it goes elsewhere, what that could be."""
        return f"{self.account}/{self.name}"

    @property
    def pixels(self) -> bool:
        return self.to != RECIPE

    @property
    def samples(self) -> int:
        return sum(len(table) for name, table in self.rows.items() if not name.endswith(MASK))

    def counts(self) -> dict[str, int]:
        """Samples of each source, masks not counted."""
        counts = dict.fromkeys(self.sources, 0)
        for name, table in self.rows.items():
            if not name.endswith(MASK):
                for entry in table["source"].value_counts().to_pylist():
                    counts[entry["values"]] += entry["counts"]
        return counts


@dataclass(frozen=True)
class Plan:
    """What goes where. `home` lists, for each source whose pixels stay, how many samples and why."""

    root: Path
    name: str
    summary: dict[str, Any]
    repositories: tuple[Repository, ...]
    home: tuple[dict[str, Any], ...]
    permits: dict[str, str] = field(default_factory=dict)
    reviewed: str = ""

    @property
    def seed(self) -> int:
        return int(self.summary["corpus"]["seed"])

    @property
    def shard_bytes(self) -> int:
        return int(self.summary["corpus"]["pack"]["shard_bytes"])

    def extension(self, name: str) -> str:
        """Of the pictures of a set."""
        return extension_of(self.summary, name)


def make_plan(
    root: Path,
    name: str = "",
    permits: Mapping[str, str] | None = None,
    reviewed: str = "",
    account: str = "ORG",
) -> Plan:
    """Divide the samples of the corpus at `root` among repositories called `name` (the corpus's) and their class.

    `account` is whose they will be on the Hub.

    Raises:
        CorpusError: no corpus, or one that does not carry the manifests of its sources.
    """
    summary = read_corpus(root)
    sources = summary["sources"]
    if not sources or any("manifest" not in entry for entry in sources.values()):
        raise CorpusError(
            f"{root}: corpus.json does not hold the manifests of its sources (an older version wrote it); run the "
            "same 'openus build' again, which takes little where nothing has changed"
        )
    permits = dict(permits or {})
    name = name or str(summary["corpus"]["name"])
    rows = {part: _rows(root, entry) for part, entry in summary["sets"].items()}
    parts: dict[str, dict[str, pa.Table]] = {}
    home: dict[tuple[str, str], int] = {}
    for part, plain in rows.items():
        table = _with_verbatim(plain, part.endswith(MASK))
        verdicts = _verdicts(table, sources, permits)
        for to in {verdict.to for verdict in verdicts.values()}:
            chosen = _chosen(table, {facts for facts, verdict in verdicts.items() if verdict.to == to})
            parts.setdefault(to, {})[part] = chosen
        if not part.endswith(MASK):
            for facts, verdict in verdicts.items():
                if verdict.to == RECIPE:
                    count = len(_chosen(table, {facts}))
                    home[facts[0], verdict.reason] = home.get((facts[0], verdict.reason), 0) + count
    _drop_lone_masks(parts, home)
    repositories = tuple(
        Repository(f"{name}-{to}", to, parts[to], _of(parts[to], sources), account)
        for to in CLASSES
        if to in parts
    )
    stays = tuple(
        {"source": slug, "samples": count, "reason": reason} for (slug, reason), count in sorted(home.items())
    )
    return Plan(root, name, summary, repositories, stays, permits, reviewed)


def _rows(root: Path, part: dict[str, Any]) -> pa.Table:
    tables = [read_parquet(root / "manifest" / shard["manifest"]) for shard in part["shards"]]
    return pa.concat_tables(tables) if tables else ROW.empty_table()


_FACTS = ("source", "licence", "redistribution", "verbatim")
Facts = tuple[str, str, str, bool]


def _with_verbatim(table: pa.Table, masks: bool) -> pa.Table:
    """The rows and a column that tells pictures stored as published; a mask never is."""
    words = pc.match_substring_regex(table["flags"], rf"(^|,){VERBATIM}(,|$)")
    return table.append_column("verbatim", pc.and_(words, not masks))


def _verdicts(
    table: pa.Table, sources: Mapping[str, Any], permits: Mapping[str, str]
) -> dict[Facts, Verdict]:
    """The verdict of the gate on each combination of facts that the rows hold."""
    known = table.group_by(list(_FACTS), use_threads=False).aggregate([]).to_pylist()
    found = {}
    for row in sorted(known, key=lambda row: tuple(row[name] for name in _FACTS)):
        stated = sources[row["source"]]["manifest"]["licence"]["redistribution"]
        slug, licence, level, verbatim = (row[name] for name in _FACTS)
        found[slug, licence, level, verbatim] = judge(slug, licence, level, stated, verbatim, permits)
    return found


def _chosen(table: pa.Table, wanted: set[Facts]) -> pa.Table:
    mask = pa.array([False] * len(table))
    for facts in wanted:
        same = [pc.equal(table[name], value) for name, value in zip(_FACTS, facts, strict=True)]
        mask = pc.or_(mask, functools.reduce(pc.and_, same))
    return table.filter(mask).drop_columns(["verbatim"])


def _drop_lone_masks(parts: dict[str, dict[str, pa.Table]], home: dict[tuple[str, str], int]) -> None:
    """Masks whose pictures go up while they must not: a recipe without the pictures could not rebuild them."""
    recipe = parts.get(RECIPE, {})
    for name in [name for name in recipe if name.endswith(MASK)]:
        pictures = recipe.get(name.removesuffix(MASK), ROW.empty_table())
        paired = pc.is_in(recipe[name]["key"], value_set=pictures["key"].combine_chunks())
        for entry in recipe[name].filter(pc.invert(paired))["source"].value_counts().to_pylist():
            home[entry["values"], "masks of pictures that go up as published: masks are adapted"] = entry[
                "counts"
            ]
        recipe[name] = recipe[name].filter(paired)
    for to, tables in list(parts.items()):
        parts[to] = {name: table for name, table in tables.items() if len(table)}
        if not parts[to]:
            del parts[to]


def _of(parts: Mapping[str, pa.Table], sources: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    slugs = {slug for table in parts.values() for slug in table["source"].unique().to_pylist()}
    return {slug: entry for slug, entry in sources.items() if slug in slugs}


def split_of(name: str) -> str:
    """The split that the Hub shows of a set: `train` of what is for pretraining, `heldout` of a benchmark."""
    return "train" if name == PRETRAIN else "heldout"


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as plain values: each repository with its shards, bytes and sources; what stays at home and why.

    The bytes of shards are those the files will have; of a recipe, those of its rows as Parquet.
    """
    return {
        "corpus": plan.summary["corpus"]["name"],
        "repositories": [_describe(plan, repository) for repository in plan.repositories],
        "home": list(plan.home),
        "permits": dict(plan.permits),
    }


def _describe(plan: Plan, repository: Repository) -> dict[str, Any]:
    sets = {}
    pictures: dict[str, int] = dict.fromkeys(repository.sources, 0)
    for name, table in repository.rows.items():
        parts = cut([sample_footprint(size) for size in table["size"].to_pylist()], plan.shard_bytes)
        pieces = [table.slice(part.start, part.stop - part.start) for part in parts]
        if repository.pixels:
            total = sum(shard_bytes(piece.to_pylist()) for piece in pieces)
        else:
            total = sum(len(parquet_bytes(recipe_rows(piece, repository.sources))) for piece in pieces)
        sets[name] = {"samples": len(table), "files": len(pieces), "bytes": total}
        for slug, size in zip(table["source"].to_pylist(), table["size"].to_pylist(), strict=True):
            pictures[slug] += size
    counts = repository.counts()
    return {
        "repository": repository.name,
        "class": repository.to,
        "pixels": repository.pixels,
        "samples": repository.samples,
        "bytes": sum(entry["bytes"] for entry in sets.values()),
        "sets": sets,
        "sources": [
            {
                "source": slug,
                "licence": entry["licence"],
                "samples": counts[slug],
                "bytes": pictures[slug] if repository.pixels else 0,
            }
            for slug, entry in repository.sources.items()
        ],
    }
