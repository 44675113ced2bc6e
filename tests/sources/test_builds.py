"""All miniatures through the whole build: every picture kept is the picture it claims to be."""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from openus.catalogue import Catalogue
from openus.manifest import Corpus, Encoding
from openus.shards.pack import MASK
from openus.shards.schema import sample_json
from openus.shards.verify import verify
from openus.stages.build import BuildOptions, build
from openus.stages.results import BuildResult
from tests.sources.conftest import Make
from tests.sources.hosting import overlaid
from tests.sources.miniature import MINIATURES, Expectation, Pixels
from tests.sources.packing import Packed, pack
from tests.sources.trees_12_23 import UNPICKLED

CATALOGUE = Catalogue()
LOSSY = (".jpg", ".jpeg", ".mp4", ".avi", ".mov", ".webm", ".mpg", ".mpeg", ".gif", ".dcm")

Row = dict[str, Any]


def lossless_corpus() -> Corpus:
    """OpenUS-46 with its settings, except that shards hold PNG, so that pixels can be compared."""
    corpus = CATALOGUE.corpus("openus-46")
    png = Encoding(format="png")
    return corpus.model_copy(
        update={"pack": corpus.pack.model_copy(update={"pretrain": png, "held_out": png})}
    )


@dataclass
class Built:
    """A finished build, by source."""

    result: BuildResult
    rows: dict[str, list[Row]]
    masks: dict[str, bytes]
    rejected: dict[str, list[Row]]

    def picture(self, row: Row) -> Pixels:
        data = (self.result.out / row["set"] / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        return np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.uint8)


def read(result: BuildResult) -> Built:
    rows: dict[str, list[Row]] = defaultdict(list)
    rejected: dict[str, list[Row]] = defaultdict(list)
    masks: dict[str, bytes] = {}
    for path in sorted((result.out / "manifest").glob("*.parquet")):
        if path.name == "duplicates.parquet":
            continue
        for row in pq.read_table(path).to_pylist():
            if path.name == "rejected.parquet":
                rejected[row["source"]].append(row)
            elif row["set"].endswith(MASK) or MASK in path.name:
                shard = (result.out / path.name.rsplit("-", 1)[0] / row["shard"]).read_bytes()
                masks[row["key"]] = shard[row["offset"] :][: row["size"]]
            else:
                rows[row["source"]].append(row)
    return Built(result, rows, masks, rejected)


