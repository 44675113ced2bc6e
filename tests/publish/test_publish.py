"""A corpus of every licence, published into a folder: what goes where, what stays, what must come first."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm.data.readers.reader_wds as timm_reader
import yaml

from openus.errors import CorpusError
from openus.publish import gate
from openus.publish import plan as plan_of
from openus.publish.plan import make_plan
from openus.publish.stage import FOLDER, _check_gate
from openus.shards.writer import ShardInfo
from openus.storage.files import write_parquet
from tests.helpers.licensed import SOURCES
from tests.publish.conftest import Licensed, Run

REPOSITORIES = {
    "licensed-by": {"open-set", "bench-set"},
    "licensed-by-nc": {"nc-set"},
    "licensed-by-nc-nd": {"nd-set"},
    "licensed-recipe": {"nd-set", "closed-set", "own-terms"},
}


def pictures(root: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Each source's samples of a corpus: key and the bytes of the picture (masks too)."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted((root / "manifest").glob("*.parquet")):
        if path.stem in ("rejected", "duplicates"):
            continue
        tar = (root / path.stem.rsplit("-", 1)[0] / f"{path.stem}.tar").read_bytes()
        for row in pq.read_table(path).to_pylist():
            piece = tar[row["offset"] : row["offset"] + row["size"]]
            found.setdefault(row["source"], []).append((row["key"], piece))
    return found


def test_nothing_leaves_that_is_not_allowed(made: Licensed, published: Path) -> None:
    assert {path.name for path in published.iterdir()} == set(REPOSITORIES)
    sent = {
        name: b"".join(path.read_bytes() for path in sorted((published / name).rglob("*")) if path.is_file())
        for name in REPOSITORIES
    }
    flags = {row["key"]: row["flags"] for p in (made.root / "manifest").glob("pretrain-*") for row in
             pq.read_table(p).to_pylist()}  # fmt: skip
    gone = 0
    for slug, samples in pictures(made.root).items():
        for key, data in samples:
            verbatim = "verbatim" in flags.get(key, "").split(",")
            where = {
                "open-set": "licensed-by", "bench-set": "licensed-by", "nc-set": "licensed-by-nc",
                "nd-set": "licensed-by-nc-nd" if verbatim else "",
            }.get(slug, "")  # fmt: skip
            for name, everything in sent.items():
                assert (data in everything) == (name == where), (slug, key, name)
                if slug in REPOSITORIES[name] or name == "licensed-recipe":
                    continue
                assert key.encode() not in everything
            gone += bool(where)
    assert gone == 12 + 12 + 12 + 12 + 6  # open, bench and its masks, nc, half of nd
    assert not list((published / "licensed-recipe").rglob("*.tar"))
    assert b"labels" not in sent["licensed-recipe"] and b"patient\0" not in sent["licensed-recipe"]


def test_a_published_folder_is_a_corpus(published: Path, run: Run) -> None:
    for name in ("licensed-by", "licensed-by-nc", "licensed-by-nc-nd"):
        done = run("verify", published / name, "--deep")
        assert done.code == 0 and "every input is accounted for" in done.out, done.err + done.out
    rejected = pq.read_table(published / "licensed-by-nc-nd" / "manifest" / "rejected.parquet").to_pylist()
    assert [row["reason"] for row in rejected] == ["licence"] * 6


def test_the_index_and_what_other_readers_look_for(published: Path) -> None:
    for name in REPOSITORIES:
        folder = published / name
        done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        index = json.loads((folder / "index.json").read_text())["files"]
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert {p for p in there if not p.startswith(".work")} == {*index, "index.json", "SHA256SUMS"}
    folder = published / "licensed-by" / "pretrain"
    info = timm_reader._parse_split_info("train", timm_reader._load_info(str(folder)))
    assert info.num_samples == 12 and all((folder / file).exists() for file in info.filenames)
    assert json.loads((folder / "sizes.json").read_text()) == dict(zip(info.filenames, [6, 6], strict=True))


def test_the_card(published: Path) -> None:
    text = (published / "licensed-by" / "README.md").read_text()
    header: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "cc-by-4.0" and "webdataset" in header["tags"]
    assert [entry["config_name"] for entry in header["configs"]] == ["pretrain", "bench", "bench-mask"]
    assert header["configs"][0] == {
        "config_name": "pretrain", "default": True,
        "data_files": [{"split": "train", "path": "pretrain/pretrain-*.tar"}],
    }  # fmt: skip
    assert "10.1000/open-set" in text and "closed-set" not in text and "hf://datasets/ORG/licensed-by" in text
    assert (published / "licensed-by" / "pictures.png").exists()
    # A sheet of small pictures would be an adaptation; of a recipe there is nothing to show.
    for name in ("licensed-by-nc-nd", "licensed-recipe"):
        assert not (published / name / "pictures.png").exists()
        assert "pictures.png" not in (published / name / "README.md").read_text()
    other = yaml.safe_load((published / "licensed-recipe" / "README.md").read_text().split("---\n")[1])
    assert (other["license"], other["license_link"]) == ("other", "LICENSES.md")
    assert "100 \\% of it" in (published / "licensed-by" / "CITATIONS.bib").read_text()
    licences = (published / "licensed-by-nc" / "LICENSES.md").read_text()
    assert "CC-BY-NC-4.0" in licences and "The pictures were changed" in licences


def test_croissant(published: Path) -> None:
    for name, count in (("licensed-by", 12), ("licensed-recipe", 30)):
        path = published / name / "croissant.json"
        document = json.loads(path.read_text())
        assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
        for entry in document["distribution"]:
            data = (published / name / entry["contentUrl"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        dataset = mlcroissant.Dataset(str(path))  # raises where the document is not valid
        assert not dataset.metadata.ctx.issues.errors
        sets = [r.uuid for r in dataset.metadata.record_sets if r.uuid.startswith("pretrain")]
        records = [record for part in sets for record in dataset.records(part)]
        assert len(records) == count and f"{sets[0]}/sha256" in records[0]


def test_the_same_for_any_workers_and_nothing_is_sent_twice(
    corpus: Licensed, published: Path, run: Run, tmp_path: Path
) -> None:
    first = run("publish", corpus.root, "--to", tmp_path / "out", "--json")
    assert first.code == 0, first.err
    for name in REPOSITORIES:
        ours = (tmp_path / "out" / name / "index.json").read_bytes()
        assert ours == (published / name / "index.json").read_bytes()
    victim = next((tmp_path / "out" / "licensed-by" / "pretrain").glob("*.tar"))
    victim.write_bytes(b"broken")
    (tmp_path / "out" / "licensed-by" / "note.txt").write_text("a stranger's")
    again = run("publish", corpus.root, "--to", tmp_path / "out", "--json")
    assert [entry["sent"] for entry in json.loads(again.out)["published"]] == [
        2,
        1,
        1,
        1,
    ]  # the index, and the victim
    assert len(victim.read_bytes()) > 1000 and (tmp_path / "out" / "licensed-by" / "note.txt").exists()


def test_dry_run_tells_the_bytes_and_does_nothing(corpus: Licensed, published: Path, run: Run) -> None:
    done = run("publish", corpus.root, "--to", "hf://ORG/lic", "--dry-run", "--json")
    facts = json.loads(done.out)
    assert done.code == 0 and not (corpus.root / FOLDER).exists() and facts["lacking"] == []
    assert [entry["to"] for entry in facts["repositories"]] == [
        f"ORG/lic-{to}" for to in ("by", "by-nc", "by-nc-nd", "recipe")
    ]
    for entry in facts["repositories"]:
        pattern = "*/*.tar" if entry["pixels"] else "rows/*.parquet"
        name = f"licensed-{entry['class']}"
        assert entry["bytes"] == sum(p.stat().st_size for p in (published / name).glob(pattern)), name
        assert {source["source"] for source in entry["sources"]} == REPOSITORIES[name]
    home = {entry["source"]: entry for entry in facts["home"]}
    assert {slug: entry["samples"] for slug, entry in home.items()} == {
        "closed-set": 12, "nd-set": 6, "own-terms": 12,
    }  # fmt: skip
    assert "none that is known to allow" in home["own-terms"]["reason"]
    text = run("publish", corpus.root, "--to", "hf://ORG/lic", "--dry-run").out
    for words in (
        "hf://ORG/lic-by-nc: ",
        "no pixels; rows from which",
        "CC-BY-NC-4.0",
        "Nothing was written or sent",
    ):
        assert words in text


def test_what_must_come_first(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    path = corpus.root / "corpus.json"
    whole = path.read_text()

    def refused(*words: str) -> str:
        done = run("publish", corpus.root, "--to", tmp_path / "out", *words)
        assert done.code == 1 and not (tmp_path / "out").exists() and not (corpus.root / FOLDER).exists()
        return done.err

    path.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != "audit"}))
    assert "nobody has looked for text and names in it; run: openus audit" in refused()
    path.write_text(whole)
    record = corpus.root / ".work" / "verified.json"
    kept = record.read_text()
    record.unlink()
    assert "has not passed verification; run: openus verify" in refused()
    record.write_text(kept)
    facts = json.loads(whole)
    facts["audit"]["counts"] = {"text": 3}
    path.write_text(json.dumps(facts))
    assert "the audit found 3 pictures with text" in refused() and "--reviewed" in refused()
    other = json.loads(whole)
    other["audit"]["of"] = "other shards"
    path.write_text(json.dumps(other))
    assert "its shards have changed since the audit; run: openus audit" in refused(
        "--reviewed", "Scales only"
    )
    path.write_text(json.dumps(facts))
    done = run(
        "publish",
        corpus.root,
        "--to",
        tmp_path / "ok",
        "--class",
        "by",
        "--reviewed",
        "Scales only, no names",
        "--name",
        "mine",
    )
    assert done.code == 0, done.err
    assert "Scales only, no names" in (tmp_path / "ok" / "mine-by" / "README.md").read_text()


def test_a_shard_touched_since_is_noticed(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    shard = corpus.root / "pretrain" / "pretrain-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    before = shard.stat()
    shard.write_bytes(data)
    done = run("publish", corpus.root, "--to", tmp_path / "out")
    assert done.code == 1 and "have changed since they were verified" in done.err
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))  # even where size and time are the same
    done = run("publish", corpus.root, "--to", tmp_path / "out")
    assert done.code == 1 and "is not the one its row" in done.err and not (tmp_path / "out").exists()
    assert run("verify", corpus.root).code == 1


def test_the_salt_of_the_pseudonyms_stays_at_home(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    """With it, whoever knows a patient's number could find the patient in the published rows."""
    path = corpus.root / "corpus.json"
    facts = json.loads(path.read_text())
    facts["corpus"]["salt"] = "pepper-of-the-house"
    path.write_text(json.dumps(facts))
    done = run("publish", corpus.root, "--to", tmp_path / "out", "--class", "by", "--class", "recipe")
    assert done.code == 0, done.err
    sent = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(sent) > 10 and not any(b"pepper-of-the-house" in file.read_bytes() for file in sent)
    recipe = json.loads((tmp_path / "out" / "licensed-recipe" / "recipe.json").read_text())
    assert recipe["salted"] and recipe["corpus"]["salt"] == ""


def test_masks_alone_are_in_no_recipe(made: Licensed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the benchmark's pictures stored as published, and its terms allowed no more than that."""

    def strict(slug: str, licence: str, level: str, *rest: Any) -> gate.Verdict:
        return gate.judge(slug, licence, "verbatim-only" if slug == "bench-set" else level, *rest)

    def verbatim(table: pa.Table, masks: bool) -> pa.Table:
        return table.append_column("verbatim", pa.array([not masks] * len(table)))

    monkeypatch.setattr(plan_of, "judge", strict)
    monkeypatch.setattr(plan_of, "_with_verbatim", verbatim)
    plan = plan_of.make_plan(made.root)
    homes = {name: repository.to for repository in plan.repositories for name in repository.rows}
    assert not any(name.endswith("-mask") for name in homes) and "by" in homes.values()
    reasons = [entry["reason"] for entry in plan.home if entry["source"] == "bench-set"]
    assert reasons == ["masks of pictures that go up as published: masks are adapted"]


def test_the_last_look_finds_a_sample_that_got_past_the_gate(made: Licensed, tmp_path: Path) -> None:
    """A repository of pictures under attribution that is told to be of another class, and one with other rows."""
    plan = make_plan(made.root)
    (free,) = (repository for repository in plan.repositories if repository.to == "by")
    rows = {"pretrain": free.rows["pretrain"]}
    entries = {shard["file"]: shard for shard in plan.summary["sets"]["pretrain"]["shards"]}
    shards = {"pretrain": [ShardInfo(**entry) for entry in entries.values()]}
    kept = pa.concat_tables(
        [pq.read_table(made.root / "manifest" / entry["manifest"]) for entry in entries.values()]
    )
    everything = replace(free, rows={"pretrain": kept})  # the corpus's own shards hold what must not go up
    with pytest.raises(CorpusError, match=r"must not go to licensed-by"):
        _check_gate(plan, everything, made.root, shards)
    with pytest.raises(CorpusError, match="is not the one its row describes"):
        _check_gate(plan, replace(free, rows=rows), made.root, shards)


def test_the_last_look_knows_what_is_as_published(made: Licensed, tmp_path: Path) -> None:
    """Without derivatives go the files themselves, and no mask, whatever its flags say."""
    plan = make_plan(made.root)
    (verbatim,) = (repository for repository in plan.repositories if repository.to == "by-nc-nd")
    rows = verbatim.rows["pretrain"]
    place = rows.schema.get_field_index("flags")
    adapted = rows.set_column(place, rows.schema.field(place), pa.array(["flat"] * len(rows), pa.string()))
    info = ShardInfo("a.tar", 0, len(rows), "", "a.parquet", "")
    for name, table, right in (
        ("pretrain", rows, True),
        ("pretrain", adapted, False),
        ("bench-mask", rows, False),
    ):
        write_parquet(tmp_path / "manifest" / "a.parquet", table)
        refused = pytest.raises(CorpusError, match="must not go to licensed-by-nc-nd")
        with nullcontext() if right else refused:
            _check_gate(plan, replace(verbatim, rows={name: table}), tmp_path, {name: [info]})


def test_a_permission_is_written_into_the_card(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    words = "By mail of 3 May 2026 the owners allow redistribution under CC BY 4.0."
    done = run("publish", corpus.root, "--to", tmp_path / "out", "--allow", f"closed-set={words}")
    assert done.code == 0, done.err
    folder = tmp_path / "out" / "licensed-permitted"
    card, licences = (folder / "README.md").read_text(), (folder / "LICENSES.md").read_text()
    assert f"> {words}" in card and f"> {words}" in licences and "license: other" in card
    assert run("verify", folder).code == 0
    recipe = json.loads((tmp_path / "out" / "licensed-recipe" / "recipe.json").read_text())
    assert set(recipe["sources"]) == {"nd-set", "own-terms"}
    done = run("publish", corpus.root, "--to", tmp_path / "out", "--allow", "closed-set=ok")
    assert done.code == 2 and "give the words of the licence" in done.err


def test_wrong_use(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    for words, said in (
        (("--to", "hf://justaname"), "expected hf://ORG/NAME"),
        (("--to", "https://example.org/x"), "cannot be written to"),
        (("--to", tmp_path / "x", "--class", "bi"), "did you mean 'by'"),
        (("--to", "nosuch://x/y"), "addresses of this kind are not known"),
    ):
        done = run("publish", corpus.root, *words)
        assert done.code == 2 and said in done.err, done.err
    done = run("publish", tmp_path / "none", "--to", tmp_path / "x")
    assert done.code == 1 and "no such folder" in done.err


def test_a_full_disk(corpus: Licensed, run: Run, tmp_path: Path) -> None:
    """What is written to /dev/full fails as on a disk without room."""
    place = tmp_path / "out" / "licensed-by" / "pretrain"
    place.mkdir(parents=True)
    (place / ".pretrain-000001.tar.part").symlink_to("/dev/full")
    done = run("publish", corpus.root, "--to", tmp_path / "out", "--class", "by")
    assert done.code == 1 and "no space left there" in done.err and "run it again" in done.err
    assert not (tmp_path / "out" / "licensed-by" / "index.json").exists()
    (place / ".pretrain-000001.tar.part").unlink()
    assert run("publish", corpus.root, "--to", tmp_path / "out", "--class", "by").code == 0
    assert set(SOURCES) >= {"open-set"} and (tmp_path / "out" / "licensed-by" / "index.json").exists()