@pytest.fixture(scope="session")
def from_folders(made: Make, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All sources at once, each from the folder a person would have unpacked."""
    out = tmp_path_factory.mktemp("build") / "corpus"
    options = BuildOptions(
        out.parent / "cache", local={slug: made(slug)[0] for slug in MINIATURES}, offline=True
    )
    return read(build(out, lossless_corpus(), CATALOGUE, options, list(MINIATURES)))


@pytest.fixture(scope="session")
def from_archives(made: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, dict[str, Packed]]:
    """All sources at once, each from what its host offers, left in the drop folder."""
    root = tmp_path_factory.mktemp("packed")
    held: dict[str, Packed] = {}
    (root / "manifests").mkdir()
    for slug in MINIATURES:
        tree, expected = made(slug)
        held[slug] = pack(tree, expected, root / "cache" / slug)
        source = CATALOGUE.source(slug)
        files = {name: path.read_bytes() for name, path in held[slug].files.items()}
        fitted = [overlaid(source, route, files).routes[0] for route in source.routes]
        own = source.model_copy(update={"routes": tuple(fitted)}).model_dump(mode="json", by_alias=True)
        (root / "manifests" / f"{slug}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    catalogue = Catalogue(root / "manifests")
    result = build(
        root / "corpus",
        lossless_corpus(),
        catalogue,
        BuildOptions(root / "cache", offline=True),
        list(MINIATURES),
    )
    return read(result), held


def check_kept(slug: str, built: Built, expected: Expectation, members: dict[str, str] | None = None) -> None:
    """Exactly the expected frames were kept, and each one looks like what was written under its name."""
    kept = {
        (members[row["member"]] if members else row["member"], row["index"]): row for row in built.rows[slug]
    }
    wanted = {
        (member, index): pixels
        for member, sample in expected.samples.items()
        if not sample.repeat
        for index, pixels in sample.pixels.items()
    }
    assert set(kept) == set(wanted)
    for (member, index), row in kept.items():
        found, pixels = built.picture(row), wanted[member, index]
        assert found.shape == pixels.shape, (member, index)
        away = np.abs(found.astype(int) - pixels).mean()
        assert away <= (8 if member.lower().endswith(LOSSY) else 1.5), (
            f"{member} [{index}] is another picture: {away}"
        )


@pytest.mark.parametrize("slug", MINIATURES)
def test_kept_pictures(slug: str, made: Make, from_folders: Built) -> None:
    expected = made(slug)[1]
    problem = next((r.problem for r in from_folders.result.results if r.source.slug == slug), None)
    assert problem is None, problem
    check_kept(slug, from_folders, expected)


@pytest.mark.parametrize("slug", MINIATURES)
def test_archives_give_the_same_pictures(
    slug: str, made: Make, from_archives: tuple[Built, dict[str, Packed]]
) -> None:
    built, held = from_archives
    problem = next((r.problem for r in built.result.results if r.source.slug == slug), None)
    assert problem is None, problem
    members = held[slug].members({row["member"] for row in built.rows[slug]})
    check_kept(slug, built, replace(made(slug)[1], samples=held[slug].samples), members)


@pytest.mark.parametrize("slug", MINIATURES)
def test_rows_say_what_the_manifest_says(slug: str, made: Make, from_folders: Built) -> None:
    expected, source = made(slug)[1], CATALOGUE.source(slug)
    # Cine loops come as NIfTI too, single pictures as MetaImage, and two sources mix pictures and clips.
    kinds = {"image": {"image", "slice"}, "video": {"image", "frame", "slice"}, "volume": {"slice"}}[
        source.kind
    ]
    for row in from_folders.rows[slug]:
        sample = expected.samples[row["member"]]
        assert dict(row["labels"]) == dict(sample.labels)
        assert row["split"] == sample.split
        assert (row["anatomy"], row["licence"]) == (source.anatomy, source.licence.name)
        assert row["redistribution"] == source.licence.redistribution
        assert row["set"] == lossless_corpus().held_out.get(slug, "pretrain")
        assert row["kind"] in kinds
        assert bool(row["patient"]) == bool(sample.patient)
        assert sample_json(row)


@pytest.mark.parametrize("slug", MINIATURES)
def test_every_file_and_frame_is_accounted_for(slug: str, made: Make, from_folders: Built) -> None:
    expected = made(slug)[1]
    facts = from_folders.result.summary["sources"][slug]
    assert facts["members"]["found"] == facts["members"]["selected"] + facts["members"]["excluded"]
    assert facts["members"]["selected"] == len(expected.samples)
    assert facts["frames"]["decoded"] == facts["frames"]["kept"] + facts["frames"]["rejected"]
    gone = {row["member"] for row in from_folders.rejected[slug] if row["stage"] == "dedup"}
    assert gone == {member for member, sample in expected.samples.items() if sample.repeat}
    assert not [row for row in from_folders.rejected[slug] if row["stage"] == "decode"]
    listed = {row["member"] for row in from_folders.rejected[slug] if row["stage"] == "select"}
    assert all(any(path == m or path.endswith(f"/{m}") for m in listed) for path in expected.never)


@pytest.mark.parametrize("slug", sorted(set(lossless_corpus().held_out) & set(MINIATURES)))
def test_masks_of_held_out_sets(slug: str, made: Make, from_folders: Built) -> None:
    samples = made(slug)[1].samples
    for row in from_folders.rows[slug]:
        drawn = samples[row["member"]].drawn
        if not samples[row["member"]].mask and drawn is None:
            assert row["key"] not in from_folders.masks
            continue
        mask = np.asarray(Image.open(io.BytesIO(from_folders.masks[row["key"]])))
        if drawn is not None:
            assert np.array_equal(mask, drawn)
            continue
        stored = np.asarray(Image.open(made(slug)[0] / samples[row["member"]].mask).convert("L"))
        assert np.array_equal(mask > 0, stored > 127)


def test_nobody_opens_a_pickle(made: Make, from_folders: Built) -> None:
    assert from_folders.rows["fass"]
    assert not (made("fass")[0] / UNPICKLED).exists()


def test_the_corpus_is_sound(from_folders: Built) -> None:
    verdict = verify(from_folders.result.out, deep=True)
    assert verdict.problems == []
    assert verdict.samples == sum(map(len, from_folders.rows.values())) + len(from_folders.masks)
    assert not from_folders.result.missing
